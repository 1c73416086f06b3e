"""Runs the notebooks of a profile with papermill.

A profile, notebooks/profiles/<name>.yaml, maps notebook names to parameters, and may say under
``environment`` where cells run. papermill executes each notebook with its parameters; what it made
lands in reports/<name>/.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill as pm
import yaml
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError

from atomlib.errors import SettingError, check_choice, check_kind, shown
from atomlib.runs.engine import VARIABLES, Engine
from atomlib.runs.store import made_since
from atomlib.runtime.clone import absolute_folders, data_folder, root
from atomlib.runtime.files import atomic_write, lock
from atomlib.runtime.layout import Layout
from atomlib.runtime.paths import as_path, check_writable, own_path

NOTEBOOKS = Path("notebooks")

PROFILES = NOTEBOOKS / "profiles"

ENVIRONMENT = ("OMP_NUM_THREADS", *VARIABLES)
"""What a profile may set, where the caller has not: threads of a kernel, and the engine."""


def read_profile(name: str) -> dict[str, dict[str, Any]]:
    """Parameters by notebook.

    Raises SettingError for an unknown profile, notebook or parameter, and for a file that is no
    mapping of notebooks to parameters.
    """
    profile = _read(name)
    profile.pop("environment", None)
    for notebook, parameters in profile.items():
        check_choice(
            f"notebook of profile {name!r}",
            notebook,
            _notebooks(),
        )
        check_kind(f"{notebook} in profile {name!r}", parameters, dict, "parameters by name, or {}")
        known = pm.inspect_notebook(NOTEBOOKS / f"{notebook}.ipynb")
        for parameter, value in parameters.items():
            check_choice(f"parameter of {notebook} in profile {name!r}", parameter, known)
            _check_plain(f"{parameter} of {notebook} in profile {name!r}", value)
    return profile


def environment(name: str) -> dict[str, str]:
    """Variables that a profile sets for its notebooks. Raises SettingError for an unknown one."""
    given = _read(name).get("environment", {})
    check_kind(f"environment in profile {name!r}", given, dict, "variables by name")
    for variable in given:
        check_choice(f"variable of the environment in profile {name!r}", variable, ENVIRONMENT)
    return {variable: str(value) for variable, value in given.items()}


def _check_clone() -> None:
    """Raise SettingError where the current folder has no profiles to choose from."""
    if not PROFILES.is_dir():
        raise SettingError(
            f"folder {shown(str(Path.cwd()))} is in no clone of the repository, whose notebooks "
            "`atomlib run` executes; allowed: the folder of a clone, or one in it"
        )


def _read(name: str) -> dict[str, Any]:
    _check_clone()
    check_choice("profile", name, sorted(path.stem for path in PROFILES.glob("*.yaml")))
    path = PROFILES / f"{name}.yaml"
    try:
        profile = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, *NO_YAML) as error:
        raise SettingError(
            f"profile {path} is no YAML ({' '.join(str(error).split())}); allowed: notebooks, each "
            "with its parameters"
        ) from None
    check_kind(f"profile {path}", profile, dict, "notebooks, each with its parameters")
    return profile


# ValueError: bytes that are no text, or a date that there is none of; RecursionError: nested a
# thousand deep.
NO_YAML = (yaml.YAMLError, ValueError, RecursionError)


def _check_plain(setting: str, value: Any) -> None:
    """Raise SettingError for what YAML has and a notebook, which is JSON, has not: dates, sets."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise SettingError(
            f"{setting} is {shown(value)}; allowed: numbers, text, lists and mappings (a date in "
            "quotes)"
        ) from None


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, and a key that is given twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        given = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [name for name in given if name != "<<" and given.count(name) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[0]!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = super().construct_yaml_float(node)
        # 1e3 counts as well as 1000 does, where a whole number is asked for.
        return int(value) if "." not in node.value and value == value // 1 else value


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),  # YAML 1.1 asks for a dot and a sign
    list("-+0123456789"),
)


def _notebooks() -> list[str]:
    return sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))


LAB = "lab"
"""The report of notebooks that are run without a profile."""


