"""The site: what it says, what it must not obey, and how it works in a real browser."""

import json
import re
import shutil
import time
from base64 import b64decode
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import torch
from nbformat import read, v4, write
from PIL import Image
from scipy.stats import ttest_1samp, ttest_ind

from atomlib.datasets import known
from atomlib.distilled_set import DistilledSet
from atomlib.methods import ATOM, METHODS, UnknownMethod
from atomlib.report import findings
from atomlib.report.findings import SIGNS, against_published
from atomlib.report.folder import ReportFolder
from atomlib.report.published import published
from atomlib.report.readable import main as readable
from atomlib.report.tables import main_table
from atomlib.report.writing import as_markdown, write_table
from atomlib.runtime import files
from atomlib.runtime.files import atomic_folder, read_record, write_record
from atomlib.runtime.layout import Layout
from atomlib.site import api
from atomlib.site.build import MARKER, build
from atomlib.site.notebook_page import markdown, mathml, parts, read_html, read_markdown
from atomlib.site.report_pages import FIGURES, natural, sort_key
from atomlib.site.verdict import nearness, settings_in_words, verdict
from atomlib.training import EvalConfig
from tests.test_environment import ROOT
from tests.test_report import record

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'
HOSTILE_TEXT = f"{HOSTILE} [link](javascript:alert(3)) $\\text{{<script>alert(4)</script>}}$"


def saved(data, reports, iterations=30, method="atom", **settings):
    """Write the sets of a run, after 0 and all iterations, and their records; the latter."""
    settings |= {"ipc": 2, "width": 8} | ({"iterations": iterations} if iterations else {})
    config = METHODS[method](**settings).resolve(data)
    records = []
    for step in (0, iterations) if iterations else (0,):
        own = config.at(step) if iterations else config
        trained = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        made = DistilledSet(
            trained.clone(), trained, torch.arange(3).repeat_interleave(2), own, data.name,
            data.fingerprint, data.class_names, {"torch": "9.9"}, history=[(0, 2.0), (step, 1.0)],
        )  # fmt: skip
        made.save(reports / "distilled" / f"{made.stem}.safetensors")
        run = {"seconds": 1.5, "hardware": HOSTILE, "versions": {"torch": "9.9"}}
        run |= {"revision": 1, "given": []}
        records.append(
            {
                "name": made.stem, "dataset": data.name, "data": data.fingerprint,
                "method": own.name, "ipc": 2, "seed": own.seed, "variant": own.variant,
                "distill": own.model_dump(mode="json"), "distillation": run,
                "evaluate": EvalConfig().resolve(8).model_dump(mode="json"),
                "accuracies": [40.0 + step, 42.0 + step], "evaluation": run,
            }
        )  # fmt: skip
        write_record(reports / "results" / f"{made.stem}.json", records[-1])
    return records


@pytest.fixture
def small(tmp_path, make_data, monkeypatch):
    """A folder of reports with one, "small": two methods, one with a checkpoint, one notebook."""
    monkeypatch.chdir(tmp_path)
    reports, data = tmp_path / "reports" / "small", make_data("toy")
    records = [
        *saved(data, reports, method="random", iterations=0),
        *saved(data, reports, method="atom"),
    ]
    table = main_table(records)
    write_table(table, reports, "main_table", f"The note. {HOSTILE}")
    (reports / "figures").mkdir()
    Image.new("RGB", (4, 3)).save(reports / "figures" / "main_table.png")
    shown = readable(table).to_markdown(index=False, disable_numparse=True)
    outputs = [
        v4.new_output("execute_result", {"text/markdown": shown}),
        v4.new_output("stream", name="stdout", text=HOSTILE),
        v4.new_output("display_data", {"text/html": HOSTILE, "text/plain": "plain words"}),
        v4.new_output("display_data", {"text/markdown": HOSTILE_TEXT}),
    ]
    picture = v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
    words = as_markdown(findings.as_table(findings.findings(records)))
    tested = v4.new_output("execute_result", {"text/markdown": words})
    notebook = v4.new_notebook(
        cells=[
            v4.new_markdown_cell(f"# A title {HOSTILE}\n\n{HOSTILE_TEXT}"),
            v4.new_markdown_cell("[the code](../atomlib/augmentation.py)"),
            v4.new_code_cell("number = 1", metadata={"tags": ["parameters"]}),
            v4.new_code_cell("number = 2", metadata={"tags": ["injected-parameters"]}),
            v4.new_code_cell("table", outputs=outputs),
            v4.new_code_cell(
                'figures.write_figure(figures.one(2), output, "main_table");', outputs=[picture]
            ),
            v4.new_markdown_cell("## What it shows\n\nThis."),
            v4.new_code_cell("tests", outputs=[tested]),
            v4.new_code_cell("last", outputs=[v4.new_output("stream", name="stdout", text="end")]),
        ]
    )  # fmt: skip
    (reports / "notebooks").mkdir()
    write(notebook, reports / "notebooks" / "01_one.ipynb")
    return tmp_path


