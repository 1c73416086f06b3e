"""Every layout of the field, written here as its authors write it, and read back."""

import io
import json
import math
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.utils import save_image

from atomlib.distill import distill
from atomlib.errors import DataError
from atomlib.methods import RandomImages
from atomlib.preprocess import STATISTICS
from atomlib.published import layouts, read_published
from atomlib.published.hand_on import write_dc, write_mtt
from atomlib.published.looks import nearest
from atomlib.published.pixels import colour_correlation, low_frequencies
from atomlib.published.published_set import unfolded
from atomlib.runtime.files import DamagedError

CLASSES, IPC, SIDE = 3, 2, 8
LABELS = torch.arange(CLASSES).repeat_interleave(IPC)


@pytest.fixture
def data(make_data):
    return replace(make_data("cifar10", size=SIDE), statistics=STATISTICS["cifar10"])


def smooth(seed, count=CLASSES * IPC, channels=3):
    """Images that are no noise: coarse colours, enlarged, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 3, 3, generator=generator)
    tint = 0.1 * torch.rand(count, channels, 3, 3, generator=generator)
    return F.interpolate(coarse * 0.9 + tint, size=(SIDE, SIDE), mode="bilinear")


def normalised(pixels):
    mean, std = (torch.tensor(s).view(-1, 1, 1) for s in STATISTICS["cifar10"])
    return (pixels - mean) / std


TRAINED = normalised(smooth(0)) * 1.5  # beyond the range of pixels, as trained ones are


def dc(path, sets=((TRAINED, LABELS),), accuracies=(), **how):
    torch.save(
        {"data": [list(s) for s in sets], "accs_all_exps": {"ConvNet": list(accuracies)}},
        path,
        **how,
    )
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_dc(tmp_path, data, zipped):
    """Experiments one after another, numpy's numbers among the accuracies, either format."""
    sets = [(TRAINED + k / 10, LABELS) for k in range(2)]
    accuracies = [np.float64(0.25), np.float64(0.27), np.float64(0.35), np.float64(0.37)]
    path = dc(tmp_path / "res.pt", sets, accuracies, _use_new_zipfile_serialization=zipped)
    for experiment, mean in ((None, 26), (1, 36)):
        read = read_published(path, data, experiment=experiment)
        assert torch.equal(read.trained, sets[experiment or 0][0])
        assert torch.equal(read.labels, LABELS)
        assert np.mean(read.claims["ConvNet"]) == pytest.approx(mean)
        assert (read.space, read.zca, read.lr, read.ipc) == ("normalised", False, None, IPC)
    assert read.images.min() >= 0 and read.images.max() <= 1
    inside = (read.images > 0) & (read.images < 1)
    assert torch.allclose(normalised(read.images)[inside], read.trained[inside], atol=1e-5)


def test_numpy_of_before(tmp_path, data):
    """numpy 1 called the module of its numbers otherwise."""
    path = dc(tmp_path / "res.pt", accuracies=[np.float64(0.5), np.float32(0.25)])
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))
    members[name] = members[name].replace(b"numpy._core", b"numpy.core")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert read_published(path, data).claims == {"ConvNet": [50.0, 25.0]}


def test_datadam(tmp_path, data):
    """An entry for each evaluation, earliest first, and no accuracies: the last is the set."""
    sets = [(TRAINED + k, LABELS) for k in range(3)]
    read = read_published(dc(tmp_path / "res.pt", sets), data)
    assert torch.equal(read.trained, sets[2][0])
    assert read.claims == {}
    assert any("number 2" in note for note in read.notes)


def test_stages_of_one_run_are_told_by_their_likeness(tmp_path, data):
    """As many accuracies as experiments would have, but each set goes on from the one before."""
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(TRAINED.shape, generator=generator) for _ in range(8)]
    walk, alone = [sum(steps[: k + 2]) for k in range(4)], [3 * TRAINED + step for step in steps]
    for sets, read_one in ((walk, 3), (alone[:4], 0)):
        path = dc(tmp_path / "res.pt", [(s, LABELS) for s in sets], [0.1 * k for k in range(4)])
        read = read_published(path, data, space="normalised")
        assert torch.equal(read.trained, sets[read_one])
        assert read_one or read.claims == {"ConvNet": [0.0]}


