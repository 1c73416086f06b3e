"""ATOM, rerun: dataset distillation by matching attention, with its predecessors beside it.

    methods      a method is one file: ATOM, DataDAM, DM, DC, DSA, CAFE, MTT, DQ, Herding, ...
    attention, augmentation, preprocess, models      what the methods are made of
    distill      the loop: ``distill(data, ATOM(ipc=1))`` gives a DistilledSet
    distilled_set      ``DistilledSet.load(file)``, ``.save``, ``.export``
    training, evaluate      networks trained on it, and their test accuracy
    datasets     ``load_dataset("digits")``
    published    other authors' distilled sets, read
    recipes      the text's settings and the official code's, by name
    runs, nas    experiments: grids, what is kept of them, where they run; the architecture search
    report, site      tables, figures, pages
    runtime      device, files, locks, bookmarks

Import from the modules: ``from atomlib.methods import ATOM``. The package itself exports its
version, and each module of this map by its name, imported where it is first used.
"""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType

__version__ = version("atomlib")

_MAP = (
    "attention", "augmentation", "datasets", "distill", "distilled_set", "evaluate", "methods",
    "models", "nas", "preprocess", "published", "recipes", "report", "runs", "runtime", "site",
    "training",
)  # fmt: skip


def __dir__() -> list[str]:
    return ["__version__", *_MAP]


def __getattr__(name: str) -> ModuleType:
    if name not in _MAP:
        raise AttributeError(f"module 'atomlib' has no attribute {name!r}")
    return import_module(f"atomlib.{name}")
