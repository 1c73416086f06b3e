"""Which files of a folder or archive are the data set: decided by names, before any image is read.

A root is a folder that holds train/<class>/ and test/<class>/ (or val/<class>/), at any depth below
the top. There is exactly one, or the data set is refused. Every file below a class folder belongs
to that class, however deep, as torchvision's ImageFolder has it; images elsewhere are left out,
with a count. TinyImageNet's own layout is one whose root also holds wnids.txt, and whose val/ holds
one folder, images/.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from atomlib.datasets.limits import unspeakable
from atomlib.datasets.listing import Listing
from atomlib.errors import DataError, shown

IMAGES = {
    *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
"""Endings of images."""

LISTS = {"wnids.txt", "words.txt", "val_annotations.txt"}
"""TinyImageNet's: the classes, their names, and the classes of the validation images."""

SPLITS = ("train", "test", "val")

NAME_BYTES = 200
"""Of a class name; with its number before it, it must do for a folder (``DistilledSet.export``)."""

LAYOUT = "allowed: train/<class>/<image> and test/ or val/ likewise, or TinyImageNet's own layout"


class Layout(NamedTuple):
    """What is to be read, and what is not."""

    class_names: tuple[str, ...]
    members: dict[str, list[tuple[int, str]]]
    """For "train" and "test": (label, file name) of each image, by class and then by name."""
    left_out: list[str]
    """Files and folders that look as if they belonged to the data set, and do not."""
    doubled: list[str]
    """Images of a name that the archive holds more than once."""


def may_matter(name: str) -> bool:
    """Whether a file may turn out to be part of a data set, whatever else there is."""
    *folders, file = name.split("/")
    return file in LISTS or (_is_image(file) and any(part in SPLITS for part in folders[:-1]))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGES


def lay_out(listing: Listing, path: Path) -> Layout:
    """The layout of what ``listing`` lists. Raises DataError where there is none, or two."""
    splits = _splits(listing.names, path)
    if "train" in splits and _is_official(listing, splits["train"].parent):
        layout = _official(listing, splits["train"].parent, path)
    else:
        held_out = "test" if "test" in splits else "val"
        for split in ("train", held_out):
            if split not in splits:
                raise _absent(listing, split, path)
        layout = _by_folder(listing, splits["train"], splits[held_out], path)
    for name in layout.class_names:
        _check_class_name(name, path)
    return layout


def _absent(listing: Listing, split: str, path: Path) -> DataError:
    """What is there instead of a split: a link in its place, or folders of other names."""
    wanted = ("train",) if split == "train" else ("test", "val")
    for name, kind in listing.links.items():
        if name.rpartition("/")[2] in wanted:
            return DataError(f"{shown(name)} of {path} is {kind}")
    folders = {*listing.folders, *(name.rpartition("/")[0] for name in listing.names)}
    tops = sorted({folder.partition("/")[0] for folder in folders} - {"", *SPLITS})
    others = f" (but {', '.join(shown(top) for top in tops[:3])})" if tops else ""
    return DataError(
        f"{path} has no {'/ or '.join(wanted)}/ with one folder of images per class{others}; "
        f"{LAYOUT}"
    )


def _apart_in(listing: Listing, tops: Iterable[str]) -> list[str]:
    """Hidden images and folders, and pipes, below these, but for the twins that macOS packs."""
    tops = tuple(tops)
    return [
        name
        for name in listing.apart
        if name.startswith(tops)
        and not name.rstrip("/").rpartition("/")[2].startswith(("._", "__MACOSX"))
        and (name.endswith("/") or _is_image(name))
    ]


