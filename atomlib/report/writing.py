"""Tables kept as files, and shown in a notebook: CSV, Markdown and LaTeX."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from atomlib.report import readable
from atomlib.report.findings import HOW, Finding, as_table, in_words
from atomlib.report.published import DOUBTFUL, RECALLED, explained, readable_published
from atomlib.runtime.files import atomic_write
from atomlib.runtime.layout import TABLE_KINDS, Layout


def show(
    table: pd.DataFrame,
    folder: str | Path,
    name: str,
    note: str,
    read: Callable[[pd.DataFrame], pd.DataFrame] = readable.main,
) -> Any:
    """``write_table`` for a notebook: displays the table, and returns the note below it."""
    from IPython.display import Markdown, display  # which only notebooks need

    write_table(table, folder, name, note, read)
    text = as_markdown(read(table))
    display(Markdown(text))
    return Markdown(_with_signs(note, text))


def show_tests(found: Sequence[Finding]) -> Any:
    """Tests for a notebook: displays what they say together, and returns one row of each."""
    from IPython.display import Markdown, display  # which only notebooks need

    display(Markdown(in_words(found)))
    return Markdown(as_markdown(as_table(found)))


def show_published(name: str) -> Any:
    """The published cross-architecture, cost or search table, for a notebook."""
    from IPython.display import Markdown  # which only notebooks need

    return Markdown(as_markdown(readable_published(name)))


def write_table(
    table: pd.DataFrame,
    folder: str | Path,
    name: str,
    note: str,
    read: Callable[[pd.DataFrame], pd.DataFrame] = readable.main,
) -> list[Path]:
    """Write <name>.csv (every column), and for a reader <name>.md and .tex (booktabs).

    ``read`` turns the table into its form for a reader; ``note`` stands below the Markdown, with
    what the signs of published figures mean.
    """
    csv, markdown, latex = (Layout(folder).table(name, kind) for kind in TABLE_KINDS)
    with atomic_write(csv) as partial:
        # Ten digits: all that is measured, without the noise of floating point.
        table.to_csv(partial, index=False, float_format="%.10g")
    with atomic_write(markdown) as partial:
        text = as_markdown(read(table))
        partial.write_text(f"{text}\n\n{_with_signs(note, text)}\n")
    with atomic_write(latex) as partial:
        partial.write_text(to_latex(read(table)))
    return [csv, markdown, latex]


def as_markdown(table: pd.DataFrame) -> str:
    """A table for a reader in Markdown, its figures as they were written."""
    return table.to_markdown(index=False, disable_numparse=True)


def _with_signs(note: str, text: str) -> str:
    tested = HOW if ", difference" in text else ""
    return " ".join(filter(None, [note, tested, explained(text)]))


def to_latex(table: pd.DataFrame) -> str:
    """A table for a reader in LaTeX (booktabs), every sign of ours as a command."""
    signs = {
        "±": r"$\pm$",
        RECALLED: r"\textsuperscript{\dag}",
        DOUBTFUL: r"\textsuperscript{\ddag}",
        "–": "--",
        "▲": r"$\bigtriangleup$",
        "▼": r"$\bigtriangledown$",
        "≈": r"$\approx$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
    }
    text = table.style.hide(axis="index").format(escape="latex").to_latex(hrules=True)
    for sign, command in signs.items():
        text = text.replace(sign, command)
    return text
