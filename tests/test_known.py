"""Data sets known by their pixels: the same whatever they come from, and nothing by its name."""

import hashlib
import pickle
import tarfile
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from atomlib.datasets import ImageData, decoded, known, load_dataset
from atomlib.distill import distill
from atomlib.errors import DataError, MissingDataError
from atomlib.methods import ATOM, RandomImages
from atomlib.report.readable import provenance
from atomlib.report.records import data_of
from atomlib.report.tables import main_table
from tests.test_report import record

NAMES = ("cat", "dog")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rows():
    """{split: (pixels, labels)} of two classes, 32 x 32, an image that occurs twice among them."""
    chance = np.random.default_rng(0)

    def split(n):
        pixels = chance.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        pixels[1] = pixels[0]
        return pixels, np.array([0, 0, *chance.integers(0, 2, n - 3), 1])

    return {"train": split(7), "test": split(5)}


def as_data(rows, name="any", order=slice(None)):
    tensors = [torch.from_numpy(part[order].copy()) for split in rows.values() for part in split]
    return ImageData(name, *tensors, NAMES)


def digest_by_definition(rows):
    """Slowly, from the definition alone."""
    text = b""
    for pixels, labels in rows.values():
        pairs = [
            int(label).to_bytes(4, "big") + hashlib.sha256(image.tobytes()).digest()
            for image, label in zip(pixels, labels, strict=True)
        ]
        text += f"{pixels.shape}\n".encode() + b"".join(sorted(pairs))
    return hashlib.sha256(text).hexdigest()


@pytest.fixture
def official(monkeypatch, rows):
    """Makes these rows the official data set of the name "cifar10"."""
    made = known.official("cifar10")._replace(
        fingerprint=digest_by_definition(rows), shape=(7, 5, 3, 32), class_names=NAMES
    )
    monkeypatch.setattr(known, "OFFICIAL", (made,))
    return made


def write_binaries(folder, rows, monkeypatch):
    """The official layout, its checksums those of these files."""
    (folder / "cifar-10-batches-py").mkdir(parents=True)

    def put(name, content):
        content = pickle.dumps(content)
        (folder / "cifar-10-batches-py" / name).write_bytes(content)
        return [name, hashlib.md5(content).hexdigest()]

    def batch(pixels, labels):
        return {"data": pixels.reshape(len(pixels), -1), "labels": labels.tolist()}

    (pixels, labels), test = rows["train"], rows["test"]
    kind = torchvision_datasets.CIFAR10
    first, second = batch(pixels[4:], labels[4:]), batch(pixels[:4], labels[:4])
    monkeypatch.setattr(kind, "train_list", [put("part_1", first), put("part_2", second)])
    monkeypatch.setattr(kind, "test_list", [put("part_3", batch(*test))])
    meta = dict(zip(["filename", "md5"], put("names", {"label_names": ["x", "y"]}), strict=True))
    monkeypatch.setattr(kind, "meta", {**meta, "key": "label_names"})


def write_images(folder, rows, ending="png", **options):
    """{train,test}/<class>/<image> below ``folder``, under names in no order."""
    for split, (pixels, labels) in rows.items():
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            path = folder / split / NAMES[label] / f"{number * 7919 % 101}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path, **options)
    return folder


def pack(folder, path):
    with tarfile.open(path, "w") as archive:
        archive.add(folder, "images")
    return path


@pytest.fixture
def sources(tmp_path, rows, monkeypatch):
    """{where from: load it} of the same images."""
    write_binaries(tmp_path / "binaries", rows, monkeypatch)
    write_images(tmp_path / "folder" / "cifar10", rows)
    write_images(tmp_path / "webp", rows, "webp", lossless=True)
    (tmp_path / "archive").mkdir()
    pack(tmp_path / "webp", tmp_path / "archive" / "cifar10.tar")
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "binaries" / "cifar-10-batches-py", "cifar-10-batches-py")
    content = (packed / "cifar-10-python.tar.gz").read_bytes()
    kind = torchvision_datasets.CIFAR10
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(content).hexdigest())
    named = {
        place: lambda place=place: load_dataset("cifar10", root=tmp_path / place)
        for place in ("binaries", "packed", "folder", "archive")
    }
    return named | {"another name": lambda: load_dataset(f"folder:{tmp_path / 'webp'}")}


def test_the_same_images_are_one_data_set_wherever_they_come_from(sources, rows, official):
    made = {place: load() for place, load in sources.items()}
    for place, data in made.items():
        assert (data.name, data.label) == ("cifar10", "CIFAR-10"), place
        assert (data.fingerprint, data.class_names) == (official.fingerprint, NAMES)
        assert (data.published_as, data.zca) == ("cifar10", True)
        for split, (pixels, labels) in rows.items():
            order = sorted(
                range(len(labels)),
                key=lambda i: (labels[i], hashlib.sha256(pixels[i].tobytes()).digest()),
            )
            np.testing.assert_array_equal(getattr(data, f"{split}_images"), pixels[order])
            np.testing.assert_array_equal(getattr(data, f"{split}_labels"), labels[order])
    digests = {
        distill(data, RandomImages(zca=False), progress=False).digest() for data in made.values()
    }
    assert len(digests) == 1  # what is drawn is the same


def test_a_second_load_decodes_nothing(sources, official, monkeypatch):
    first = {place: load() for place, load in sources.items()}
    monkeypatch.setattr(decoded, "recognised", None)
    for place, load in sources.items():
        assert torch.equal(load().train_images, first[place].train_images)


def test_the_content_digest_is_what_it_says_and_knows_no_order(rows):
    found, orders = known.content_digest([[torch.from_numpy(p) for p in s] for s in rows.values()])
    assert found == digest_by_definition(rows)
    assert [sorted(order.tolist()) for order in orders] == [list(range(7)), list(range(5))]
    turned = [[torch.from_numpy(p[::-1].copy()) for p in split] for split in rows.values()]
    assert known.content_digest(turned)[0] == found