@pytest.mark.parametrize("experiment", [2, -1, True, "1"])
def test_no_such_experiment(tmp_path, data, complains, experiment):
    path = dc(tmp_path / "res.pt", [(TRAINED, LABELS)] * 2)
    with complains("experiment", "0 to 1"):
        read_published(path, data, experiment=experiment)


@pytest.mark.parametrize("kind", ["tensors", "pictures", "grid", "ours"])
def test_no_experiment_of_a_file_that_holds_one_set(tmp_path, make_data, complains, kind):
    path = tmp_path / {"grid": "vis.png", "ours": "s.safetensors"}.get(kind, "s.pt")
    if kind == "tensors":
        torch.save([TRAINED, LABELS], path)
    elif kind == "grid":
        save_image(smooth(3), path, nrow=IPC)
    else:
        made = distill(make_data(), RandomImages(ipc=IPC), progress=False)
        made.save(path) if kind == "ours" else made.export(path)
    read_published(path)
    with complains("experiment is 7", path, "holds one set", "allowed: None"):
        read_published(path, experiment=7)


def test_mtt(tmp_path, data):
    """Bare tensors beside each other, from the folder or from the file of images."""
    write_mtt(tmp_path, TRAINED, LABELS, lr=0.0184)
    for path in (tmp_path, tmp_path / "images_best.pt"):
        read = read_published(path, data)
        assert torch.equal(read.trained, TRAINED) and torch.equal(read.labels, LABELS)
        assert read.lr == pytest.approx(0.0184)


def test_datm(tmp_path, data):
    """Soft labels as logits, whitened images."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator) * 4
    for name, tensor in (("images", TRAINED), ("labels", logits), ("lr", torch.tensor(0.02))):
        torch.save(tensor, tmp_path / f"{name}.pt")
    read = read_published(tmp_path, data, space="whitened")
    assert torch.allclose(read.labels, logits.softmax(1))
    assert read.zca == "unit" and torch.equal(read.trained, TRAINED)
    assert torch.equal(read.classes, logits.argmax(1))


def test_idc(tmp_path, data):
    """A list in [0, 1], normalised here; with a factor each image is several."""
    pixels = smooth(1)
    torch.save([pixels, LABELS.int()], tmp_path / "data.pt")
    read = read_published(tmp_path, data)
    assert read.space == "pixels" and torch.equal(read.images, pixels)
    assert torch.allclose(read.trained, normalised(pixels))
    read = read_published(tmp_path / "data.pt", data, factor=2)
    assert len(read) == 4 * len(pixels) and read.ipc == 4 * IPC
    part = F.interpolate(pixels[:, :, 4:, :4], size=(8, 8), mode="bilinear")
    assert torch.allclose(read.images[12:18], part.clamp(0, 1))
    assert torch.equal(read.labels[12:18], LABELS)


@pytest.mark.parametrize("space", [None, "pixels"])
def test_bytes_are_unfolded_as_the_fractions_that_they_are(tmp_path, data, space):
    """A side of 8 is filled up for a factor of 3, with grey and not with half a step of black."""
    pixels = (smooth(1) * 255).round()
    torch.save([pixels, LABELS], tmp_path / "bytes.pt")
    torch.save([pixels / 255, LABELS], tmp_path / "fractions.pt")
    read, wanted = (
        read_published(tmp_path / f"{name}.pt", data, factor=3, space=space)
        for name in ("bytes", "fractions")
    )
    assert torch.equal(read.images, wanted.images) and read.space == "pixels"


def test_unfolding_fills_up():
    """A side that the factor does not divide is filled up with 0.5 to the right and below."""
    images, labels = unfolded(torch.zeros(1, 1, 3, 3), torch.tensor([7]), 2)
    assert labels.tolist() == [7] * 4
    assert images.shape == (4, 1, 3, 3)
    assert images[0].max() == 0 and images[1].max() > 0.4 and images[3].max() > 0.4


def test_kip_and_frepo(tmp_path, data):
    """numpy's files, channels last, labels of floats."""
    last = TRAINED.permute(0, 2, 3, 1).numpy()
    targets = F.one_hot(LABELS, 3).float().numpy()
    kip = tmp_path / "kip"
    kip.mkdir()
    np.save(kip / "images.npy", last)
    np.save(kip / "labels.npy", targets - 1 / 3)
    scaled = (targets - 1 / 3) / (3 / 10) ** 0.5
    np.savez(tmp_path / "frepo.npz", image=last.astype(np.float64), label=scaled)
    np.savez_compressed(tmp_path / "packed.npz", image=last, label=LABELS.numpy().astype(np.uint8))
    for path in (kip, kip / "images.npy", tmp_path / "frepo.npz", tmp_path / "packed.npz"):
        read = read_published(path, data)
        assert torch.allclose(read.trained, TRAINED) and torch.equal(read.labels, LABELS)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "float16", "float32", "float64"])