class Page(HTMLParser):
    """The elements of a page, as (name, attributes)."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements, self.path = [], path
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    @property
    def ids(self):
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]

    def targets(self):
        """(element, where it leads), of all that a browser would load or follow."""
        for tag, attrs in self.elements:
            if attrs.get("property") == "og:image":
                yield tag, attrs["content"]
            for name in ("href", "src", "srcset", "action", "data", "poster"):
                if attrs.get(name):
                    yield tag, attrs[name]
            for place in re.findall(r"url\('?([^')]+)'?\)", attrs.get("style", "")):
                yield "style", place
            for step in json.loads(attrs.get("data-steps", "[]")):
                yield "style", step["sheet"]


def faults(site: Path) -> list[str]:
    """Dead links, anchors that are not there or twice there, and anything of another host."""
    pages = {path: Page(path) for path in sorted(site.resolve().rglob("*.html"))}
    found = []
    for path, page in pages.items():
        found += [
            f"{path.name}: id {i} twice" for i in {i for i in page.ids if page.ids.count(i) > 1}
        ]
        for tag, target in page.targets():
            parts = urlsplit(target)
            if parts.scheme in ("http", "https") and tag == "a":
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc or not place.is_file():
                found.append(f"{path.name}: {tag} leads to {target}")
            elif parts.fragment and unquote(parts.fragment) not in pages[place].ids:
                found.append(f"{path.name}: {target} has no such place")
    for style in (site / "style.css", site / "page.js"):
        if re.search(r"//[\w.]+/|@import|url\((?!\")", style.read_text()):
            found.append(f"{style.name} loads something")
    return found


# What the pages say


def test_the_site_is_whole_and_every_link_leads_somewhere(small):
    site = build()
    assert site == Path("build/site")
    assert {p.name for p in (site / "small").glob("*.html")} == {
        "01_one.html", "gallery.html", "runs.html",
    }  # fmt: skip
    assert faults(site) == []
    assert (site / "small/main_table.csv").read_bytes() == (
        small / "reports/small/main_table.csv"
    ).read_bytes()
    assert "small/runs.html#toy-atom-ipc2-seed0" in (site / "index.html").read_text()
    assert [p.name for p in (small / "build").iterdir()] == ["site"]


def test_links_to_a_report_of_any_name_lead_there(small):
    """From the front page too, whose figures and files of a table are of every kind."""
    report = (small / "reports/small").rename(small / "reports/my report & #1?")
    for name in ("cost", "learning_curve"):
        shutil.copy(report / "figures/main_table.png", report / f"figures/{name}.png")
    (report / "main_table.tex").write_text("")
    site = build()
    assert faults(site) == []
    assert 'href="my%20report%20%26%20%231%3F/main_table.csv"' in (site / "index.html").read_text()


def test_a_report_of_other_authors_sets_alone_has_no_empty_pages(small):
    other = small / "reports/other"
    shutil.copytree(small / "reports/small/notebooks", other / "notebooks")
    site = build()
    assert {p.name for p in (site / "other").glob("*.html")} == {"01_one.html"}
    assert faults(site) == []
    assert not (site / "speed.html").exists()  # nothing was measured here


def test_the_checker_of_links_finds_what_is_broken(small):
    site = build()
    (site / "style.css").write_text("@import 'x'")
    page = (site / "index.html").read_text()
    (site / "index.html").write_text(
        page + '<a href="gone.html"></a><a href="#gone"></a><img src="https://a.b/c.png">'
        '<p id="main"></p>'
    )
    assert len(faults(site)) == 5


def test_nothing_that_a_report_says_is_obeyed(small):
    site = build()
    for path in site.rglob("*.html"):
        page = Page(path)
        scripts = [attrs for tag, attrs in page.elements if tag == "script"]
        assert [set(attrs) for attrs in scripts] == [{"src", "defer"}]
        assert scripts[0]["src"].endswith("page.js")
        assert not [attrs for _, attrs in page.elements if any(a.startswith("on") for a in attrs)]
        assert not [target for _, target in page.targets() if "javascript:" in target]
    text = (site / "small/01_one.html").read_text()
    assert text.count("&lt;script&gt;alert(1)") >= 4  # shown, and not left out
    assert "plain words" in text
    assert "&lt;script&gt;alert(1)" in (site / "small/runs.html").read_text()
    assert "&lt;script&gt;alert(1)" in (site / "index.html").read_text()


def test_a_run_says_its_settings_changes_and_accuracies(small):
    build()
    text = Path("build/site/small/runs.html").read_text()
    article = text.split('id="toy-atom-ipc2-seed0"')[1].split("All settings")[0]
    for part in ("71.0 ± 1.0", "70.0, 72.0", "iterations 30 (paper: 8000)", "Reduced", "1.5 s"):
        assert part in article
    assert "torch 9.9" in article
    losses = pd.read_csv("build/site/small/losses/toy-atom-ipc2-seed0.csv")
    assert losses.to_numpy().tolist() == [[0, 2], [30, 1]]


def test_a_set_that_is_not_evaluated_yet_is_a_run_too(small):
    path = small / "reports/small/results/toy-atom-ipc2-seed0.json"
    record = read_record(path)
    for name in ("evaluate", "evaluation", "accuracies"):
        del record[name]
    write_record(path, record)
    text = (build() / "small/runs.html").read_text()
    entry = text.split('id="toy-atom-ipc2-seed0"')[-1]
    assert f"<dt>seed</dt><dd>{record['seed']} of the distillation</dd>" in entry


def test_a_table_of_a_notebook_leads_to_its_runs_and_offers_its_data(small):
    build()
    text = Path("build/site/small/01_one.html").read_text()
    answer = text.split('class="answer"')[1].split("</section>")[0]
    assert "What it shows" in answer and "▲ above" not in answer and "? not tested" in answer
    assert ">end</pre>" not in answer and ">end</pre>" in text
    assert text.index("A title") < text.index('class="answer"') < text.index('id="parameters"')
    table = text.split('id="table-main_table"')[1].split("</figure>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    assert re.findall(r"runs.html#([\w-]+)", rows[1]) == ["toy-random-ipc2-seed0"]
    assert re.findall(r"runs.html#([\w-]+)", rows[2]) == [
        "toy-atom-ipc2-seed0-it0", "toy-atom-ipc2-seed0",
    ]  # fmt: skip
    assert 'href="main_table.csv"' in table and 'href="main_table.tex"' in table


def test_both_recipes_of_a_method_have_rows_on_the_front_page(small, make_data):
    reports, data = small / "reports/small", make_data("toy")
    records = [*saved(data, reports), *saved(data, reports, recipe="code")]
    write_table(main_table(records), reports, "main_table", "The note.")
    table = (build() / "index.html").read_text().split('<table class="sortable main">')[1]
    rows = re.findall(r'<th scope="row">([^<]*)</th>', table.split("</table>")[0])
    assert rows == ["ATOM", "ATOM, by the code"]
    assert "small/runs.html#toy-atom-ipc2-seed0-code" in table


def test_the_vector_is_shown_where_there_is_one_and_all_forms_are_offered(small):
    assert 'src="figures/main_table.png"' in (build() / "small/01_one.html").read_text()
    for kind in ("svg", "pdf"):
        Path(f"reports/small/figures/main_table.{kind}").write_text("<svg/>")
    text = (build() / "small/01_one.html").read_text()
    assert 'src="figures/main_table.svg"' in text
    for kind in ("svg", "pdf", "png"):
        assert f'<a href="figures/main_table.{kind}">{kind.upper()}</a>' in text


def test_a_cost_figure_speaks_of_whiskers_where_its_table_has_them(small):
    Image.new("RGB", (4, 3)).save("reports/small/figures/cost.png")
    for columns, said in (("step_s", False), ("step_s,step_low_s,step_high_s", True)):
        Path("reports/small/cost.csv").write_text(
            f"{columns}\n{','.join('1' * len(columns.split(',')))}\n"
        )
        assert ("Whiskers" in (build() / "index.html").read_text()) == said


def test_files_that_cannot_be_read_are_left_out_and_counted(small, capsys):
    Path("reports/small/results/toy-atom-ipc2-seed0.json").write_text("{}")
    Path("reports/small/distilled/toy-atom-ipc2-seed0.safetensors").write_text("")
    site = build()
    assert faults(site) == []
    assert "2 files of this report are damaged" in (site / "small/runs.html").read_text()
    assert "2 files are damaged" in capsys.readouterr().err


def test_a_sheet_of_images_holds_every_pixel_in_its_place(small):
    images = DistilledSet.load("reports/small/distilled/toy-atom-ipc2-seed0.safetensors").images
    sheet = np.asarray(Image.open(build() / "small/images/toy-atom-ipc2-seed0.png"))
    assert sheet.shape == (3 * 8, 2 * 8, 3)
    for index, image in enumerate(images):
        row, column = divmod(index, 2)
        tile = sheet[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_array_equal(tile, (255 * image).round().permute(1, 2, 0).numpy())


def test_the_gallery_has_the_order_of_the_tables(small, make_data):
    saved(make_data("toy"), small / "reports/small", recipe="code")
    saved(make_data("toy"), small / "reports/small", method="dm")
    text = (build() / "small/gallery.html").read_text().split('id="others"')[0]
    assert re.findall("<h3>(.*)</h3>", text) == ["Random", "DM", "ATOM", "ATOM, by the code"]


def test_a_picture_of_a_notebook_alone_has_the_words_before_it(small):
    """One that is none of the report's figures; several of a cell are counted."""
    path = Path("reports/small/notebooks/01_one.ipynb")
    notebook = read(path, 4)
    (cell,) = [c for c in notebook.cells if "write_figure" in c.source]
    notebook.cells = [
        v4.new_markdown_cell("# One\n\nFirst.\n\nWhat *it* is\n& was:"),
        v4.new_code_cell("show()", outputs=cell.outputs),
        v4.new_code_cell("show(); show()", outputs=cell.outputs * 2),
    ]
    write(notebook, path)
    found = [a["alt"] for tag, a in Page(build() / "small/01_one.html").elements if tag == "img"]
    said = "What it is & was"
    assert found == [said, f"Picture 1 of 2: {said}", f"Picture 2 of 2: {said}"]