def test_an_image_that_occurs_twice_counts_twice(rows):
    once = {split: (p.copy(), labels) for split, (p, labels) in rows.items()}
    once["train"][0][1] = once["train"][0][2]  # another one occurs twice in its stead
    assert digest_by_definition(once) != digest_by_definition(rows)
    found, _ = known.content_digest([[torch.from_numpy(p) for p in s] for s in once.values()])
    assert found == digest_by_definition(once)


@pytest.mark.parametrize("change", ["a pixel", "a label", "a split"])
def test_what_is_almost_official_is_not(tmp_path, rows, official, change):
    (pixels, labels), (others, _) = rows["train"], rows["test"]
    match change:
        case "a pixel":
            pixels[3, 0, 0, 0] ^= 1
        case "a label":
            labels[-2] = 1 - labels[-2]
        case "a split":
            pixels[3], others[3] = others[3].copy(), pixels[3].copy()
    data = load_dataset(f"folder:{write_images(tmp_path / 'x', rows)}")
    assert (data.name, data.label, data.published_as) == ("x", "x", "x")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tinyimagenet", "cifar10-jpeg", "digits"])
def test_a_folder_that_is_only_called_so_is_a_folder(tmp_path, rows, capsys, name):
    data = load_dataset(f"folder:{write_images(tmp_path / name, rows)}")
    assert (data.name, data.label) == (f"folder-{name}", f"folder-{name}")
    assert (data.published_as, data.zca, data.statistics) == (data.name, False, None)
    assert (data.augmentations, data.note) == (None, "")
    assert name in capsys.readouterr().err  # said, since a name changed
    assert ATOM().resolve(data).zca is False


def test_cifar_at_the_beginning_of_a_name_means_nothing(tmp_path, rows):
    data = load_dataset(f"folder:{write_images(tmp_path / 'cifar-of-mine', rows)}")
    assert (data.name, data.zca) == ("cifar-of-mine", False)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_other_images_are_refused_under_the_official_name(tmp_path, rows, complains, kind):
    write_images(tmp_path / "cifar10", rows)
    if kind == "archive":
        pack((tmp_path / "cifar10").rename(tmp_path / "x"), tmp_path / "cifar10.tar")
    with complains(tmp_path / "cifar10", "holds other images", "folder:cifar10", kind=DataError):
        load_dataset("cifar10", root=tmp_path)


def test_row_order_and_fingerprint_of_any_other_folder_stay(tmp_path, rows):
    """By class and file name; the fingerprint is that of the tensors in this order."""
    data = load_dataset(f"folder:{write_images(tmp_path / 'x', rows)}")
    paths = sorted((tmp_path / "x" / "train").rglob("*.png"), key=lambda p: (p.parent, p.name))
    expected = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])
    np.testing.assert_array_equal(data.train_images, expected)
    digest = hashlib.sha256("\0".join(NAMES).encode())
    for part in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        digest.update(str(tuple(part.shape)).encode())
        digest.update(part.numpy().tobytes())
    assert data.fingerprint == digest.hexdigest()


def test_embedded_digits_are_known():
    for name, label in (("digits", "digits (8 x 8)"), ("digits32", "digits (32 x 32)")):
        data = load_dataset(name)
        assert (data.name, data.label, data.zca) == (name, label, False)
        assert set(data.augmentations) == {"color", "crop", "cutout", "scale", "rotate"}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_official_sets_are_whole(name):
    about = known.official(name)
    assert len(about.fingerprint) == 64
    assert len(set(about.class_names)) == {"cifar10": 10, "cifar100": 100}[name]
    assert list(about.class_names) == sorted(about.class_names)  # alphabetical is official
    assert about.shape == (50_000, 10_000, 3, 32)
    assert about.classes == len(about.class_names)
    assert about.classes * about.smallest_class == 50_000


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar100", (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        ("tinyimagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_statistics_are_those_that_the_field_uses(name, mean, deviation):
    """docs/facts.md, "Pixel statistics"."""
    assert known.of(name, None).statistics == (mean, deviation)


def test_published_figures_go_by_content(rows):
    jpeg = next(k for k in known.AS_LOADED if k.name == "cifar10-jpeg")
    records = [
        record("cifar10", "atom") | {"data": known.official("cifar10").fingerprint},
        record("cifar10-jpeg", "atom") | {"data": jpeg.fingerprint},
        record("cifar100", "atom") | {"data": as_data(rows).fingerprint},
    ]
    table = main_table(records).set_index("dataset")
    assert table.published["cifar10"] == table.published["cifar10-jpeg"] > 0
    assert np.isnan(table.published["cifar100"])
    assert [data_of(r).label for r in records] == ["CIFAR-10", "CIFAR-10 (JPEG)", "cifar100"]
    assert jpeg.note in provenance(records[1:2]) and jpeg.note not in provenance(records[:1])


def test_missing_data_says_what_to_fetch_and_where_to_put_it(tmp_path, complains):
    parts = ("make data DATASET=cifar10", tmp_path, "cifar-10-python.tar.gz", "cifar10.tar")
    with complains(*parts, kind=MissingDataError):
        load_dataset("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "file"), [("cifar10", "cifar-10-python.tar.gz"), ("tinyimagenet", "tiny-imagenet-200")]
)
def test_a_download_without_a_network_says_what_to_fetch(
    tmp_path, complains, monkeypatch, name, file
):
    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", refuse)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    with complains("no network", tmp_path, f"put into that folder, {file}", "://"):
        load_dataset(name, root=tmp_path, download=True)