def test_types_of_labels(tmp_path, data, kind):
    torch.save(
        {"images": TRAINED.half(), "labels": LABELS.to(getattr(torch, kind))}, tmp_path / "s.pt"
    )
    read = read_published(tmp_path / "s.pt", data)
    assert read.labels.dtype == torch.long and torch.equal(read.labels, LABELS)
    assert read.trained.dtype == torch.float32


@pytest.mark.parametrize(
    ("rows", "kind", "expected"),
    [
        ([[0.0, 1.0, 0.0]], None, [1]),  # one-hot is hard
        ([[0.2, 0.5, 0.3]], None, [[0.2, 0.5, 0.3]]),
        ([[0.2, 0.5, 0.3]], "hard", [1]),
        ([[0.2, 0.5, 0.3]], "logits", torch.tensor([[0.2, 0.5, 0.3]]).softmax(1).tolist()),
        ([[2.0, 0.0, -1.0]], None, torch.tensor([[2.0, 0.0, -1.0]]).softmax(1).tolist()),
    ],
)
def test_soft_labels(tmp_path, data, rows, kind, expected):
    rows = torch.tensor(rows).repeat(6, 1)
    rows = torch.stack([row.roll(k % 3) for k, row in enumerate(rows)])
    torch.save([TRAINED, rows], tmp_path / "s.pt")
    first = read_published(tmp_path / "s.pt", data, labels=kind).labels[0]
    assert torch.allclose(first, torch.tensor(expected[0]))


ROWS = F.one_hot(LABELS, 3).float()
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("factor", [0.1, 1, 2, 50])
@pytest.mark.parametrize("constant", [1 / 3, 0.5, 20])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_one_hot_less_a_constant_is_hard(tmp_path, data, factor, constant, kind):
    """As logits most of them would be nearly equal; who means that says so."""
    rows = (factor * (ROWS - constant)).to(kind)
    torch.save([TRAINED, rows], tmp_path / "s.pt")
    read = read_published(tmp_path / "s.pt", data)
    assert read.labels.dtype == torch.long and torch.equal(read.labels, LABELS)
    assert any("hard labels, one-hot but for" in note for note in read.notes)
    read = read_published(tmp_path / "s.pt", data, labels="logits")
    assert torch.allclose(read.labels, rows.double().softmax(1).float())


@pytest.mark.parametrize(
    "rows",
    [
        LOGITS,
        ROWS - 1 / 3 + 0.001 * LOGITS,  # FRePo's labels, where they are learned too
        1e-5 * LOGITS,
        (ROWS - 1 / 3) * torch.linspace(1, 2, 6)[:, None],
        ROWS - torch.linspace(1, 2, 6)[:, None],
        torch.tensor([1.0, -1.0, 1.0]).repeat(6, 1),
        torch.cat([ROWS[:5], torch.zeros(1, 3)]) - 1 / 3,
        -ROWS,
        torch.full((6, 3), -1.0),
    ],
)
def test_rows_of_more_than_two_values_are_logits(tmp_path, data, rows):
    torch.save([TRAINED, rows], tmp_path / "s.pt")
    read = read_published(tmp_path / "s.pt", data)
    assert torch.allclose(read.labels, rows.softmax(1))


def test_one_row_of_two_values_says_nothing(tmp_path):
    torch.save([TRAINED[:1], torch.tensor([[2.0, -1.0]])], tmp_path / "s.pt")
    assert read_published(tmp_path / "s.pt").soft