def test_a_set_of_somebody_elses_method_is_shown(small):
    """Nothing but its settings is known of it."""
    path = Path("reports/small/distilled/toy-atom-ipc2-seed0.safetensors")
    made = DistilledSet.load(path)
    theirs = replace(made, method=UnknownMethod("mine", made.method.recorded()))
    theirs.save(path.with_name("toy-mine-ipc2-seed0.safetensors"))
    site = build()
    assert (site / "small/images/toy-mine-ipc2-seed0.png").exists() and not faults(site)


# What is refused


def test_a_profile_that_is_not_there_is_refused_before_any_work(small, complains):
    with complains("profile is 'smal'", "did you mean 'small'", "allowed: small"):
        build(["smal"])
    assert not Path("build").exists()


def test_reports_without_notebooks_are_a_complaint(tmp_path, complains):
    with complains("holds no report", "make reports"):
        build(reports=tmp_path)


def test_a_damaged_notebook_or_table_is_a_complaint_and_leaves_the_old_site(small, complains):
    before = (build() / "index.html").read_bytes()
    path = Path("reports/small/main_table.csv")
    path.write_text('a,b\n1,2,3\n"')
    with complains("main_table.csv is no table"):
        build()
    path.unlink()
    Path("reports/small/notebooks/01_one.ipynb").write_text("{}")
    with complains("01_one.ipynb is no notebook"):
        build()
    assert Path("build/site/index.html").read_bytes() == before


def test_a_folder_that_is_no_site_is_left_alone(small, complains):
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years")
    with complains("folder mine holds other files", "allowed:"):
        build(out="mine")
    assert [p.name for p in Path("mine").iterdir()] == ["thesis.tex"]
    Path("file").write_text("")
    with complains("file is a file"):
        build(out="file")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, complains, monkeypatch):
    folder = tmp_path / "site"
    with atomic_folder(folder, MARKER) as partial:
        (partial / "old").touch()
    with pytest.raises(RuntimeError), atomic_folder(folder, MARKER) as partial:
        (partial / "new").touch()
        raise RuntimeError
    with complains("could not be written", "No space left"), atomic_folder(folder, MARKER):
        raise OSError(28, "No space left on device")
    assert sorted(p.name for p in folder.iterdir()) == [MARKER, "old"]

    rename, calls = Path.rename, []

    def failing(self, target):
        calls.append(target)
        if len(calls) == 2:  # the old one is out of the way, the new one cannot take its place
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(files.Path, "rename", failing)
    with complains("could not be written"), atomic_folder(folder, MARKER):
        pass
    monkeypatch.undo()
    assert sorted(p.name for p in folder.iterdir()) == [MARKER, "old"]
    with atomic_folder(folder, MARKER) as partial:
        (partial / "new").touch()
    assert sorted(p.name for p in folder.iterdir()) == [MARKER, "new"]
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


# Significance


def cell(ours, published, published_std=np.nan, seeds=1, seed_std=np.nan, **more):
    return SimpleNamespace(
        mean=np.mean(ours), std=np.std(ours), networks=len(ours), seeds=seeds, seed_std=seed_std,
        published=published, published_std=published_std, **more,
    )  # fmt: skip


@pytest.mark.parametrize("shift", [-3.0, -0.5, 0.0, 0.5, 3.0])
def test_measured_against_published_is_welchs_test_of_five_networks_each(shift):
    ours, theirs = np.array([30, 31, 32, 33, 31.0]), np.array([30, 31, 32, 33, 31.0]) + shift
    found = against_published(cell(ours, theirs.mean(), theirs.std()))
    p = ttest_ind(ours, theirs, equal_var=False).pvalue
    assert found.p == pytest.approx(p)
    word = "above" if shift < 0 else "below"
    assert found.word == (word if p < 0.05 else "not told apart")


def test_without_a_published_spread_the_test_is_against_the_figure_alone():
    ours = [30.0, 31, 33]
    found = against_published(cell(ours, 29.0))
    assert found.p == pytest.approx(ttest_1samp(ours, 29.0).pvalue)


def test_several_seeds_are_the_sample_and_fewer_than_three_are_none():
    many = cell(np.linspace(30, 31, 60), 32.0, 1.0, seeds=3, seed_std=1.0)
    assert against_published(many).p > 0.05  # of 3 means, not of 60 networks
    for few in (cell([30.0, 31.0], 50.0, 0.1), cell([30.0] * 9, 50.0, 0.1, seeds=2, seed_std=1.0)):
        assert against_published(few) == ("not tested", None)
    assert set(SIGNS) == {"above", "below", "not told apart", "not tested"}


