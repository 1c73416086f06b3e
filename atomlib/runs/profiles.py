"""Runs the notebooks of a profile with papermill, and checks a notebook's parameters.

A profile, notebooks/profiles/<name>.yaml, maps notebook names to parameters. papermill
executes each notebook with its parameters; what it made lands in reports/<name>/.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import nbformat
import papermill as pm
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from atomlib.errors import SettingError, check_choice, check_kind, did_you_mean, shown
from atomlib.runs.engine import Engine
from atomlib.runtime.files import atomic_write, check_writable

NOTEBOOKS = Path("notebooks")

PROFILES = NOTEBOOKS / "profiles"


def read_profile(name: str) -> dict[str, dict[str, Any]]:
    """Parameters by notebook.

    Raises SettingError for an unknown profile, notebook or parameter, and for a file that is no
    mapping of notebooks to parameters.
    """
    check_choice("profile", name, sorted(path.stem for path in PROFILES.glob("*.yaml")))
    path = PROFILES / f"{name}.yaml"
    try:
        profile = yaml.safe_load(path.read_text())
    # ValueError: bytes that are no text, or a date that there is none of; RecursionError: nested
    # a thousand deep.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingError(
            f"profile {path} is no YAML ({' '.join(str(error).split())}); allowed: notebooks, each "
            "with its parameters"
        ) from None
    check_kind(f"profile {path}", profile, dict, "notebooks, each with its parameters")
    for notebook, parameters in profile.items():
        check_choice(
            f"notebook of profile {name!r}",
            notebook,
            sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb")),
        )
        check_kind(f"{notebook} in profile {name!r}", parameters, dict, "parameters by name, or {}")
        known = pm.inspect_notebook(NOTEBOOKS / f"{notebook}.ipynb")
        for parameter in parameters:
            check_choice(f"parameter of {notebook} in profile {name!r}", parameter, known)
    return profile


def run_profile(name: str, only: list[str] | None = None) -> Path:
    """Execute the notebooks of a profile, or only some of them, in order of their numbers.

    Results that came with the clone are made again; those that an earlier run made here are read,
    so that a run that was cut continues. Executed notebooks go to reports/<name>/notebooks/, each
    when it is whole; one that failed is left in build/ to be looked at. Raises SettingError before
    any work for a profile, notebook, parameter, folder or engine that is invalid.
    """
    Engine.chosen()
    profile = read_profile(name)
    for notebook in only or []:
        check_choice("notebook", notebook, profile)
    reports = check_writable(Path("reports") / name)
    build = check_writable(Path("build") / name)
    started = build / "started"  # when the first run began in this clone
    if not started.exists():
        started.touch()
    os.environ["ATOM_MADE_SINCE"] = str(started.stat().st_mtime)
    for notebook in only or sorted(profile):
        parameters = {"output": f"../{reports.as_posix()}", **profile[notebook]}
        running = build / f"{notebook}.ipynb"
        print(f"{notebook} ({name})", file=sys.stderr)
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
            )
        except pm.PapermillExecutionError as error:
            raise SettingError(
                f"{notebook} stopped: {error.ename}: {error.evalue} (see {running})"
            ) from None
        _keep(running, reports / "notebooks" / f"{notebook}.ipynb")
    return reports


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


def main() -> None:
    """``python -m atomlib.run``: execute the notebooks of one profile into reports/."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--profile", default="quick", help="a file of notebooks/profiles/")
    parser.add_argument("--only", nargs="*", help="notebooks to run, by name")
    arguments = parser.parse_args()
    # Kernels run in notebooks/; a relative data folder is meant from here.
    os.environ["ATOM_DATA"] = str(Path(os.environ.get("ATOM_DATA") or "data").absolute())
    try:
        reports = run_profile(arguments.profile, arguments.only)
    except SettingError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"\nreport: {reports}/")
    print(f"  tables: {', '.join(path.name for path in sorted(reports.glob('*.md')))}")
    for part in sorted(path for path in reports.iterdir() if path.is_dir()):
        count = sum(path.is_file() and path.name[0] != "." for path in part.rglob("*"))
        print(f"  {part.name}/: {count} files")
    print("pages to look at: make site; what is done and what is stale: make status")


PLAIN = (bool, int, float, str, list, tuple, dict, type(None))
"""What a parameter may be; modules, functions and IPython's own objects are none."""

_first_call = True


def check(names: Mapping[str, Any]) -> None:
    """Raise SettingError unless a notebook's ``names`` are its parameters, of their types.

    To be called as ``check(globals())`` before the notebook defines anything but its parameters,
    each annotated with its type: ``ipcs: list[int] = [1]``. Any other plain value is then one that
    papermill was given, or a reader wrote, under a wrong name. A later call in the same kernel,
    when a cell is run again, checks types only.
    """
    global _first_call
    types = names.get("__annotations__", {})
    allowed = ", ".join(f"{name} ({_type_name(kind)})" for name, kind in types.items())
    if _first_call:
        for name, value in names.items():
            if name in types or name.startswith("_") or name in ("In", "Out"):
                continue
            if isinstance(value, PLAIN):
                raise SettingError(
                    f"parameter {name!r} is not known{did_you_mean(name, types)}; "
                    f"allowed: {allowed}"
                )
        _first_call = False
    for name, kind in types.items():
        if name not in names:
            raise SettingError(f"parameter {name!r} is missing; allowed: {allowed}")
        try:
            TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(names[name])
        except ValidationError:
            raise SettingError(
                f"parameter {name} is {shown(names[name])}, which is not {_type_name(kind)}; "
                f"allowed: {allowed}"
            ) from None


def _type_name(kind: Any) -> str:
    """``int``, ``list[int]``, ``dict | None``: as a reader writes it."""
    if get_origin(kind) is Union:
        return " | ".join(
            "None" if part is type(None) else _type_name(part) for part in get_args(kind)
        )
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


if __name__ == "__main__":
    main()