def test_smoothed_labels_are_probabilities(tmp_path, data):
    rows = 0.7 * ROWS + 0.1
    torch.save([TRAINED, rows], tmp_path / "s.pt")
    assert torch.allclose(read_published(tmp_path / "s.pt", data).labels, rows)


def test_labels_are_not_what_was_said(tmp_path, data, complains):
    torch.save([TRAINED, LABELS], tmp_path / "hard.pt")
    torch.save([TRAINED, torch.ones(6, 3)], tmp_path / "soft.pt")
    with complains("labels", "logits", "hard"):
        read_published(tmp_path / "hard.pt", data, labels="logits")
    with complains("labels", "probabilities"):
        read_published(tmp_path / "soft.pt", data, labels="probabilities")
    with complains("labels", "hard, probabilities, logits", "did you mean 'hard'"):
        read_published(tmp_path / "soft.pt", data, labels="hrd")


def test_images_alone(tmp_path, data, complains):
    """Images without labels lie class by class, as many of each."""
    torch.save(TRAINED, tmp_path / "cifar10.pt")
    read = read_published(tmp_path / "cifar10.pt", data)
    assert torch.equal(read.labels, LABELS)
    assert torch.equal(read_published(tmp_path / "cifar10.pt", ipc=2).labels, LABELS)
    with complains("no labels"):
        read_published(tmp_path / "cifar10.pt")
    torch.save(TRAINED[:5], tmp_path / "cifar10.pt")
    with complains("5 images", "no labels"):
        read_published(tmp_path / "cifar10.pt", data)


NAMINGS = {
    "names": ["ant", "Bee", "CAT"],
    "numbers": ["0", "1", "2"],
    "numbered": ["new0000", "new0001", "new0002"],
    "ours": ["000_ant", "001_bee", "002_cat"],
    "wordnet": ["n01443537", "n01629819", "n01641577"],
}


@pytest.mark.parametrize("names", NAMINGS.values(), ids=NAMINGS)
@pytest.mark.parametrize("packed", [False, True])
def test_pictures(tmp_path, data, names, packed):
    """Folders or archives of pictures by class, whatever classes are called."""
    pixels = (smooth(2) * 255).round().to(torch.uint8)
    top = tmp_path / "set" / "IPC2"
    for image, label, number in zip(pixels, LABELS.tolist(), [9, 10] * 3, strict=True):
        folder = top / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"c{label}_id{number}.png")
    path = tmp_path / "set"
    if packed:
        path = shutil.make_archive(tmp_path / "set", "zip", path)
    read = read_published(path, data)
    assert torch.equal(read.images, pixels.float() / 255)  # 9 before 10
    assert torch.equal(read.labels, LABELS)
    assert torch.allclose(read.trained, normalised(read.images), atol=1e-6)


def of_two_classes(top, folders):
    for number, folder in enumerate(folders):
        (top / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8), (100 * number, 9, 9)).save(top / folder / "a.png")
    return top


@pytest.mark.parametrize(
    ("classes", "folders", "labels"),
    [
        (("猫", "狗"), ("狗", "猫"), [1, 0]),
        (("C++", "C#"), ("C#", "C++"), [1, 0]),
        (("café", "thé"), ("Thé", "Cafe\u0301"), [1, 0]),
        (("polar bear", "cat"), ("Cat", "polar_bear"), [1, 0]),
    ],
)
def test_folders_are_known_by_the_classes_names_in_any_letters(
    tmp_path, make_data, classes, folders, labels
):
    data = replace(make_data(counts=(3, 3)), class_names=classes)
    read = read_published(of_two_classes(tmp_path / "set", folders), data)
    reds = (read.images[:, 0, 0, 0] * 255).round().int().tolist()
    found = dict(zip(reds, read.labels.tolist(), strict=True))
    assert found == {100 * number: label for number, label in enumerate(labels)}


def test_a_folder_in_other_letters_is_not_taken_for_a_class(tmp_path, make_data, complains):
    data = replace(make_data(counts=(3, 3)), class_names=("cat", "狗"))
    with complains("'鳥'", "called like no class", kind=DataError):
        read_published(of_two_classes(tmp_path / "set", ("cat", "鳥")), data)