def test_several_seeds_are_tested_by_welchs_test_of_their_means():
    means, theirs = np.array([30.0, 31.0, 33.0]), np.array([32.0, 33.0, 33.5, 34.0, 33.0])
    of_seeds = cell(means, theirs.mean(), theirs.std(), seeds=3, seed_std=means.std())
    of_seeds.networks, of_seeds.std = 60, 0.3  # within a seed, which is no matter
    p = ttest_ind(means, theirs, equal_var=False).pvalue
    assert against_published(of_seeds).p == pytest.approx(p)


# The verdict

CODE = {"recipe": "code", "evaluation": {"recipe": "code"}}


def report_of(*records, name="one"):
    """A report that holds a main table of some records and nothing else."""
    named = {
        r["name"]: r
        for number, given in enumerate(records)
        for r in [given | {"name": f"{name}-{number}", "data": None, "variant": ""}]
    }
    table = main_table(named.values())
    return ReportFolder(name, Layout("x"), {}, {"main_table": table}, {}, named, [], [])


def test_the_verdict_takes_the_measurement_nearest_to_the_paper():
    figures = published().set_index(["dataset", "ipc", "method"])
    atom, datadam = (figures.loc[("cifar10", "1", m)] for m in ("atom", "datadam"))
    ours = [atom.accuracy + d for d in (-0.5, 0.0, 0.5, 0.2, -0.2)]
    whole = report_of(
        record(accuracies=ours), record(method="datadam", accuracies=[a - 4 for a in ours]),
        name="whole",
    )  # fmt: skip
    short = report_of(record(accuracies=[9.0] * 5, iterations=400), name="short")
    ten = report_of(record(ipc=10, accuracies=(40, 41, 42), iterations=400), name="ten")
    found = verdict([short, ten, whole])
    by_place = {row["where"]: row for row in found["rows"]}
    assert len(by_place) == len(found["rows"]) == (published().method == "atom").sum()
    first = by_place["CIFAR-10, IPC 1"]
    assert (first["report"], first["word"], first["difference"]) == (
        "whole",
        "not told apart",
        "+0.0",
    )
    assert first["how"] == "the paper's settings, 5 networks"
    assert (first["lead"], first["lead_word"]) == ("+4.0", "above")
    assert first["lead_published"] == f"{atom.accuracy - datadam.accuracy:+.1f}"
    second = by_place["CIFAR-10, IPC 10"]
    assert second["how"] == "400 of 8,000 iterations, 3 networks"
    assert (second["word"], second["lead"]) == ("below", "")
    told = " ".join(found["sentences"])
    assert "Of 9 published accuracies of ATOM, 1 has been measured at the paper's settings" in told
    assert "is there in 1 of 1 measurements; CIFAR-10, IPC 1 +4.0 points" in told
    assert "Not run: CIFAR-10, IPC 50; CIFAR-100, IPC 1, 10 and 50; TinyImageNet" in told
    assert found["signs"].startswith("†")
    assert max((short, ten, whole), key=nearness) is whole
    assert "0 have been measured" in verdict([short])["sentences"][0]


def test_the_papers_own_pixels_stand_below_a_measurement_of_others():
    jpeg = report_of(record("cifar10-jpeg", accuracies=(30, 31, 32)), name="jpeg")
    short = report_of(record(accuracies=(34, 35, 36), iterations=1000), name="short")
    shorter = report_of(record("cifar10-jpeg", accuracies=(1, 2, 3), iterations=400), name="less")
    found = verdict([short, shorter, jpeg])
    rows = [row for row in found["rows"] if row["word"] != "not run"]
    assert [(row["report"], row["measured"]) for row in rows] == [
        ("jpeg", "31.0 ± 0.8"), ("short", "35.0 ± 0.8"),
    ]  # fmt: skip
    told = " ".join(found["sentences"])
    assert "At other settings, CIFAR-10, IPC 1 reaches 35.0 ± 0.8 % (1,000 of 8,000" in told
    rows = [row for row in verdict([short, shorter])["rows"] if row["word"] != "not run"]
    assert [row["report"] for row in rows] == ["short"]  # nearer in pixels and iterations


def test_each_recipe_has_a_row_of_its_own():
    both = report_of(record(accuracies=(30, 31, 32)), record(accuracies=(20, 21, 22), **CODE))
    rows = [row for row in verdict([both])["rows"] if row["word"] != "not run"]
    assert [row["measured"] for row in rows] == ["31.0 ± 0.8", "21.0 ± 0.8"]
    assert [row["how"] for row in rows] == [
        "the paper's settings, 3 networks", "20,000 iterations, by the code, 3 networks",
    ]  # fmt: skip
    assert [note.partition(":")[0] for note in verdict([both])["notes"]] == ["“By the code”"]
    jpeg = verdict([report_of(record("cifar10-jpeg", accuracies=(30, 31, 32)))])
    assert jpeg["notes"] == [known.of("cifar10-jpeg", None).note]


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        (CODE, "20,000 iterations, by the code"),
        (CODE | {"loss_scale": 1.0}, "20,000 iterations, by the code, changed settings"),
        ({"loss_scale": 100.0}, "8,000 iterations, changed settings"),
        ({"iterations": 20_000}, "20,000 iterations"),
        ({"iterations": 400, "norm": "batch"}, "400 of 8,000 iterations, changed settings"),
        ({"evaluation": {"networks": 3}}, "8,000 iterations"),
        ({"evaluation": {"epochs": 100}}, "8,000 iterations, changed settings"),
    ],
)
def test_only_what_the_paper_prints_is_called_its_settings(settings, how):
    found = verdict([report_of(record(accuracies=(20, 21, 22), **settings))])
    first, others, *_ = found["sentences"]
    assert first == (
        "Of 9 published accuracies of ATOM, 0 have been measured at the paper's settings."
    )
    by = "by the code " if settings.get("recipe") else ""
    assert others == (
        f"CIFAR-10, IPC 1: only at other settings, {by}−13.8 points from what is published."
    )
    assert found["rows"][0]["how"] == f"{how}, 3 networks"
    whole = report_of(record(accuracies=(9, 9, 9)), name="whole")
    told = verdict([whole, report_of(record(accuracies=(20, 21, 22), **settings))])["sentences"]
    assert "1 has been measured at the paper's settings; CIFAR-10, IPC 1 reaches 9.0" in told[0]


