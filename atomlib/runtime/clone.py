"""The clone that a command is meant for, so that its data and reports are found from any folder."""

import os
from pathlib import Path


def around() -> Path | None:
    """The root of the clone that the current folder is in: it holds notebooks/profiles/."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_clone(folder)), None)


def root() -> Path:
    """The clone around the current folder, else the one that this package is imported from.

    The current folder where there is neither: the package is installed, and no clone is at hand.
    """
    own = Path(__file__).parents[2]
    return around() or (own if _is_clone(own) else Path.cwd())


def data_folder() -> Path:
    """Where data rests: ATOM_DATA, else ./data where there is one, else data/ of the clone."""
    given = os.environ.get("ATOM_DATA")
    if given:
        return Path(os.path.expanduser(given))
    here = Path("data")
    return here if here.is_dir() or root() == Path.cwd() else root() / here


def absolute_folders() -> dict[str, str]:
    """Variables that name a folder by a relative path, for a process that stands elsewhere."""
    given = {name: os.environ.get(name, "") for name in ("ATOM_DATA", "ATOM_CACHE", "ATOM_SETS")}
    return {k: os.path.abspath(path) for k, path in given.items() if path[:1] not in ("", "~")}


def _is_clone(folder: Path) -> bool:
    return (folder / "notebooks" / "profiles").is_dir()
