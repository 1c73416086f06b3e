"""Soft labels and learned rates in evaluation, and named protocols."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from atomlib import cli
from atomlib.distill import distill
from atomlib.distilled_set import DistilledSet, read_published
from atomlib.evaluate import evaluate
from atomlib.methods import RandomImages
from atomlib.preprocess import STATISTICS, Preprocess
from atomlib.published.hand_on import write_mtt
from atomlib.published.protocols import PROTOCOLS, protocol
from atomlib.report import published_sets
from atomlib.runs import judge as judging
from atomlib.runs.judge import check_entries, judge, random_images
from atomlib.runs.status import status
from atomlib.runtime.files import write_record
from atomlib.training import EvalConfig
from tests.published.test_reading import LABELS, SIDE, TRAINED
from tests.published.test_site_table import record

SMALL = {"networks": 2, "epochs": 2, "width": 8, "depth": 2, "precision": "float32"}


@pytest.fixture
def data(make_data):
    return replace(make_data("cifar10", size=SIDE), statistics=STATISTICS["cifar10"])


def published(folder, data, labels=LABELS, **how):
    write_mtt(folder, TRAINED, labels)
    return read_published(folder, data, **how)


@pytest.mark.parametrize("together", [1, 2])
def test_one_hot_probabilities_train_as_hard_labels_do(tmp_path, data, together):
    """Soft labels that are sure of the class give the accuracies of hard ones."""
    hard = published(tmp_path / "hard", data)
    soft = published(tmp_path / "soft", data)
    soft.labels = F.one_hot(LABELS, 3).float()
    config = EvalConfig(**SMALL, together=together)
    expected = evaluate(hard, data, config, progress=False)
    assert torch.allclose(evaluate(soft, data, config, progress=False), expected)


def test_soft_labels_are_learned(tmp_path, data):
    """A network that is trained for long gives back the probabilities it was given."""
    from atomlib.models.build import network_for
    from atomlib.randomness import stream
    from atomlib.runtime.device import Execution
    from atomlib.training import Trainer

    rows = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
    made = published(tmp_path, data, rows.repeat_interleave(2, 0))
    config = EvalConfig(
        epochs=150, lr=0.05, weight_decay=0.0, width=16, depth=2, dsa={"strategies": ()}
    ).resolve(SIDE)
    network = network_for(config, data)
    trainer = Trainer(network, config, Execution(config, torch.device("cpu"), 0))
    trainer.train(made.trained, made.labels, [stream(0, "test")])
    with torch.no_grad():
        given = network(made.trained).softmax(1)
    assert (given - made.labels).abs().max() < 0.1


def test_a_published_set_is_judged_as_our_own_is(tmp_path, data):
    """The same tensors give the same accuracies, whichever class holds them."""
    config = RandomImages(ipc=2, zca=False)
    made = distill(data, config, progress=False)
    file = made.export(tmp_path, layout="dc")
    read = read_published(file, data, space="normalised")
    assert torch.equal(read.trained, made.trained) and torch.equal(read.labels, made.labels)
    settings = EvalConfig(**SMALL)
    ours, theirs = (evaluate(s, data, settings, progress=False) for s in (made, read))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("layout", ["png", "hugging-face"])
def test_our_pictures_are_read_back(tmp_path, data, layout):
    made = distill(data, RandomImages(ipc=2, zca=False), progress=False)
    read = read_published(made.export(tmp_path / "set", layout=layout), data)
    assert torch.allclose(read.images, made.images, atol=1e-5)
    assert torch.equal(read.labels, made.labels)


def test_hand_on_undoes_whitening(tmp_path, data, complains):
    """The field's files are normalised; of a whitened set that takes the data."""
    made = distill(data, RandomImages(ipc=2, zca=True), progress=False)
    with complains("data is None", "cifar10"):
        made.export(tmp_path / "mtt", layout="mtt")
    file = made.export(tmp_path / "mtt", layout="mtt", data=data)
    read = read_published(file, data, space="normalised")
    assert torch.allclose(read.images, made.images, atol=1e-4)
    assert read.looks.copies == len(made)
    own = read_published(made.save(tmp_path / "own.safetensors"), data)
    assert torch.equal(own.trained, made.trained) and own.zca is True
    again = DistilledSet.load(tmp_path / "own.safetensors")
    assert torch.allclose(own.images, again.images, atol=1e-4)