def test_gaps_at_other_settings_are_told_by_recipe():
    ours = [
        record(ipc=ipc, accuracies=(mean - 1, mean, mean + 1), **settings)
        for ipc, mean, settings in (
            (1, 30.8, {"iterations": 400}), (10, 52.9, {"iterations": 400}),
            (10, 56.9, CODE), (50, 66.8, CODE),
        )
    ]  # fmt: skip
    assert verdict([report_of(*ours)])["sentences"][1] == (
        "CIFAR-10, IPC 1, 10 and 50: only at other settings, −5.0 to −4.0 points and by the code "
        "−2.0 to −1.0 points from what is published."
    )


def test_the_lead_by_the_code_is_told_as_such():
    ours = [record(method=m, accuracies=(a, a + 1, a + 2), **CODE)
            for m, a in (("atom", 40), ("datadam", 30))]  # fmt: skip
    told = " ".join(verdict([report_of(*ours)])["sentences"])
    assert "in 1 of 1 measurements; CIFAR-10, IPC 1, by the code +10.0 points (publ" in told


def test_a_set_on_another_network_stands_for_no_other_record():
    """As where cross-architecture and main table are of the same data: a ViT's comes last."""
    ours = [record(method=m, accuracies=(a - 1, a, a + 1)) for m, a in (("atom", 40), ("dm", 30))]
    ours += [record(method="datadam", accuracies=(37, 38, 39))]
    report = report_of(*ours)
    before = verdict([report])
    for r in ours:
        vit = {**r["evaluate"], "model": "vit"}
        name = f"{r['method']}-on-vit"
        report.records[name] = r | {"name": name, "variant": "", "evaluate": vit}
    assert [r["name"] for r in report.main_records] == ["one-0", "one-1", "one-2"]
    assert verdict([report]) == before
    assert "+2.0" in str(before)


def test_a_lead_that_is_not_tested_is_not_said_to_be_missing():
    alone = [record(ipc=10, method=m, accuracies=(a,)) for m, a in (("atom", 40), ("datadam", 30))]
    found = verdict([report_of(*alone)])
    assert [r["lead_word"] for r in found["rows"] if r.get("lead")] == ["not tested"]
    assert "The lead" not in " ".join(found["sentences"])
    three = [record(method=m, accuracies=(30, 31, 32)) for m in ("atom", "datadam")]
    assert "is there in 0 of 1 measurements." in " ".join(
        verdict([report_of(*alone, *three)])["sentences"]
    )


@pytest.mark.parametrize(
    ("note", "run"),
    [
        ("Data: CIFAR-10. Made on an abacus.", True),
        ("Data: CIFAR-10. Reduced: iterations 300 (default 8000).", False),
        ("Data: CIFAR-10. Changed: loss scale 100 (default 1).", False),
        ("Data: CIFAR-10 (JPEG). Made on an abacus.", False),
        ("Data: digits (8 x 8). Made on an abacus.", False),
    ],
)
def test_a_table_is_run_as_in_the_paper_on_its_data_with_nothing_reduced_or_changed(note, run):
    report = replace(report_of(record()), markdown={"ablation": f"| a |\n|---|\n\n{note}\n"})
    told = verdict([report])["sentences"][-1]
    assert told.startswith("Not run at the paper's settings: other networks, ")
    assert ("the ablation" not in told) is run


def test_settings_in_words():
    assert settings_in_words([record()]) == "the paper's settings"
    assert settings_in_words([record(iterations=100), record(iterations=8000)]) == (
        "100 to 8,000 of 8,000 iterations"
    )
    assert settings_in_words([record(method="random")]) == ""
    assert settings_in_words([record(**CODE), record()]) == "the paper's settings"
    assert settings_in_words([record(evaluation={"networks": 9})]) == "the paper's settings"


def test_names_are_sorted_as_a_reader_counts():
    assert sorted(["a-it100", "a", "a-it50", "b2"], key=natural) == ["a", "a-it50", "a-it100", "b2"]


# Parts of a notebook


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("14.1 ± 0.2", 14.1), ("1,442", 1442), ("-0.17", -0.17), ("−0.3 ≈", -0.3),
        ("1e-05", 1e-5), ("–", None), ("", None), ("ATOM", None), ("d2-w64", None), ("+3.2 ▲", 3.2),
    ],
)  # fmt: skip
def test_a_cell_is_sorted_by_the_number_that_it_begins_with(text, key):
    assert sort_key(text) == key


def test_equations_are_mathml_and_what_is_none_stays_latex():
    assert mathml(r"\frac{a}{b} < c", "block").count("<mfrac>") == 1
    assert "arg" in mathml(r"\arg\min_x", "inline") and "\\arg" not in mathml(r"\arg\min", "inline")
    for bad in (r"\nosuchcommand x", r"\href{javascript:alert(1)}{x}", r"\text{<b>x</b>}", "{", ""):
        assert not re.search(r"<(?!/?(code|math|mrow)\b)", mathml(bad, "inline")), bad


def test_all_equations_of_the_notebooks_become_mathml():
    texts = [
        markdown("".join(cell["source"]), lambda url: url)
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    ]
    assert sum(text.count("<math") for text in texts) > 20
    assert not [text for text in texts if "<code>\\" in text or "$" in text]


def test_links_go_where_they_are_led_and_others_are_words_alone():
    text = markdown("[a](x.py) [b](y.py)", lambda url: "X" if url == "x.py" else None)
    assert text == '<p><a href="X">a</a> b</p>\n'


def test_the_parameters_of_the_run_come_before_the_defaults(small):
    import nbformat

    notebook = nbformat.read("reports/small/notebooks/01_one.ipynb", 4)
    titles = [p.title for p in parts(notebook, lambda url: None) if p.kind == "code"]
    assert titles[:2] == ["Parameters of this run", "Default parameters"]


def test_tables_are_read_by_the_texts_of_their_cells():
    frame = pd.DataFrame({"a <b>": ["x & y", "z"], "n": [1, 2]}, index=["p", "q"])
    found = read_html(frame.rename_axis("set").to_html())
    assert (found.columns, found.rows) == (
        ["set", "a <b>", "n"], [["p", "x & y", "1"], ["q", "z", "2"]],
    )  # fmt: skip
    found = read_markdown(frame.to_markdown(index=False, disable_numparse=True))
    assert (found.columns, found.rows) == (["a <b>", "n"], [["x & y", "1"], ["z", "2"]])
    for text in ("", "words", "| a |\n|:--|", "| a |\n|---|\n| 1 | 2 |", "| a |\n| b |\n| c |"):
        assert read_markdown(text) is None
    assert read_html(HOSTILE) is None


