"""A result made again from its record alone: equal where nothing changed, told where not."""

import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from atomlib.cli import main
from atomlib.distilled_set import DistilledSet
from atomlib.methods import DM, RandomImages
from atomlib.runs import verify as module
from atomlib.runs.store import Store
from atomlib.runs.verify import Verification, verify
from atomlib.runtime.files import read_record, write_record
from atomlib.training import EvalConfig
from tests.test_environment import ROOT

SMALL = DM(iterations=2, width=16, real_batch=4, compile="off")
BRIEF = EvalConfig(epochs=2, networks=3, width=16, compile="off")


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def report(tmp_path, data):
    """A report of one set."""
    results = Store(tmp_path / "report", progress=False)
    made = results.distilled(data, SMALL)
    results.accuracies(made, data, BRIEF)
    return results.folder


@pytest.fixture
def record(report):
    return report / "results" / "toy-dm-ipc1-seed0.json"


def edit(record, **entries):
    write_record(record, {**read_record(record), **entries})


def test_a_result_made_again_is_the_same_bytes(data, record):
    found = verify(record, data, progress=False)
    assert found.same_images and found.same_accuracies
    assert found.accuracies == read_record(record)["accuracies"]
    assert found.changed == []


def test_it_runs_with_the_threads_of_the_record(data, record, monkeypatch):
    """Each part with its own: the order of a sum, and so its last bits, depend on them."""
    then, seen = read_record(record), []
    assert then["distillation"]["threads"] == then["evaluation"]["threads"] == 1
    for part, number in (("distillation", 3), ("evaluation", 2)):
        then[part]["threads"] = number
    write_record(record, then)
    for name in ("distill", "evaluate"):
        plain = getattr(module, name)

        def counted(*given, plain=plain, **how):
            seen.append(torch.get_num_threads())
            return plain(*given, **how)

        monkeypatch.setattr(module, name, counted)
    assert verify(record, data, progress=False).changed == []
    assert (seen, torch.get_num_threads()) == ([3, 2], 1)


def test_a_record_from_before_threads_were_kept_is_made_with_todays(data, record):
    then = read_record(record)
    for part in ("distillation", "evaluation"):
        del then[part]["threads"]
    write_record(record, then)
    found = verify(record, data, progress=False)
    assert found.same_images and found.same_accuracies
    assert found.changed == [
        "how many threads made it is not on record; another number gives other last bits"
    ]


@pytest.mark.parametrize("number", [0, -1, 1e9, 2.0, "2", None, True])
def test_threads_that_cannot_be_are_refused_before_any_work(data, record, complains, number):
    edit(record, evaluation={**read_record(record)["evaluation"], "threads": number})
    with complains("threads", "is no record"):
        verify(record, data, progress=False)


def test_the_whole_data_sets_record_can_be_made_again(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))
    results = Store(tmp_path / "report", progress=False)
    results.full_data(data, BRIEF, zca=False)
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "empty"))
    found = verify(results.folder / "results" / "toy-whole.json", data, progress=False)
    assert found.same_accuracies and found.same_images is None


def test_other_images_than_the_record_tells_of_are_noticed(data, report, record):
    path = report / "distilled" / "toy-dm-ipc1-seed0.safetensors"
    kept = DistilledSet.load(path)
    kept.trained[0, 0, 0, 0] += 1e-6
    kept.save(path)
    found = verify(record, data, progress=False)
    assert found.same_images is False and found.same_accuracies


@pytest.mark.parametrize("same", [True, False])
def test_images_of_a_set_that_was_not_kept_are_known_by_its_digest(data, report, record, same):
    (report / "distilled" / "toy-dm-ipc1-seed0.safetensors").unlink()
    if not same:
        edit(record, set="0" * 64)
    assert verify(record, data, progress=False).same_images is same


def test_other_accuracies_and_versions_are_told(data, record):
    before = read_record(record)
    versions = {**before["evaluation"]["versions"], "torch": "9"}
    how = "compiled bfloat16 on cpu"
    made = {**before["evaluation"], "versions": versions, "revision": 0, "how": how}
    edit(record, accuracies=[99.0, 99.5, 100.0], evaluation=made)
    found = verify(record, data, progress=False)
    assert not found.same_accuracies and found.accuracies == before["accuracies"]
    assert "-60.6 points apart" in found.verdict and "are at chance" in found.verdict
    assert found.changed == [
        "evaluation was compiled bfloat16 on cpu, is eager float32 on cpu",
        f"torch was 9, is {before['evaluation']['versions']['torch']}",
        "training is at revision 1, this is of 0",
    ]


def test_other_data_is_refused(make_data, record, complains):
    with complains("toy with fingerprint", "the data it was made from"):
        verify(record, make_data(seed=1), progress=False)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"dataset": "toy"}'])