KINDS = {".tbz2": "bztar", ".tar.bz2": "bztar", ".txz": "xztar", ".ZIP": "zip", ".Tgz": "gztar"}


@pytest.mark.parametrize("ending", KINDS)
def test_any_archive_that_a_data_set_may_lie_in_may_hold_pictures(tmp_path, ending):
    for label in range(2):
        (tmp_path / "set" / str(label)).mkdir(parents=True)
        Image.new("L", (8, 8), 100 * label).save(tmp_path / "set" / str(label) / "a.png")
    made = shutil.make_archive(tmp_path / "packed", KINDS[ending], tmp_path / "set")
    path = Path(made).rename(tmp_path / f"pictures{ending}")
    assert torch.equal(read_published(path).labels, torch.arange(2))


def test_numbers_are_read_as_numbers(tmp_path):
    """With more than ten classes, 10 does not come before 2."""
    for label in range(12):
        folder = tmp_path / "set" / str(label)
        folder.mkdir(parents=True)
        Image.new("L", (8, 8), 20 * label).save(folder / "a.png")
    read = read_published(tmp_path / "set")
    assert torch.allclose(read.images.mean((1, 2, 3)) * 255, 20.0 * torch.arange(12))
    assert torch.equal(read.labels, torch.arange(12))


@pytest.mark.parametrize("with_data", [True, False])
def test_grid(tmp_path, data, with_data):
    """torchvision's grid: a row for each class."""
    pixels = (smooth(3) * 0.9 + 0.1).clamp(0, 1)
    save_image(pixels, tmp_path / "vis.png", nrow=IPC)
    read = read_published(tmp_path / "vis.png", data if with_data else None)
    assert (read.images - pixels).abs().max() < 1 / 255
    assert torch.equal(read.labels, LABELS)


def test_a_grid_of_grey_images_has_three_channels(tmp_path, make_data):
    """torchvision writes it so; the data say how many there are."""
    pixels = smooth(3, channels=1).clamp(0.2, 1)
    save_image(pixels, tmp_path / "vis.png", nrow=IPC)
    read = read_published(tmp_path / "vis.png", make_data("digits", size=SIDE, channels=1))
    assert read.images.shape == pixels.shape and (read.images - pixels).abs().max() < 1 / 255


def test_grid_of_something_else(tmp_path, data, complains):
    save_image(smooth(3), tmp_path / "vis.png", nrow=3)
    with complains("2 rows of 3", "3 classes"):
        read_published(tmp_path / "vis.png", data)
    with complains("2 images in it"):
        read_published(tmp_path / "vis.png", ipc=2)
    Image.new("RGB", (8, 8), "white").save(tmp_path / "one.png")
    for given in (data, None):
        with complains("grid"):
            read_published(tmp_path / "one.png", given)


def test_safetensors_of_others(tmp_path, data):
    save_file({"images": TRAINED, "labels": LABELS}, tmp_path / "s.safetensors")
    assert torch.equal(read_published(tmp_path / "s.safetensors", data).trained, TRAINED)


def test_written_as_dc_does(tmp_path, data):
    """What we hand on reads back, here and with torch alone."""
    path = write_dc(
        tmp_path, TRAINED, LABELS, method="ATOM", data="cifar10", ipc=2, accuracies=[50.0]
    )
    assert path.name == "res_ATOM_CIFAR10_ConvNet_2ipc.pt"
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["data"][0][0], TRAINED)
    assert content["accs_all_exps"] == {"ConvNet": [0.5]}
    read = read_published(path, data)
    assert torch.equal(read.trained, TRAINED) and read.claims == {"ConvNet": [50.0]}


def test_a_rate_of_another_set_is_not_left_beside_this_one(tmp_path, data, complains):
    """MTT's files are read as they lie beside each other."""
    write_mtt(tmp_path, TRAINED, LABELS, lr=0.0184)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with complains(f"folder {tmp_path} holds lr.pt", "a new or an empty folder"):
        write_mtt(tmp_path, TRAINED, LABELS)
    with complains(f"folder {tmp_path} holds images_best.pt"):
        write_mtt(tmp_path, TRAINED + 1, LABELS, lr=0.0184)
    write_mtt(tmp_path, TRAINED, LABELS, lr=0.0184)  # the same again
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_mtt(tmp_path / "new", TRAINED, LABELS)
    assert read_published(tmp_path / "new", data).lr is None