# The API reference


def test_every_name_of_the_reference_has_words_of_its_own():
    every = api.modules()
    offered = {f"{n}.{e}" for n, m in every.items() for e in getattr(m.obj, "__all__", ())}
    shown = {d.fullname: words for m in every.values() for d, words, _ in api.members(m)}
    # What a package takes from a module of its own and is neither class nor function, pdoc reads no
    # words of.
    assert len(shown) > 60 and offered - set(shown) == {"atomlib.models.MODELS"}
    for name in ("attention.channel_attention", "distill.distill", "evaluate.evaluate"):
        assert f"atomlib.{name}" in shown


def test_the_settings_of_a_method_are_its_own_before_those_of_its_bases():
    found = dict(api.settings(api.modules()["atomlib.methods"].get("ATOM")))
    first, *_, last = found
    assert (first, last) == ("ATOM", "NetworkConfig")
    assert {name for rows in found.values() for name, *_ in rows} == set(ATOM.model_fields)
    assert ("spatial_power", "4.0", "p_s") in found["DataDAM"]
    assert all(meaning for rows in found.values() for _, _, meaning in rows)


def test_the_reference_is_the_same_each_time(committed):
    """No address of an object in memory, no type of a checker's."""
    pages = sorted((committed.folder / "api").rglob("*.html"))
    assert len(pages) == len(api.MODULES) + 1
    text = "".join(page.read_text() for page in pages)
    assert not re.findall(r"0x[0-9a-f]{6,}|Annotated\[|Validator", text)
    assert "``" not in text  # as code, not as it is typed


# In a browser


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, of the system's packages."""
    webdriver = pytest.importorskip("selenium.webdriver")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and chromium):
        pytest.skip("chromium and chromedriver are not installed: the site is not tried in one")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.chrome.service.Service(driver)
    with webdriver.Chrome(options=options, service=service) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The site of the committed reports, and the seconds that it took."""
    out, start = tmp_path_factory.mktemp("site") / "site", time.monotonic()
    build(out=out, reports=ROOT / "reports")
    seconds = time.monotonic() - start
    return SimpleNamespace(folder=out, seconds=seconds, names=Layout.all_within(ROOT / "reports"))


def emulate(browser, width=1200, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def open_page(browser, path, place=""):
    """Open a page anew, and to its end: one already open would only be scrolled, and on a busy
    machine ``get`` may return before the page's script has run."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    browser.get(path.absolute().as_uri() + place)
    loaded = "return document.readyState == 'complete' && location.href != 'about:blank'"
    WebDriverWait(browser, 60).until(lambda there: there.execute_script(loaded))
    return browser


def requests(browser):
    """Addresses asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


PICTURES = """
const done = arguments[0];
const sheets = [...new Set([...document.querySelectorAll("[style*=background-image]")].map(
  (element) => getComputedStyle(element).backgroundImage.slice(5, -2)))];
const pictures = [...document.images, ...sheets.map((url) => {
  const picture = new Image(); picture.src = url; return picture; })];
Promise.all(pictures.map((picture) => picture.decode().catch(() => null))).then(() => done(
  pictures.map((picture) => [picture.src, picture.naturalWidth])));
"""

CONTRAST = """
const luminance = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).map((part) => {
    const value = part / 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const paper = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!colour.endsWith(", 0)")) return colour; }
  return "rgb(255, 255, 255)"; };
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.getClientRects().length) continue;
  const [a, b] = [getComputedStyle(element).color, paper(element)].map(luminance);
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) low.push([element.tagName, element.className, element.textContent, ratio]); }
return [getComputedStyle(document.body).backgroundColor, low];
"""


def test_the_committed_reports_make_a_site_in_under_a_minute(committed):
    assert committed.seconds < 60
    assert (committed.folder / "cifar10-cpu/01_main_table.html").exists()
    assert (committed.folder / "quick/00_quickstart.html").exists()
    assert faults(committed.folder) == []


def test_what_make_bench_measured_is_a_page_that_every_page_leads_to(committed):
    page = (committed.folder / "speed.html").read_text()
    bench = ROOT / "reports/bench"
    (growth,) = bench.glob("*/growth.csv")
    (machine,) = {path.parent.name for path in bench.glob("*/*.csv")}
    shown = [unescape(cell) for cell in re.findall(r"<td[^>]*>([^<]*)</td>", page)]
    for step in pd.read_csv(growth).step_s:
        assert f"{step:.3g}" in shown
    assert f'src="bench/{machine}/figures/growth.png"' in page
    assert (committed.folder / "bench" / machine / "figures/growth.png").is_file()
    for place, link in (("index.html", "speed.html"), ("quick/runs.html", "../speed.html")):
        assert f'<a href="{link}"' in (committed.folder / place).read_text()


def test_reports_are_told_apart_in_words_the_papers_settings_first(committed):
    page = (committed.folder / "index.html").read_text()
    names = re.findall(r'<h2 id="title-([^"]*)">', page)[1:]
    titles = [unescape(title) for title in re.findall(r'<h2 id="title-[^"]*">([^<]*)</h2>', page)]
    assert len(set(titles)) == len(titles)
    assert titles[1].endswith("the paper's settings")
    assert not [title for name in names for title in titles if name in title]


def test_the_front_page_leads_to_code_paper_commands_and_citation(committed):
    text = (committed.folder / "index.html").read_text()
    buttons = re.findall(r'<a href="([^"]+)"', text.split('class="buttons"')[1].split("</p>")[0])
    assert buttons == [
        "source/index.html",
        "api/index.html",
        "https://arxiv.org/abs/2405.01373",
        "#run",
        "#cite",
    ]
    bibtex = text.split("<pre")[-1]
    assert "@inproceedings{khaki2024" in bibtex and "Plataniotis, Konstantinos N." in bibtex
    with Image.open(committed.folder / "preview.png") as preview:
        assert preview.size == (1200, 630)
        assert len(preview.getcolors(1 << 20)) > 1000  # images, and no empty sheet
    description = re.search(r'name="description" content="([^"]+)"', text)[1]
    assert unescape(description).endswith(verdict_of(committed)["sentences"][0])


def test_each_figure_of_the_committed_reports_has_a_caption():
    names = {path.stem for path in (ROOT / "reports").glob("*/figures/*.png")}
    own = {name for name in names if not name.startswith(("gallery_", "methods_", "published_"))}
    assert own - set(FIGURES) == set()


def verdict_of(committed):
    return verdict([ReportFolder.read(ROOT / "reports" / name) for name in committed.names])


CUT = """
for (const fold of document.querySelectorAll("details")) fold.open = true;
const scrolls = (element) => {
  for (let at = element.parentElement; at && at !== document.body; at = at.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return true; }
  return false; };