def test_whitening_of_pixels_in_0_1(tmp_path, data):
    """MTT's ZCA is fitted on images in [0, 1], and undone likewise."""
    unit = Preprocess.fit(data, zca="unit")
    pixels = data.train_images[::3].float() / 255
    published(tmp_path, data)
    torch.save(unit(data.train_images[::3]), tmp_path / "images_best.pt")
    whitened = read_published(tmp_path, data, space="whitened")
    assert torch.allclose(whitened.images, pixels, atol=1e-3)
    rows = data.train_images.flatten(1).double() / 255
    values, vectors = torch.linalg.eigh(rows.T.cov())
    matrix = vectors @ ((values.clamp_min(0) + 0.1) ** -0.5).diag() @ vectors.T
    expected = (pixels.flatten(1).double() - rows.mean(0)) @ matrix
    assert torch.allclose(whitened.trained.flatten(1).double(), expected, atol=1e-3)
    evaluate(whitened, data, EvalConfig(**SMALL), progress=False)


def test_read_without_data_is_not_evaluated(tmp_path, data, complains):
    write_mtt(tmp_path, TRAINED, LABELS)
    with complains("distilled set", "data is cifar10"):
        evaluate(read_published(tmp_path), data, EvalConfig(**SMALL), progress=False)


def test_protocols(tmp_path, data, complains):
    """What the authors do otherwise, and nothing else."""
    made = published(tmp_path, data)
    made.lr = 0.0184
    default = EvalConfig()
    assert protocol("ours", made) == default
    assert protocol("dc", made) == default.but(epochs=300, dsa={"strategies": ()})
    assert protocol("mtt", made) == protocol("datm", made) == default.but(lr=0.0184)
    assert protocol("datadam", made) == EvalConfig(recipe="code")
    made.lr = None
    assert protocol("mtt", made) == default
    assert protocol("ours", made, networks=2).networks == 2
    # Digits are augmented without flips, which a protocol without augmentation is not to undo.
    no_flips = {"strategies": ("crop",)}
    assert protocol("dc", made, dsa=no_flips).dsa.strategies == ()
    assert protocol("dsa", made, dsa=no_flips).dsa.strategies == ("crop",)
    assert all(p.label for p in PROTOCOLS.values())
    with complains("protocol", "did you mean 'datm'"):
        protocol("datms", made)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(
    "given", [{"lr": 0.02}, {"epochs": 7}, {"recipe": "text"}, {"lr": 0.02, "epochs": 7}]
)
def test_what_is_given_goes_before_what_the_authors_chose(tmp_path, data, name, given):
    made = published(tmp_path, data)
    made.lr = 0.0184
    chosen = protocol(name, made, **given)
    assert {key: getattr(chosen, key) for key in given} == given
    if "recipe" not in given:
        assert chosen == protocol(name, made).but(**given)


def test_records_are_kept(tmp_path, data, monkeypatch):
    """What was measured is read while the set and the settings are the same, and only then."""
    made = published(tmp_path / "set", data)
    kept = tmp_path / "judged"
    first = judge(made, data, "A set, IPC 2", "ours", folder=kept, progress=False, **SMALL)
    assert len(first["accuracies"]) == 2 and first["labels"] == "hard"
    with monkeypatch.context() as patch:
        patch.setattr(judging, "evaluate", None)  # a second evaluation would fail
        for name in ("ours", "dsa"):  # which are the same settings
            again = judge(made, data, "A set, IPC 2", name, folder=kept, **SMALL)
            assert again == {**first, "protocol": name}
    other = judge(made, data, "A set, IPC 2", "dc", folder=kept, progress=False, **SMALL)
    assert other["evaluate"]["dsa"]["strategies"] == []
    made.trained = made.trained + 1
    new = judge(made, data, "A set, IPC 2", "ours", folder=kept, progress=False, **SMALL)
    assert new["set"] != first["set"]
    assert sorted(file.name for file in kept.glob("*.json")) == [
        "a-set-ipc-2-dc.json",
        "a-set-ipc-2-ours.json",
    ]


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("revision", 0, "training is at revision 1, this is of 0"),
        ("versions", {"torch": "3"}, "torch was 3, is"),
    ],
)
def test_a_record_of_other_code_is_stale(tmp_path, data, monkeypatch, part, value, why):
    """By the revision of training and the libraries, as every other result."""
    made = published(tmp_path / "set", data)
    kept = tmp_path / "judged"
    monkeypatch.setattr(judging, "evaluate", lambda *_, **how: torch.tensor([50.0, 60.0]))
    first = judge(made, data, "mine", folder=kept, progress=False, **SMALL)
    (line,) = status(tmp_path)
    assert (line.name, line.state, line.why) == ("judged mine-ours", "done", "2 networks")
    evaluation = {**first["evaluation"], part: value}
    write_record(kept / "mine-ours.json", {**first, "evaluation": evaluation})
    (line,) = status(tmp_path)
    assert line.state == "stale" and why in line.why
    monkeypatch.setattr(judging, "evaluate", lambda *_, **how: torch.tensor([70.0, 80.0]))
    again = judge(made, data, "mine", folder=kept, progress=False, **SMALL)
    assert again["accuracies"] == [70.0, 80.0]