def run_profile(
    name: str,
    only: list[str] | None = None,
    changes: dict[str, Any] | None = None,
    *,
    reuse: bool = False,
) -> Path:
    """Execute the notebooks of a profile, or only some of them, in order of their numbers.

    Results that came with the clone are made again; those that an earlier run made here are read,
    so that a run that was cut continues. Executed notebooks go to reports/<name>/notebooks/, each
    when it is whole; one that failed is left in build/ to be looked at. Raises SettingError before
    any work for a profile, notebook, parameter, folder or engine that is invalid.

    ``changes`` are parameters put over the profile's, mappings entry by entry; ``output`` among
    them, an absolute path, is where executed notebooks go too. With ``reuse``,
    results that came with the clone are read too, where they are up to date.
    """
    _check_clone()
    profile = {notebook: {} for notebook in _notebooks()} if name == LAB else read_profile(name)
    if not profile:
        raise SettingError(f"profile {shown(name)} has no notebooks; allowed: one or more")
    for variable, value in ({} if name == LAB else environment(name)).items():
        os.environ.setdefault(variable, value)
    Engine.chosen()
    for notebook in only or []:
        check_choice("notebook", notebook, profile)
    for notebook in only or profile if changes else []:
        known = pm.inspect_notebook(NOTEBOOKS / f"{notebook}.ipynb")
        for parameter in changes:
            check_choice(f"parameter of {notebook}", parameter, known)
    asked = (changes or {}).get("output")
    layout = Layout.of_profile(name) if asked is None else Layout(as_path("output", asked))
    reports = check_writable(layout.folder)
    check_writable(layout.build)
    begun_here = _begun(layout)
    os.environ["ATOM_MADE_SINCE"] = "0" if reuse else str(begun_here)
    if not reuse and any(path.stat().st_mtime < begun_here for path in layout.results()):
        print(
            f"{reports}/ holds results from before the first run here, which are made again; "
            "--reuse reads them",
            file=sys.stderr,
        )
    if not sys.stderr.isatty():
        os.environ.setdefault("ATOM_PROGRESS", "lines")
    wanted, begun = only or sorted(profile), time.time()
    if wanted[0] == "00_quickstart" != wanted[-1]:
        print("the quickstart runs first: a first picture and table", file=sys.stderr)
    for number, notebook in enumerate(wanted, start=1):
        parameters = {"output": f"../{reports.as_posix()}", **profile[notebook]}
        if asked and parameters.get("sets") == f"../{Layout.of_profile(name).sets.as_posix()}":
            parameters["sets"] = str(layout.sets)  # of this output, as the rest
        for key, value in (changes or {}).items():
            old = parameters.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            parameters[key] = old | value if both else value
        running = layout.running(notebook)
        since = time.time()
        print(
            f"[{number}/{len(wanted)}] {notebook} ({name}), {_in_words(since - begun)} so far",
            file=sys.stderr,
        )
        with lock(running):  # or two runs of a report would write one file
            _execute(notebook, running, parameters)
            _keep(running, layout.notebook(notebook))
        made = [path for path in layout.shown() if path.stat().st_mtime >= since]
        listed = ", ".join(layout.within(path) for path in made) or "nothing new to look at"
        print(f"  in {reports}/: {listed}", file=sys.stderr)
    return reports


def _begun(layout: Layout) -> float:
    """When the first run here began, which is now where there was none (see ``made_since``)."""
    report = layout.of_clone
    if report is not None and not report.started.exists():
        with atomic_write(report.started) as partial:
            partial.touch()
    return made_since(layout.folder)


def _execute(notebook: str, running: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook into the file ``running``. Raises SettingError where it stops."""
    try:
        pm.execute_notebook(
            NOTEBOOKS / f"{notebook}.ipynb",
            running,
            parameters,
            cwd=NOTEBOOKS,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            # The kernel's own log: warnings of its connection, which stays on this machine.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except pm.PapermillExecutionError as error:
        raise SettingError(
            f"{notebook} stopped: {error.ename}: {error.evalue} (see {running})"
        ) from None
    except DeadKernelError:
        raise SettingError(
            f"{notebook} stopped: its kernel died, as one that runs out of memory does (see "
            f"{running}); allowed: smaller settings, such as real_batch or width"
        ) from None
    except NoSuchKernel:
        raise SettingError(
            "kernel 'python3' is not installed; allowed: after python -m ipykernel install "
            "--sys-prefix"
        ) from None


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _keep(executed: Path, path: Path) -> None:
    """Move an executed notebook to its report, without progress bars and clock times."""
    notebook = nbformat.read(executed, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    parameters = notebook.metadata.pop("papermill")["parameters"]
    notebook.metadata["atomlib"] = {"parameters": parameters}
    with atomic_write(path) as partial:
        nbformat.write(notebook, partial)
    executed.unlink()


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``atomlib run``; a notebook's parameters are options too (see ``take``)."""
    parser.epilog = (
        "A parameter of a notebook's first cell is an option too: --ipc 2, --seeds '[0, 1]'. Text "
        "is taken as it is, all else as YAML; paths are meant from the current folder."
    )
    parser.add_argument("notebooks", nargs="*", help="by name, 00_quickstart; all of the profile")
    parser.add_argument(
        "--profile",
        help="a file of notebooks/profiles/; quick where no notebook is named, else none: the "
        "notebooks' own parameters, into reports/lab/",
    )
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="read results that came with the clone too, where they are up to date",
    )


