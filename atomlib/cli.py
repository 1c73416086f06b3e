"""The command line: ``python -m atomlib COMMAND``, or ``atomlib COMMAND`` where it is installed.

Each command's module says its arguments (``arguments``) and does its work (``run``).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from atomlib.errors import SettingError

COMMANDS = {
    "run": ("atomlib.runs.profiles", "execute notebooks with their parameters, into reports/"),
    "status": ("atomlib.runs.status", "what a report's folder holds, and what of it is stale"),
    "verify": ("atomlib.runs.verify", "make a committed result again, and compare"),
    "evaluate": ("atomlib.runs.judge", "read anybody's distilled set and train networks on it"),
    "site": ("atomlib.site.build", "the reports as a static site"),
    "data": ("atomlib.datasets.load", "download, check and describe a data set"),
}


def main(given: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Bad input is one line and status 1, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name, or ±, that the terminal has no letters for
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(given)
        print(end="", flush=True)  # or what a closed pipe says would come after all of this
        return status
    except SettingError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("error: stopped by the keyboard; what is whole is kept", file=sys.stderr)
        return 130
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        print(
            f"error: {place}{error.strerror or error}; allowed: folders that are there, with room, "
            "and that this account may use",
            file=sys.stderr,
        )
        return 1


def _run(given: Sequence[str] | None) -> int:
    listed = "\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "atomlib",
        description=f"ATOM, rerun. Commands:\n{listed}\n`atomlib COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"atomlib {version('atomlib')}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    words = list(sys.argv[1:] if given is None else given)
    if not words:
        parser.print_help()
        return 0
    arguments = parser.parse_args(words[:1])
    place, about = COMMANDS[arguments.command]
    try:
        module = import_module(place)  # only now: others take seconds to import
    except ModuleNotFoundError as error:
        print(
            f"error: atomlib {arguments.command} needs {error.name}, which is not installed; "
            "allowed: after pip install 'atomlib[all]'",
            file=sys.stderr,
        )
        return 1
    own = argparse.ArgumentParser(f"atomlib {arguments.command}", description=about)
    module.arguments(own)
    known, more = own.parse_known_args(words[1:])
    if hasattr(module, "take"):  # options that only the notebooks know
        module.take(known, more)
    elif more:
        own.error(f"unrecognized arguments: {' '.join(more)}")
    return module.run(known) or 0