def test_random_images(data, complains):
    """Real ones, without replacement, as many of each class, and the same at the same seed."""
    made = random_images(data, 3, False)
    assert made.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    pixels = {tuple(image.flatten().tolist()) for image in (made.images * 255).round()}
    real = {tuple(image.flatten().tolist()) for image in data.train_images}
    assert len(pixels) == 9 and pixels <= real
    assert made.digest() == random_images(data, 3, False).digest()
    assert made.digest() != random_images(data, 3, False, seed=1).digest()
    with complains("ipc", "1 to 6"):
        random_images(data, 7, False)


def test_the_table(tmp_path, data):
    """A row for each set: claim, ours, theirs; what a file does not say is not made up."""
    made = published(tmp_path / "set", data)
    made.claims = {"ConvNet": [40.0, 50.0]}
    records = [
        judge(one, data, name, protocol_name, claimed=claimed, progress=False, **SMALL)
        for one, name, protocol_name, claimed in (
            (made, "mine", "ours", None),
            (made, "mine", "dc", None),
            (random_images(data, 2, False), "Random, IPC 2", "ours", None),
            (random_images(data, 2, False), "told", "mtt", 46.0),
        )
    ]
    table = published_sets.table(records)
    assert table.set.tolist() == ["mine", "Random, IPC 2", "told"]
    assert table.ours[0] == pytest.approx(sum(records[0]["accuracies"]) / 2)
    shown = published_sets.readable(table)
    assert shown.claimed.tolist() == ["45.0 ± 5.0", "–", "46.0 (not in the file)"]
    assert "DC: 2 epochs, no augmentation" in shown["its authors' protocol"][0]
    apart = records[1]["accuracies"]
    sentences = published_sets.findings(table)
    assert f"{sum(apart) / 2 - 45:+.1f} points" in sentences[0] and "elsewhere" in sentences[1]
    assert "all test images of cifar10;" in published_sets.note(records)
    less = published_sets.note(records).partition("Reduced: epochs 2 (")[2].partition(")")[0]
    assert less.split(", ") == ["ours 1000", "DC 300", "MTT 1000"]


OF_MANY = {"MLP": [20.0], "ConvNet": [40.0, 50.0], "ResNet18": [60.0], "VGG11": [70.0]}


@pytest.mark.parametrize(
    ("claims", "evaluated", "claimed"),
    [
        (OF_MANY, "convnet", 45.0),
        (OF_MANY, "resnet18", 60.0),
        (OF_MANY, "vgg11", 70.0),
        (OF_MANY, "vit", None),
        ({"CONVNET": [40.0]}, "convnet", 40.0),
        ({"ConvNet": [40.0]}, "alexnet", None),
        ({"LeNet": [40.0]}, "convnet", None),
        ({"AlexNetBN": [40.0]}, "alexnet", None),  # with BatchNorm: another network
        ({"ConvNetD3": [30.0], "ConvNetD4": [40.0]}, "convnet", 30.0),  # blocks
        ({"ConvNetD4": [40.0], "ConvNet": [50.0]}, "convnet", 50.0),
        ({"ConvNetD4": [40.0]}, "convnet", None),
        ({"final": [40.0, 42.0]}, "convnet", 41.0),
        ({"first": [40.0], "final": [42.0]}, "convnet", None),
        ({}, "convnet", None),
    ],
)
def test_a_claim_is_of_the_network_that_was_evaluated(claims, evaluated, claimed):
    """Not a mean over the networks that DC's code evaluates one after another."""
    one = record("dc", claims=claims)
    one["evaluate"] |= {"model": evaluated, "depth": 3}
    (found,) = published_sets.table([one]).claim
    assert found == claimed if claimed else pd.isna(found)
    one["claimed_elsewhere"] = 46.0
    (row,) = published_sets.table([one]).itertuples()
    assert (row.claim, row.claim_from) == ((claimed, "its file") if claimed else (46, "elsewhere"))


@pytest.mark.parametrize(("claims", "text"), [([40.0], "40.0"), ([40.0, 44.0], "42.0 ± 2.0")])
def test_a_claim_of_one_accuracy_has_no_spread(tmp_path, data, claims, text):
    shown = published_sets.readable(published_sets.table([record("dc", claims={"final": claims})]))
    assert shown.claimed.tolist() == [text]
    made = published(tmp_path / "set", data)
    made.claims = {"final": claims}
    assert ("±" in made.describe()) == ("±" in text)