def test_a_set_of_dc_is_not_written_over_another(tmp_path, complains):
    about = {"method": "DM", "data": "cifar10", "ipc": 2}
    path = write_dc(tmp_path, TRAINED, LABELS, **about)
    before = path.read_bytes()
    with complains(f"folder {tmp_path} holds {path.name}"):
        write_dc(tmp_path, TRAINED + 1, LABELS, **about)
    assert path.read_bytes() == before
    write_dc(tmp_path, TRAINED, LABELS, **about)
    write_dc(tmp_path, TRAINED + 1, LABELS, **(about | {"method": "DSA"}))
    assert len([*tmp_path.iterdir()]) == 2


def test_other_statistics(tmp_path, make_data):
    """MTT normalises CIFAR-100 by CIFAR-10's statistics."""
    torch.save([TRAINED, LABELS], tmp_path / "s.pt")
    data = replace(make_data("cifar100", size=SIDE), statistics=STATISTICS["cifar100"])
    read = read_published(tmp_path / "s.pt", data, statistics="cifar10")
    mean, std = (torch.tensor(s).view(-1, 1, 1) for s in STATISTICS["cifar100"])
    again = read.trained * std + mean
    assert torch.allclose(normalised(again), TRAINED, atol=1e-5)


def test_does_not_fit(tmp_path, make_data, complains):
    """Another resolution, other channels, more or fewer classes: one sentence each."""
    torch.save([TRAINED, LABELS], tmp_path / "s.pt")
    with complains("(3, 8, 8)", "(3, 16, 16)"):
        read_published(tmp_path / "s.pt", make_data(size=16))
    with complains("(1, 8, 8)"):
        read_published(tmp_path / "s.pt", make_data(channels=1))
    with complains("go to 2", "2 classes"):
        read_published(tmp_path / "s.pt", make_data(counts=(3, 3)))
    torch.save([TRAINED, LABELS * 2], tmp_path / "s.pt")
    with complains("go to 4"):
        read_published(tmp_path / "s.pt", make_data())
    torch.save([TRAINED[:4], LABELS[:4]], tmp_path / "s.pt")
    with complains("no image of class 2"):
        read_published(tmp_path / "s.pt", make_data())
    torch.save([TRAINED, torch.randn(6, 4)], tmp_path / "s.pt")
    with complains("4 columns"):
        read_published(tmp_path / "s.pt", make_data())
    torch.save([TRAINED, LABELS[:5]], tmp_path / "s.pt")
    with complains("(5,)", "6 images", kind=DamagedError):
        read_published(tmp_path / "s.pt", make_data())


def test_noise_and_real_images_are_told(tmp_path, data):
    generator = torch.Generator().manual_seed(0)
    photographs = (smooth(7, 24) * 255).round().to(torch.uint8)
    data = replace(data, train_images=photographs[:18], test_images=photographs[18:])
    sets = {
        "noise": torch.randn(6, 3, SIDE, SIDE, generator=generator),
        "untouched real": normalised(data.train_images[::3].float() / 255),
        "real test": normalised(data.test_images.float() / 255),
        "": TRAINED,
    }
    for word, images in sets.items():
        torch.save([images, LABELS], tmp_path / "s.pt")
        read = read_published(tmp_path / "s.pt", data, space="normalised")
        if word:
            assert word in read.looks.warning
            assert read.looks.copies == (6 if word == "untouched real" else 0)
            assert read.looks.test_copies == (6 if word == "real test" else 0)
        else:
            assert not read.looks.warning
            assert read.looks.distinct > 0.9 and min(read.looks.distances) > 0.01


def test_the_distance_to_the_nearest_real_image_is_a_root_mean_square():
    real = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    real[1] = 200
    image = real[:1].float() / 255 + torch.tensor([0.0, 0.03, 0.06]).view(1, 3, 1, 1)
    (distance,) = nearest(image, real, piece=1).tolist()
    assert distance == pytest.approx(math.sqrt((0.03**2 + 0.06**2) / 3), abs=1e-5)