def test_what_is_no_record_is_refused(tmp_path, data, complains, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with complains("no record of an evaluation", "<report>/results/"):
        verify(path, data)


def test_the_exit_status_says_whether_accuracies_hold(data, record, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_dataset", lambda name: data)
    monkeypatch.setattr(module, "DATASETS", ("toy",))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert main(["verify", str(record)]) == 0
    assert "images: the same bytes" in capsys.readouterr().out
    edit(record, accuracies=[99.0, 99.5, 100.0])
    assert main(["verify", str(record)]) == 1
    assert main(["verify", str(record.parent / "missing.json")]) == 1
    assert (
        "missing.json is missing; allowed: a file of <report>/results/" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        ("now is not told apart from then: +0.1 points", 0),
        ("now is below then: -3.0 points", 1),
        ("now and then are +0.1 points apart; not tested: 1 and 1 networks are too few", 1),
    ],
)
def test_accuracies_that_are_not_told_apart_hold(record, monkeypatch, capsys, verdict, status):
    found = Verification([50.0], False, None, verdict, [])
    monkeypatch.setattr(module, "verify", lambda path, data: found)
    assert main(["verify", str(record)]) == status
    assert f"accuracies: {verdict}" in capsys.readouterr().out


def test_all_records_are_read_before_any_is_made_again(record, monkeypatch, capsys):
    monkeypatch.setattr(module, "verify", lambda path, data: pytest.fail("work began"))
    assert main(["verify", str(record), str(record.parent / "typo.json")]) == 1
    assert "typo.json is missing" in capsys.readouterr().err


def test_results_of_a_resized_folder_are_verified_at_their_size(tmp_path, monkeypatch, capsys):
    """Its fingerprint is that of the resized images."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    generator = np.random.default_rng(0)
    for place in ("train/ant", "train/bee", "test/ant", "test/bee"):
        (folder := tmp_path / "pets" / place).mkdir(parents=True)
        image = Image.fromarray(generator.integers(0, 255, (16, 16, 3), np.uint8))
        image.save(folder / "0.png")
    folder, few = f"folder:{tmp_path / 'pets'}", {"width": 4, "compile": "off"}
    resized = module.load_dataset(folder, resize=8)
    results = Store(tmp_path / "report", progress=False)
    made = results.distilled(resized, RandomImages(ipc=1, **few))
    name = results.accuracies(made, resized, EvalConfig(networks=1, epochs=1, **few))["name"]
    record = str(tmp_path / "report" / "results" / f"{name}.json")
    assert main(["verify", record, "--dataset", folder, "--resize", "8"]) == 0
    assert main(["verify", record]) == 1
    said = capsys.readouterr().err
    assert "was made from 'pets', which is no data set's name here; allowed: with" in said
    assert "--dataset folder:PATH, and --resize 8 where" in said
    assert main(["verify", record, "--dataset", folder]) == 1
    assert "allowed: the data it was made from" in capsys.readouterr().err
    assert main(["verify", record, "--resize", "8"]) == 1
    assert "resize is 8 without a dataset; allowed: " in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
def test_make_verify_without_a_result_says_how():
    asked = {"cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run(["make", "--no-print-directory", "verify"], **asked)
    assert done.returncode and not done.stdout
    assert "make verify RESULT=reports/" in done.stderr


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("accuracies", None), ("accuracies", []), ("accuracies", ["9"]), ("ipc", None),
        ("seed", None),
        ("variant", 3), ("data", 5), ("dataset", 5), ("distill", []), ("evaluate", {}),
        ("evaluate", None), ("evaluation", {"revision": 1}), ("distillation", {}),
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_refused_before_any_work(
    data, record, complains, monkeypatch, part, value
):
    """Not once its result has been made again."""
    monkeypatch.setattr(module, "distill", None)
    edit(record, **{part: value})
    with complains("no record of an evaluation"):
        verify(record, data, progress=False)


def test_a_strangers_record_is_answered_with_whose_are_verified(data, record, complains):
    edit(record, method="none")
    with complains("was made by 'none'", "no method of the package; allowed: results of random"):
        verify(record, data, progress=False)


@pytest.mark.parametrize(
    "how", [{"model": "vit"}, {"variant": "longer", "epochs": 3}], ids=["network", "evaluation"]
)
def test_a_record_of_another_network_or_evaluation_can_be_made_again(data, report, how):
    """It leaves the distillation to the record of the set."""
    results = Store(report, progress=False)
    made = results.distilled(data, SMALL)
    then = results.accuracies(made, data, BRIEF.but(**how))
    assert "distillation" not in then
    found = verify(results.layout.record(then["name"]), data, progress=False)
    assert found.same_images and found.same_accuracies


def test_every_committed_record_can_be_made_again():
    found = sorted(ROOT.glob("reports/*/results/*.json"))
    paths = [path for path in found if "lab" not in path.parts]  # a reader's own, by any method
    assert len(paths) > 200
    for path in paths:
        assert module._read(path)["accuracies"]