def _splits(names: Iterable[str], path: Path) -> dict[str, PurePosixPath]:
    """The folder of each split: those of the only root, or else the only one of that name."""
    held: dict[PurePosixPath, set[str]] = defaultdict(set)
    outermost: dict[str, set[PurePosixPath]] = defaultdict(set)
    # Of each folder once: there are few, and many files.
    for folder in {name.rpartition("/")[0] for name in names}:
        parts = folder.split("/")
        for depth, part in enumerate(parts[:-1]):  # a class folder follows
            if part in SPLITS:
                held[PurePosixPath(*parts[:depth])].add(part)
                if part not in parts[:depth]:
                    outermost[part].add(PurePosixPath(*parts[: depth + 1]))
    roots = sorted(root for root, splits in held.items() if "train" in splits and len(splits) > 1)
    # A class may be called "train": what lies inside a split is no root of its own.
    roots = [r for r in roots if not any(_is_inside_a_split(r, other) for other in roots)]
    if len(roots) > 1:
        raise _two(path, *(root / "train" for root in roots[:2]))
    if roots:
        return {split: roots[0] / split for split in held[roots[0]]}
    for folders in outermost.values():
        if len(folders) > 1:
            raise _two(path, *sorted(folders)[:2])
    return {split: min(folders) for split, folders in outermost.items()}


def _is_inside_a_split(folder: PurePosixPath, root: PurePosixPath) -> bool:
    below = folder.parts[len(root.parts) :]
    return folder.is_relative_to(root) and bool(below) and below[0] in SPLITS


def _two(path: Path, first: PurePosixPath, second: PurePosixPath) -> DataError:
    return DataError(
        f"{path} holds more than one data set, one in {shown(str(first))} and one in "
        f"{shown(str(second))}; allowed: one (name its folder alone, or move the others away)"
    )


def _by_folder(
    listing: Listing, train: PurePosixPath, held_out: PurePosixPath, path: Path
) -> Layout:
    """A class folder each in both splits; all images below it are of the class."""
    folders = {"train": train, "test": held_out}
    while True:  # train/train/<class>/ and test/test/<class>/, as archives are unpacked
        inner = {split: _subfolders(listing, folder) for split, folder in folders.items()}
        if any(inner[split] != {folder.name} for split, folder in folders.items()):
            break
        folders = {split: folder / folder.name for split, folder in folders.items()}
    listing.refuse_links(folders.values())
    classes = {split: _classes(inner[split], folder, path) for split, folder in folders.items()}
    for here, there in (("train", "test"), ("test", "train")):
        for name in sorted(set(classes[here]) - set(classes[there])):
            raise DataError(
                f"class folder {shown(name)} of {path} is in {folders[here].name}/ but not in "
                f"{folders[there].name}/; allowed: the same class folders in both"
            )
    class_names = tuple(sorted(classes["train"]))
    label = {name: index for index, name in enumerate(class_names)}
    members: dict[str, list[tuple[int, str]]] = {"train": [], "test": []}
    left_out = []
    tops = [(split, f"{folder}/") for split, folder in folders.items()]
    for file in listing.names:
        split, top = next((pair for pair in tops if file.startswith(pair[1])), (None, ""))
        folder, _, below = file[len(top) :].partition("/")
        if split and below and _is_image(file):
            members[split].append((label[_normal(folder)], file))
        elif split or _is_image(file):
            left_out.append(file)
    for split, folder in folders.items():
        empty = sorted(set(range(len(class_names))) - {k for k, _ in members[split]})
        if empty:
            name = class_names[empty[0]]
            there = [f for f in left_out if f.startswith(f"{folder / classes[split][name]}/")]
            other = f" (but other files, such as {shown(there[0])})" if there else ""
            raise DataError(
                f"class folder {shown(name)} of {path} holds no images in {folder.name}/{other}; "
                f"allowed: one image or more, ending in {', '.join(sorted(IMAGES))}"
            )
    left_out += _apart_in(listing, (top for _, top in tops))
    doubled = [name for name in listing.doubles if name.startswith(tuple(top for _, top in tops))]
    return Layout(class_names, {s: sorted(rows) for s, rows in members.items()}, left_out, doubled)


def _subfolders(listing: Listing, folder: PurePosixPath) -> set[str]:
    """Names of the folders in a folder, be they empty."""
    top = f"{folder}/"
    paths = {*listing.folders, *(name.rpartition("/")[0] for name in listing.names)}
    return {path[len(top) :].partition("/")[0] for path in paths if path.startswith(top)}