return [...document.querySelectorAll("header *, main *, footer *")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1) && !scrolls(element);
}).map((element) => element.outerHTML.slice(0, 100));
"""


def test_each_kind_of_page_of_the_committed_reports_is_sound(committed, browser):
    """No error, every picture there, nothing asked of a host, nothing cut at four widths, day and
    night: the front page, every notebook, a gallery, runs, speed, code, the API reference."""
    pages = [committed.folder / "index.html", *sorted((committed.folder / "quick").glob("*.html"))]
    pages += [committed.folder / "speed.html"]
    pages += [committed.folder / "source/index.html", committed.folder / "source/attention.html"]
    pages += sorted((committed.folder / "api").rglob("*.html"))
    assert len(pages) > 15
    requests(browser)
    for path in pages:
        name = path.relative_to(committed.folder)
        emulate(browser, width=360)
        open_page(browser, path)
        assert browser.get_log("browser") == [], name
        pictures = browser.execute_async_script(PICTURES)
        assert not [source for source, width in pictures if width == 0], name
        for width in (360, 390, 768, 1280):
            emulate(browser, width=width)
            assert browser.execute_script(CUT) == [], (name, width)
        papers = set()
        for scheme in ("light", "dark"):
            emulate(browser, scheme=scheme)
            paper, low = browser.execute_script(CONTRAST)
            assert low == [], (name, scheme)
            papers.add(paper)
        assert len(papers) == 2, name
        landmarks = "return ['main', 'nav', 'header', 'footer', 'h1'].map(" \
            "(name) => document.querySelectorAll(name).length)"  # fmt: skip
        assert browser.execute_script(landmarks) == [1] * 5, name
        bare = "return [...document.images].filter((image) => !image.alt).length"
        assert browser.execute_script(bare) == 0, name
        nameless = "return document.querySelectorAll('.scroll:not([aria-label])').length"
        assert browser.execute_script(nameless) == 0, name
    asked = requests(browser)
    assert len(asked) > len(pages)
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data", "about"}


def test_the_reference_is_two_clicks_away_and_leads_to_the_code(committed, browser):
    emulate(browser)
    open_page(browser, committed.folder / "quick/01_main_table.html")
    for link in ("API reference", "channel_attention", "source"):
        browser.find_element("link text", link).click()
    assert browser.current_url.endswith("source/attention.html")
    assert "channel_attention" in browser.find_element("tag name", "main").text


def test_what_is_cut_is_found(small, browser):
    site = build()
    page = (site / "index.html").read_text()
    wide = (
        '<p style="width: 500px">cut</p><div class="scroll"><p style="width: 500px">not</p></div>'
    )
    (site / "index.html").write_text(page.replace("</main>", f"{wide}</main>"))
    emulate(browser, width=390)
    open_page(browser, site / "index.html")
    assert browser.execute_script(CUT) == ['<p style="width: 500px">cut</p>']


def test_a_table_that_scrolls_says_so_at_the_side_where_there_is_more(committed, browser):
    emulate(browser, width=390)
    open_page(browser, committed.folder / "index.html")
    state = """
    const box = document.querySelector("#report-cifar10-cpu .scroll");
    const hint = box.previousElementSibling;
    box.scrollLeft = arguments[0];
    return new Promise((done) => setTimeout(() => done([box.matches(".more-left"),
      box.matches(".more-right"), hint.checkVisibility(), hint.textContent]), 100));
    """
    hint = "Scroll sideways for more columns."
    assert browser.execute_script(state, 0) == [False, True, True, hint]
    assert browser.execute_script(state, 50) == [True, True, True, hint]
    assert browser.execute_script(state, 9999) == [True, False, True, hint]
    emulate(browser, width=1280)
    assert browser.execute_script(state, 0) == [False, False, False, hint]


def test_what_a_row_is_of_stays_in_sight(committed, browser):
    """While a table is scrolled, on a telephone: the verdict, a notebook's table, the runs."""
    emulate(browser, width=390)
    for page in ("index.html", "cifar10-1000/01_main_table.html", "cifar10-1000/runs.html"):
        open_page(browser, committed.folder / page)
        place = "const box = document.querySelector('.scroll'); box.scrollLeft = 1e4;" \
            "const cell = box.querySelector('tbody tr').cells[0].getBoundingClientRect();" \
            "return [box.scrollLeft, cell.left - box.getBoundingClientRect().left]"  # fmt: skip
        moved, left = browser.execute_script(place)
        assert moved > 100 and left == 0, page


def test_paper_has_the_images_and_whole_tables(committed, browser):
    """Tiles are backgrounds, which browsers do not print unless told to."""
    open_page(browser, committed.folder / "quick/gallery.html")
    paper = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"]
    assert b64decode(paper).count(b"/Subtype /Image") > 100
    emulate(browser, width=718)  # A4 without its margins
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    open_page(browser, committed.folder / "cifar10-1000/01_main_table.html")
    width = "return document.documentElement.scrollWidth"
    assert browser.execute_script(width) < 1.5 * 718  # what Chromium makes smaller to fit
    cut = "return [...document.querySelectorAll('.scroll')].filter((box) =>" \
        "getComputedStyle(box).overflowX !== 'visible').length"  # fmt: skip
    assert browser.execute_script(cut) == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_links_of_a_picture_are_folded(committed, browser):
    emulate(browser)
    open_page(browser, committed.folder / "quick/02_cross_architecture.html")
    figure = browser.find_element("id", "cross_architecture")
    links = figure.find_elements("css selector", ".links a")
    assert len(links) > 4 and not any(link.is_displayed() for link in links)
    figure.find_element("css selector", ".files summary").click()
    assert all(link.is_displayed() for link in links)


def test_runs_are_filtered_by_words(small, browser):
    emulate(browser)
    open_page(browser, build() / "small/runs.html")
    field = browser.find_element("css selector", ".filter input")

    def shown():
        rows = browser.find_elements("css selector", "#runs tbody tr, .run")
        return [row.text.split()[0] for row in rows if row.is_displayed()]

    names = ["toy-atom-ipc2-seed0", "toy-atom-ipc2-seed0-it0", "toy-random-ipc2-seed0"]
    assert shown() == names * 2
    field.send_keys("Atom IT0")
    assert shown() == names[1:2] * 2
    assert browser.find_element("css selector", ".filter output").text == "1 of 3 runs"
    field.clear()
    field.send_keys("random atom")
    assert shown() == []