def test_the_command(tmp_path, data, monkeypatch, capsys):
    write_mtt(tmp_path, TRAINED, LABELS)
    monkeypatch.setattr(judging, "load_dataset", lambda name, resize: data)
    monkeypatch.setattr(judging, "evaluate", lambda *_, **how: torch.full((_[2].networks,), 50.0))
    command = ["evaluate", str(tmp_path), "--data", "cifar10", "--networks", "2", "--random"]
    assert cli.main([*command, "--protocol", "ours", "dc"]) == 0
    printed = capsys.readouterr().out
    assert "pixels: normalised" in printed and printed.count("50.00 ± 0.00 %") == 4
    assert cli.main([*command, "--networks", "1"]) == 0
    assert "±" not in capsys.readouterr().out.replace("its file says", "")  # one has no spread
    assert cli.main([*command, "--output", ""]) == 1
    assert "output is ''" in capsys.readouterr().err
    assert cli.main([*command, "--space", "white"]) == 1
    assert capsys.readouterr().err.startswith("error: space is 'white'")


def test_a_set_of_a_resized_folder_is_judged_at_its_size(tmp_path, data, monkeypatch, capsys):
    write_mtt(tmp_path, TRAINED, LABELS)
    asked = []
    monkeypatch.setattr(
        judging, "load_dataset", lambda *name, **how: asked.append((name, how)) or data
    )
    monkeypatch.setattr(judging, "evaluate", lambda *_, **how: torch.full((_[2].networks,), 50.0))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    command = ["evaluate", str(tmp_path), "--data", "folder:pets", "--resize", "8"]
    assert cli.main([*command, "--output=~/kept"]) == 0
    assert asked == [(("folder:pets",), {"resize": 8})]
    assert list((tmp_path / "home" / "kept").glob("*.json")), "as a shell has it"


def test_files_of_one_name_have_records_of_their_own(tmp_path, data, monkeypatch):
    """MTT calls all of its files images_best.pt."""
    monkeypatch.setattr(judging, "load_dataset", lambda name, resize: data)
    monkeypatch.setattr(judging, "evaluate", lambda *_, **how: torch.full((_[2].networks,), 50.0))
    for folder in ("one", "other"):
        file = write_mtt(tmp_path / folder, TRAINED, LABELS)
        kept = ["--output", str(tmp_path / "kept")]
        assert cli.main(["evaluate", str(file), "--data", "cifar10", *kept]) == 0
    names = {path.name for path in (tmp_path / "kept").glob("*.json")}
    assert names == {"one-images_best.pt-ours.json", "other-images_best.pt-ours.json"}


@pytest.mark.parametrize(("part", "value"), [("name", None), ("name", 5), ("claimed", "57 %")])
def test_what_is_no_name_or_claim_is_told(tmp_path, data, complains, part, value):
    given = {"name": "a set", "claimed": None, part: value}
    with complains(f"{part} is", "allowed"):
        judge(published(tmp_path, data), data, **given)


def test_names_whose_files_would_be_one_are_refused(complains):
    entries = [{"name": name, "path": "x.pt"} for name in ("A, IPC 1", "A, IPC 2", "B")]
    check_entries(entries, ["C"])
    for other in ("A, IPC 1", "a ipc 1", "A/IPC/1"):
        for given in (([*entries, {"name": other, "path": "y.pt"}],), (entries, [other])):
            with complains("sets has 'A, IPC 1' and", "one name"):
                check_entries(*given)


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({"name": "A"}, ("path of an entry", "None")),
        ({"path": "x.pt"}, ("name of an entry", "None")),
        ({"name": "A", "path": "x.pt", "protocol": "dcc"}, ("protocol", "did you mean")),
        ({"name": "A", "path": "x.pt", "spaces": "pixels"}, ("'spaces'", "did you mean 'space'")),
    ],
)
def test_an_entry_is_checked_before_any_set_is_read(complains, entry, parts):
    with complains(*parts):
        check_entries([{"name": "first", "path": "x.pt", "space": "pixels"}, entry])


@pytest.mark.parametrize(("option", "value"), [("networks", "0"), ("seed", "-1")])
def test_the_command_checks_its_numbers_before_the_set_is_read(monkeypatch, capsys, option, value):
    monkeypatch.setattr(judging, "load_dataset", None)
    assert cli.main(["evaluate", "x.pt", "--data", "digits", f"--{option}={value}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {option} is {value}; allowed: ")