def _classes(folders: set[str], split: PurePosixPath, path: Path) -> dict[str, str]:
    """Class names and the folders they are of: accents are written in one way or another."""
    found: dict[str, str] = {}
    for folder in sorted(folders):
        other = found.setdefault(_normal(folder), folder)
        if other != folder:
            raise DataError(
                f"{split}/ of {path} has two class folders of one name, {other!a} and "
                f"{folder!a}; allowed: one"
            )
    return found


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_official(listing: Listing, root: PurePosixPath) -> bool:
    """Whether this is TinyImageNet's layout: leftovers of it, such as a list, do not decide."""
    images = f"{root / 'val' / 'images'}/"
    return str(root / "wnids.txt") in listing.names and any(
        name.startswith(images) for name in listing.names
    )


def _official(listing: Listing, root: PurePosixPath, path: Path) -> Layout:
    """TinyImageNet's layout; its validation images are the test set, test/ has no labels."""
    listing.refuse_links([root / "train", root / "val"])
    lists = {
        "wnids.txt": root / "wnids.txt",
        "words.txt": root / "words.txt",
        "val_annotations.txt": root / "val" / "val_annotations.txt",
    }
    names = listing.names
    texts = dict(listing.read([str(file) for file in lists.values() if str(file) in names]))

    def rows(name: str) -> list[list[str]]:
        """The fields of each line of a list, as many as are needed of it."""
        needed = {"wnids.txt": 1, "words.txt": 2, "val_annotations.txt": 2}[name]
        try:
            text = texts[str(lists[name])].decode()
        except (KeyError, UnicodeDecodeError):
            state = "damaged" if str(lists[name]) in texts else "missing"
            raise DataError(f"list {name} of {path} is {state}; {LAYOUT}") from None
        fields = [line.split("\t") for line in text.splitlines() if line.strip()]
        if not fields or any(len(row) < needed for row in fields):
            raise DataError(f"list {name} of {path} is empty or cut short; {LAYOUT}")
        return [row[:needed] for row in fields]

    wnids = sorted(row[0].strip() for row in rows("wnids.txt"))
    words = dict(rows("words.txt")) if str(lists["words.txt"]) in names else {}
    label = {wnid: k for k, wnid in enumerate(wnids)}
    test = []
    for file, wnid in rows("val_annotations.txt"):
        full = str(root / "val" / "images" / file)
        if wnid in label:  # an archive of part of the classes may list the others too
            if full not in names:
                raise DataError(
                    f"image {shown(full)} of {path} is missing; val_annotations.txt lists it"
                )
            test.append((label[wnid], full))
    train = []
    top = f"{root / 'train'}/"
    for name in names:
        wnid = name[len(top) :].partition("/")[0]
        if name.startswith(top) and wnid in label and _is_image(name):
            train.append((label[wnid], name))
    for split, members in (("train", train), ("val", test)):
        absent = sorted(set(range(len(wnids))) - {k for k, _ in members})
        if absent:
            raise DataError(
                f"class {shown(wnids[absent[0]])} of {path} has no images in {split}/; "
                "allowed: every class of wnids.txt in both splits"
            )
    called = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    # Two kinds of crane are told apart by their numbers.
    class_names = tuple(
        name if called.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(called, wnids, strict=True)
    )
    used = {name for _, name in (*train, *test)}
    unlabelled = f"{root / 'test'}/"
    left_out = [
        name
        for name in names
        if _is_image(name) and name not in used and not name.startswith(unlabelled)
    ]
    left_out += _apart_in(listing, (top, f"{root / 'val'}/"))
    doubled = [name for name in listing.doubles if name in used]
    return Layout(class_names, {"train": sorted(train), "test": sorted(test)}, left_out, doubled)


def _check_class_name(name: str, path: Path) -> None:
    if unspeakable(name) or not name.strip() or len(name.encode()) > NAME_BYTES:
        raise DataError(
            f"class name {shown(name)} of {path} is not valid; allowed: 1 to {NAME_BYTES} bytes of "
            "text (UTF-8) without control characters"
        )
