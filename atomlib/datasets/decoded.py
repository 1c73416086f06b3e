"""Data sets as they were decoded, one file each in the cache folder; official ones recognised."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace

from atomlib.datasets import known
from atomlib.datasets.image_data import BROUGHT, ImageData
from atomlib.runtime.cache import keep_tensors, kept_tensors
from atomlib.runtime.paths import cache_folder

CACHE_FORMAT = 5  # raise it when decoding changes, so that old caches are not read

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def decoded(name: str, source: str, decode: Callable[[], tuple[ImageData, str]]) -> ImageData:
    """The data that ``decode`` gives, recognised, and kept for when ``source`` is the same again.

    ``source`` says what is decoded and how; ``name`` begins the name of the file in the cache. What
    ``decode`` remarks, such as files that were left out, is written to stderr at every load.
    """
    key = hashlib.sha256(f"{CACHE_FORMAT} {source}".encode()).hexdigest()[:16]
    path = cache_folder() / "data" / f"{name}-{key}.safetensors"
    if (kept := kept_tensors(path)) is not None:
        tensors, about = kept
        _tell(about.pop("remark"))
        return ImageData(**tensors, **{**about, "class_names": tuple(about["class_names"])})
    found, remark = decode()
    data = recognised(found)
    if data.name == f"folder-{found.name}":
        remark = (
            f"{found.name} is only called so: it holds other images than the data set of that "
            f"name, and is taken as {data.name}. {remark}"
        ).strip()
    _tell(remark)
    tensors = {key: getattr(data, key) for key in TENSORS}
    about = {"name": data.name, "class_names": data.class_names, "fingerprint": data.fingerprint}
    about["remark"] = remark
    keep_tensors(path, tensors, about)
    return data


def _tell(remark: str) -> None:
    if remark:
        print(remark, file=sys.stderr)


def recognised(data: ImageData) -> ImageData:
    """An official data set in canonical order, under its own name; any other as it is.

    A name that belongs to a known data set is no other one's: a folder that is only called
    "cifar10" becomes "folder-cifar10".
    """
    train, test = data.train_images, data.test_images
    form = ((len(train), len(test), *train.shape[1:3]), data.num_classes)
    if form in [(k.shape, len(k.class_names)) for k in known.OFFICIAL]:
        digest, rows = known.content_digest(((train, data.train_labels), (test, data.test_labels)))
        found = known.find(digest)
        if found:
            return ImageData(
                found.name,
                train[rows[0]],
                data.train_labels[rows[0]],
                test[rows[1]],
                data.test_labels[rows[1]],
                found.class_names,
                found.fingerprint,
            )
    found = known.find(data.fingerprint)
    if found:
        return _renamed(data, found.name)
    # Nor are "CIFAR10" and "Cifar10", which some file systems take for the same.
    is_taken = data.name.casefold() in known.names()
    return _renamed(data, f"folder-{data.name}") if is_taken else data


def _renamed(data: ImageData, name: str) -> ImageData:
    """The same under another name, and with what it brings by its fingerprint."""
    return replace(data, name=name, **dict.fromkeys(BROUGHT))