def run(given: argparse.Namespace) -> None:
    """Execute notebooks, and say where what they made is."""
    # Kernels run in notebooks/; a relative folder is meant from here.
    os.environ.update(absolute_folders(), ATOM_DATA=str(data_folder().absolute()))
    given.changes = {name: _from_here(name, value) for name, value in given.changes.items()}
    os.chdir(root())
    profile = given.profile
    if profile is None:
        profile = LAB if given.notebooks else "quick"
    reports = run_profile(profile, given.notebooks or None, given.changes, reuse=given.reuse)
    layout = Layout(reports)
    main = layout.table("main_table", "md")
    if main.is_file() and not given.notebooks:
        print(f"\n{main.read_text().strip()}")
    print(f"\nreport: {reports}/")
    tables = [path for path in layout.shown() if path.suffix == ".md"]
    print(f"  tables: {', '.join(map(layout.within, tables))}")
    for part in sorted(path for path in reports.iterdir() if path.is_dir()):
        files = (p for p in part.rglob("*") if p.is_file() and p != layout.started)
        count = sum(path.name[0] != "." for path in files)
        print(f"  {part.name}/: {count} files")
    print("pages to look at: make site; what is done and what is stale: make status")


def _from_here(name: str, value: Any) -> Any:
    """A parameter that is a path, or a data set that is one, as an absolute path.

    Raises SettingError for what can be no path.
    """
    if isinstance(value, list):
        return [_from_here(name, each) for each in value]
    if name == "output" or (name in ("folder", "sets") and isinstance(value, str) and value):
        return str(own_path(name, value))
    if name in ("dataset", "datasets") and isinstance(value, str) and value.startswith("folder:"):
        path = Path(os.path.expanduser(value.removeprefix("folder:")))
        # As load_dataset does: first where data rest, then here.
        if path.exists() and not (data_folder() / path).exists():
            return f"folder:{path.absolute()}"
    return value


def _kinds(notebooks: Sequence[str]) -> dict[str, set[str]]:
    """What first cells of these notebooks, or of all, say of the type of each parameter."""
    found: dict[str, set[str]] = {}
    for path in (root() / NOTEBOOKS).glob("[0-9]*.ipynb"):
        if path.stem in (notebooks or [path.stem]):
            for name, about in pm.inspect_notebook(path).items():
                found.setdefault(name, set()).add(about["inferred_type_name"])
    return found


def _value(text: str, kinds: set[str]) -> Any:
    """Text stays text, whatever YAML makes of it: 2024_01, 50% & #1, no."""
    optional = kinds in ({"Optional[str]"}, {"str | None"})
    if kinds == {"str"} or (optional and text != "null"):
        return text
    return yaml.load(text, _Loader)


def take(given: argparse.Namespace, more: list[str]) -> None:
    """Parameters of the notebooks, ``--ipcs "[1, 10]"``: text as it is, other values as YAML.

    Raises SettingError for a word that is no option, an option without value, and no YAML.
    """
    # argparse takes an option with a space in its value, --settings={epochs: 2}, for a notebook.
    words = [word for word in given.notebooks if word.startswith("--")] + more
    given.notebooks = [word for word in given.notebooks if not word.startswith("--")]
    given.changes, kinds = {}, _kinds(given.notebooks) if words else {}
    while words:
        option, equals, value = words.pop(0).partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or not (equals or words):
            raise SettingError(
                f"argument is {option!r}; allowed: notebooks first, then --PARAMETER VALUE"
            )
        try:
            value = value if equals else words.pop(0)
            given.changes[name] = _value(value, kinds.get(name, set()))
        except NO_YAML:
            raise SettingError(
                f"parameter {name} is {shown(value)}, which is no YAML; allowed: such as [1, 10]"
            ) from None
        _check_plain(f"parameter {name}", given.changes[name])
