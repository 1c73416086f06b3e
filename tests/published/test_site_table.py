"""The table of published sets on the site: a thumbnail in each row."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from PIL import Image

from atomlib.published import read_published
from atomlib.published.hand_on import write_mtt
from atomlib.report import published_sets
from atomlib.report.writing import write_table
from atomlib.runs.judge import thumbnail
from atomlib.runtime.layout import Layout
from atomlib.site import published_sets as on_site
from atomlib.site.build import build
from tests.published.test_reading import LABELS, TRAINED

NAME = "DC's, IPC <1> & more"


def record(protocol, **changes):
    settings = {"epochs": 300, "dsa": {"strategies": []}, "lr": 0.01, "batch_size": 256}
    settings["model"] = "convnet"
    return {
        "name": NAME, "dataset": "cifar10", "ipc": 1, "images": 10, "labels": "hard",
        "space": "normalised", "lr": None, "claims": {"ConvNet": [28.0, 29.0]},
        "claimed_elsewhere": None, "distinct": 1.0, "nearest": 0.2, "warning": "",
        "protocol": protocol, "evaluate": settings, "accuracies": [27.0, 28.0], **changes,
    }  # fmt: skip


def test_a_thumbnail_holds_the_first_image_of_each_class(tmp_path):
    made = read_published(write_mtt(tmp_path, TRAINED, LABELS))
    with Image.open(thumbnail(made, tmp_path / "small.png")) as image:
        assert image.size == (3 * 8, 8)
        middle = torch.tensor(np.array(image.crop((8, 0, 16, 8))))
    expected = (made.images[2] * 255).round().permute(1, 2, 0)
    assert torch.equal(middle.float(), expected)
    assert [path.name for path in tmp_path.glob("*.png")] == ["small.png"]


def test_rows(tmp_path):
    """What a reader sees, with the picture where there is one."""
    table = published_sets.table([record("ours"), record("dc"), record("ours", name="other")])
    tables = {"published_sets": table}
    report = SimpleNamespace(name="a b", layout=Layout(tmp_path), tables=tables)
    stem = published_sets.stem(NAME)
    assert stem == "dc-s-ipc-1-more"
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / f"{stem}.png").touch()
    first, second = on_site.rows(SimpleNamespace(report=report, root="a%20b/"))
    assert first["thumbnail"] == f"a%20b/judged/{stem}.png" and second["thumbnail"] == ""
    assert first["cells"]["claimed"] == "28.5 ± 0.5"
    assert first["cells"]["its authors' protocol"].startswith("27.5 ± 0.5 (DC: 300 epochs, no aug")
    report.tables = {"main_table": pd.DataFrame()}
    assert on_site.rows(SimpleNamespace(report=report, root="a%20b/")) == []


def test_a_table_alone_is_a_report_with_nothing_empty(tmp_path):
    """Without pictures, notebooks and runs: as the committed one, whose files are not there."""
    table = published_sets.table([record("ours"), record("ours", name="other")])
    folder = tmp_path / "reports/other"
    write_table(table, folder, "published_sets", "The note.", published_sets.readable)
    page = (build(out=tmp_path / "site", reports=tmp_path / "reports") / "index.html").read_text()
    shown = page.split('id="published-other"')[1].split("</figure>")[0]
    assert "nan" not in shown and "<td></td>" in shown  # no note is an empty cell
    assert "<thead><tr><th" in shown and "The first image" not in shown
    assert "The notebooks" not in page
    assert "make reports PROFILE=other ATOM_SETS=folder</code>" in page
    assert '<li><a href="index.html#report-other">Table</a></li>' in page