def test_low_frequencies_are_those_below_a_tenth_of_a_cycle_a_pixel():
    across = torch.arange(40.0)
    waves = [torch.sin(2 * math.pi * cycles * across / 40) for cycles in (3, 5)]
    low, high = (wave.expand(1, 2, 40, 40) + 7 for wave in waves)
    assert low_frequencies(low) == pytest.approx(1) and low_frequencies(high) < 1e-6
    both = low_frequencies(low + 3 * (high - 7))
    assert both == pytest.approx(1 / 10)  # power goes by the square of the amplitude


def test_colours_correlate_as_numpy_has_it():
    images = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images[:, 1] += images[:, 0]
    centred = images - images.mean((2, 3), keepdim=True)
    r = np.corrcoef(centred.transpose(0, 1).flatten(1).numpy())
    assert colour_correlation(images) == pytest.approx((r[0, 1] + r[0, 2] + r[1, 2]) / 3, abs=1e-6)


def test_smooth_images_of_unlike_colours_are_not_taken_for_whitened(tmp_path):
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(60, 3, 3, 3, generator=generator)
    images = F.interpolate(coarse, size=(32, 32), mode="bilinear")
    assert abs(colour_correlation(images)) < 0.2 and low_frequencies(images) > 0.3
    torch.save([images, torch.arange(60) % 3], tmp_path / "s.pt")
    assert read_published(tmp_path / "s.pt").space == "normalised"


def test_guessing_the_space(tmp_path):
    """From the values alone: pixels, normalised, whitened."""
    pixels = smooth(4, 60)
    generator = torch.Generator().manual_seed(1)
    white = torch.randn(60, 3, SIDE, SIDE, generator=generator) * 0.5
    for images, space in (
        (pixels, "pixels"),
        ((pixels * 255).round(), "pixels"),
        ((pixels * 255).round().to(torch.uint8), "pixels"),
        (normalised(pixels), "normalised"),
        (white, "whitened"),
    ):
        torch.save([images, torch.arange(60) % 3], tmp_path / "s.pt")
        read = read_published(tmp_path / "s.pt")
        assert read.space == space
        assert read.images.min() >= 0 and read.images.max() <= 1
    assert "pixels" in read.describe() and "note:" in read.describe()


def test_settings(tmp_path, data, complains):
    path = write_mtt(tmp_path, TRAINED, LABELS)
    for settings, parts in (
        ({"space": "whitend"}, ("space", "did you mean 'whitened'")),
        ({"factor": 0}, ("factor", "1 to 16")),
        ({"factor": True}, ("factor",)),
        ({"ipc": 0}, ("ipc",)),
        ({"experiment": 1}, ("experiment", "one set")),
        ({"statistics": "mnist"}, ("statistics", "cifar10")),
    ):
        with complains(*parts):
            read_published(path, data, **settings)
    with complains("missing"):
        read_published(tmp_path / "none.pt", data)
    with complains("data"):
        read_published(path, "cifar10")
    torch.save(TRAINED, tmp_path / "images_5000.pt")
    (tmp_path / "images_best.pt").unlink()
    torch.save(TRAINED, tmp_path / "images_4000.pt")
    with complains("several", "images_4000.pt, images_5000.pt"):
        read_published(tmp_path, data)


def test_items(tmp_path, data):
    """It is a torch data set, of pixels and labels."""
    read = read_published(write_mtt(tmp_path, TRAINED, LABELS), data)
    image, label = read[5]
    assert len(read) == 6 and label == 2 and torch.equal(image, read.images[5])
    assert json.dumps(read.claims) == "{}" and io.StringIO(read.describe()).readline()


@pytest.mark.parametrize(("kept", "percent"), [
    ({"ConvNet": [50.0, 51.0], "MLP": [0.9]}, {"ConvNet": [50.0, 51.0], "MLP": [0.9]}),
    ({"ConvNet": [0.5, 0.51], "MLP": [0.009]}, {"ConvNet": [50.0, 51.0], "MLP": [0.9]}),
])  # fmt: skip
def test_claims_are_fractions_or_percent_through_a_whole_file(kept, percent):
    """A network that learned nothing may be below 1 %."""
    found = layouts._accuracies(kept)
    assert found == {network: pytest.approx(values) for network, values in percent.items()}