def test_one_image_per_class_is_a_row(committed, browser):
    emulate(browser, width=1280)
    for page, place in (("quick/gallery.html", "#digits-atom-ipc1-seed0"), ("index.html", "tr")):
        open_page(browser, committed.folder / page)
        tops = "const of = [...document.querySelectorAll(arguments[0] + ' .tile')].slice(0, 10);" \
            "return of.map((tile) => tile.getBoundingClientRect().top)"  # fmt: skip
        found = browser.execute_script(tops, place)
        assert len(found) == 10 and len(set(found)) == 1


def test_every_page_of_a_small_report_is_sound(small, browser):
    for path in build().rglob("*.html"):
        open_page(browser, path)
        assert browser.get_log("browser") == [], path
    assert {urlsplit(url).scheme for url in requests(browser)} <= {"file", "data", "about"}


def column(browser, place):
    """The first word of each cell of a column, in the order shown."""
    cells = browser.find_elements("css selector", f".sortable tbody tr > :nth-child({place})")
    return [cell.text.split()[0] for cell in cells]


def test_a_table_sorts_both_ways_by_mouse_and_by_keyboard(committed, browser):
    from selenium.webdriver.common.keys import Keys

    emulate(browser)
    open_page(browser, committed.folder / "index.html")
    table = browser.find_element("css selector", "#report-cifar10-cpu table.main")
    measured, method = 5, 1
    browser.execute_script(
        "for (const t of document.querySelectorAll('.sortable'))"
        "  if (!t.matches('#report-cifar10-cpu .main')) t.remove();"
    )
    before = column(browser, measured)
    head = table.find_element("css selector", f"thead tr:last-child > :nth-child({measured})")
    button = head.find_element("tag name", "button")
    numbers = sorted(before, key=float)
    assert before != numbers
    button.click()
    assert column(browser, measured) == numbers
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    assert column(browser, measured) == numbers[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    assert table.find_element("css selector", "tfoot th").text == "full data"

    other = table.find_element("css selector", f"thead tr:last-child > :nth-child({method}) button")
    browser.execute_script("arguments[0].focus()", button)
    for _ in range(measured - method):
        browser.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    assert browser.switch_to.active_element == other
    other.send_keys(Keys.ENTER)
    assert column(browser, method) == sorted(column(browser, method), key=str.lower)
    assert head.get_attribute("aria-sort") == "none"
    other.send_keys(Keys.SPACE)
    assert column(browser, method) == sorted(column(browser, method), key=str.lower)[::-1]


def test_cells_without_a_number_come_last_whichever_way(small, browser):
    text = "".join(
        f'<tr><td data-key="{n}">{n}</td></tr>' if n else "<tr><td>–</td></tr>"
        for n in (3, 0, 11, 2)
    )
    site = build()
    page = f'<main><table class="sortable"><thead><tr><th>n</th></tr></thead><tbody>{text}'
    end = '</tbody></table></main><script src="page.js"></script>'
    (site / "t.html").write_text(f'<!doctype html><meta charset="utf-8">{page}{end}')
    open_page(browser, site / "t.html")
    button = browser.find_element("css selector", "th button")
    for order in (["2", "3", "11", "–"], ["11", "3", "2", "–"]):
        button.click()
        assert column(browser, 1) == order


def test_the_slider_goes_through_the_iterations_of_a_distillation(small, browser):
    from selenium.webdriver.common.keys import Keys

    emulate(browser)
    open_page(browser, build() / "small/gallery.html")
    (slider,) = browser.find_elements("css selector", ".slider input")
    output = browser.find_element("css selector", ".slider output")
    tile = browser.find_element("css selector", "#toy-atom-ipc2-seed0 .tile")

    def shown():
        image = tile.value_of_css_property("background-image")
        return unquote(image.rpartition("/")[2].rstrip('")'))

    assert output.text == "30 of 30: 71.0 ± 1.0 %"
    assert shown() == "toy-atom-ipc2-seed0.png"
    last = tile.screenshot_as_png
    slider.send_keys(Keys.ARROW_LEFT)
    assert output.text == "0 of 30: 41.0 ± 1.0 %"
    assert slider.get_attribute("aria-valuetext") == output.text
    assert shown() == "toy-atom-ipc2-seed0-it0.png"
    assert tile.screenshot_as_png != last
    slider.send_keys(Keys.END)
    assert shown() == "toy-atom-ipc2-seed0.png"
    assert tile.screenshot_as_png == last


def test_a_class_shows_on_hover_and_on_focus_and_arrow_keys_move(small, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    emulate(browser)
    open_page(browser, build() / "small/gallery.html")
    tiles = browser.find_elements("css selector", "#toy-atom-ipc2-seed0 .tile")
    label = "const made = getComputedStyle(arguments[0], '::after');" \
        "return made.display === 'none' ? '' : made.content"  # fmt: skip

    def shown():
        return [browser.execute_script(label, tile).strip('"') for tile in tiles]

    assert shown() == [""] * 6
    ActionChains(browser).move_to_element(tiles[3]).perform()
    assert shown() == ["", "", "", "bee, image 2 of 2", "", ""]
    ActionChains(browser).move_to_element(browser.find_element("tag name", "h1")).perform()
    slider = browser.find_element("css selector", ".slider input")
    slider.send_keys(Keys.TAB)
    assert shown() == ["ant, image 1 of 2", "", "", "", "", ""]
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert shown()[3] == "bee, image 2 of 2"
    assert browser.switch_to.active_element == tiles[3]


def test_the_first_tab_skips_to_the_content_and_focus_is_seen(committed, browser):
    from selenium.webdriver.common.keys import Keys

    emulate(browser)
    open_page(browser, committed.folder / "index.html")
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    first = browser.switch_to.active_element
    assert first.text == "Skip to the content"
    assert first.value_of_css_property("outline-style") == "solid"
    first.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"


def test_a_link_to_a_folded_set_unfolds_it(committed, browser):
    path = committed.folder / "cifar10-cpu/gallery.html"
    folded = re.search(r'<article class="set" id="([^"]+)"', path.read_text().split("folded")[1])[1]
    open_page(browser, path, f"#{folded}")
    assert browser.find_element("id", folded).is_displayed()
    open_page(browser, path)
    assert not browser.find_element("id", folded).is_displayed()
