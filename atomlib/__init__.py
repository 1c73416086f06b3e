"""ATOM, rerun: dataset distillation by matching attention, with its predecessors beside it.

    methods      a method is one file: ATOM, DataDAM, DM, DQ, Herding, K-Center, Random; ``find``
    attention, augmentation, preprocess, models      what the methods are made of
    distill      the loop: ``distill(data, ATOM(ipc=1))`` gives a DistilledSet
    training, evaluate      networks trained on it, and their test accuracy
    datasets     ``load_dataset("digits")``
    published    other authors' distilled sets, read
    recipes      the text's settings and the official code's, by name
    runs, nas    experiments: grids, what is kept of them, where they run; the architecture search
    report, site      tables, figures, pages
    runtime      device, files, locks, bookmarks

Import from the modules: the package itself exports nothing but its version.
"""

from importlib.metadata import version

__version__ = version("atomlib")
