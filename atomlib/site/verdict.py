"""The verdict at the top of the site: which published figures of ATOM were met, and which not run.

All of it is computed from the reports; where several measured the same figure, the one nearest to
the paper stands: its settings first, then its pixels, then the iterations. Where that one is of
other pixels than the paper's, the nearest of the paper's own pixels stands below it.
"""

import re
from collections.abc import Sequence
from typing import Any

from atomlib.datasets import known
from atomlib.methods import ATOM, METHODS, DataDAM
from atomlib.report import findings
from atomlib.report.findings import SIGNS, against_published
from atomlib.report.folder import ReportFolder
from atomlib.report.published import explained, published, published_text
from atomlib.report.records import (
    by,
    changes,
    data_label,
    data_of,
    is_as_in_paper,
    iterations_of,
    lasts,
    points,
    recipe_of,
    with_spread,
)

SIDE_TABLES = {
    "cross_architecture": "other networks",
    "ablation": "the ablation",
    "power": "the powers of attention",
    "nas": "the architecture search",
}
"""Tables of a report beside the main one, in words."""

CODE = (
    "“By the code”: at the settings of DataDAM’s public code, which is by the same authors, not "
    "those that the paper prints."
)


def verdict(reports: Sequence[ReportFolder]) -> dict[str, Any]:
    """Sentences, and one row per published figure of ATOM and recipe it was measured by."""
    figures = published()
    ours = figures[figures.method == ATOM.name]
    rows: list[dict[str, Any]] = []
    for figure in ours.itertuples():
        measured = _measured(reports, figure.dataset, figure.ipc)
        theirs = figures[(figures.dataset == figure.dataset) & (figures.ipc == figure.ipc)]
        rival = theirs[theirs.method == DataDAM.name].accuracy
        about = {
            "where": f"{known.of(figure.dataset, None).label}, IPC {figure.ipc}",
            "published": published_text(figure.accuracy, figure.std, figure.checked, figure.note),
            "lead_published": "–" if rival.empty else points(figure.accuracy - rival.iloc[0]),
        }
        rows += [about | cell for cell in measured] or [about | {"word": "not run"}]
    return {
        "rows": rows,
        "sentences": _sentences(rows, reports),
        "signs": explained(" ".join(row["published"] for row in rows)),
        "notes": list(dict.fromkeys(note for row in rows for note in row.get("notes", ()))),
    }


def settings_in_words(records: Sequence[dict[str, Any]]) -> str:
    """How records of distillations were made: "the paper's settings", or the iterations, the
    recipe, and whether other settings were changed."""
    learned = [r for r in records if iterations_of(r) and r["method"] in METHODS]
    if not learned:
        return ""
    texts = [r for r in learned if recipe_of(r) == "text"] or learned
    if all(map(is_as_in_paper, texts)):
        return "the paper's settings"
    counts = sorted({iterations_of(r) for r in texts})
    changed = [changes(r) for r in texts]
    papers = [c["iterations"][1] for c in changed if "iterations" in c]
    whole = f" of {max(papers):,}" if papers and max(papers) > counts[0] else ""
    ends = dict.fromkeys(f"{count:,}" for count in (counts[0], counts[-1]))
    other = {key for c in changed for key in c} - {"iterations", "networks"}
    words = f"{' to '.join(ends)}{whole} iterations{by(recipe_of(texts[0]))}"
    return words + (", changed settings" if other else "")


def nearness(report: ReportFolder) -> tuple:
    """The nearer a report is to the paper, the greater: its settings, pixels and iterations."""
    table = report.tables.get("main_table")
    if table is None:
        return (0,)
    cells = [_nearness(report, cell) for cell in table.itertuples() if cell.method == ATOM.name]
    return (int(table.published.notna().any()), *max(cells, default=()))


def _nearness(report: ReportFolder, cell: Any) -> tuple:
    records = lasts(report.records[name] for name in report.runs(cell._asdict()))
    settings = all(map(is_as_in_paper, records)), not cell.reduced
    original = not any(data_of(r).note for r in records)
    most = max(map(iterations_of, records), default=0)
    return settings, original, most, cell.networks


def _measured(reports: Sequence[ReportFolder], dataset: str, ipc: str) -> list[dict[str, Any]]:
    """Of each recipe, the measurement that is nearest to the paper, and the nearest of the
    original pixels."""
    best: dict[tuple[str, bool], tuple[tuple, ReportFolder, Any]] = {}
    for report in reports:
        table = report.tables.get("main_table")
        same = {r["dataset"]: data_of(r).published_as for r in report.evaluated}
        for cell in () if table is None else table.itertuples():
            if (same.get(cell.dataset), str(cell.ipc), cell.method) != (dataset, ipc, ATOM.name):
                continue
            found = _nearness(report, cell), report, cell
            key = cell.recipe, found[0][1]
            if key not in best or found[0] > best[key][0]:
                best[key] = found
    for recipe in {recipe for recipe, _ in best}:
        mine, other = best.get((recipe, True)), best.get((recipe, False))
        if mine and other and mine[0] > other[0]:
            del best[recipe, False]
    order = sorted(best.items(), key=lambda item: (item[0][0], item[1][0]), reverse=True)
    return [_row(report, cell) for _, (_, report, cell) in order]


def _row(report: ReportFolder, cell: Any) -> dict[str, Any]:
    names = report.runs(cell._asdict())
    records = lasts(report.records[name] for name in names)
    rivals = [
        r
        for r in report.main_records
        if r["method"] == DataDAM.name
        and (r["dataset"], str(r["ipc"]), recipe_of(r))
        == (cell.dataset, str(cell.ipc), cell.recipe)
    ]
    found = against_published(cell)
    lead = next(iter(findings.findings([*records, *rivals])), None)
    notes = dict.fromkeys(data_of(r).note for r in records if data_of(r).note)
    how = [settings_in_words(records)]
    how += [f"{cell.networks} network{'s' if cell.networks > 1 else ''}"]
    pixels = data_label(report.tables["main_table"], cell.dataset)
    how += [pixels] if notes else []
    if cell.recipe != "text":
        notes[CODE] = None
    return {
        "report": report.name,
        "runs": names[-1:],
        "measured": with_spread(cell.mean, cell.std, cell.networks == cell.seeds),
        "difference": points(cell.difference).replace("-", "−"),
        "gap": cell.difference,
        "word": found.word,
        "sign": SIGNS[found.word],
        "recipe": cell.recipe,
        "as_in_paper": all(map(is_as_in_paper, records)),
        "how": ", ".join(how),
        "notes": list(notes),
        "lead": "" if lead is None else points(lead.gap).replace("-", "−"),
        "lead_word": "" if lead is None else lead.verdict.word,
        "lead_sign": "" if lead is None else SIGNS[lead.verdict.word],
    }


def _sentences(rows: list[dict[str, Any]], reports: Sequence[ReportFolder]) -> list[str]:
    """What reproduces, by how much, at which settings; what has not been run."""
    figures = list(dict.fromkeys(row["where"] for row in rows))
    run = [row for row in rows if row["word"] != "not run"]
    whole = [row for row in run if row["as_in_paper"]]
    found = [
        f"Of {len(figures)} published accuracies of ATOM, {_count(whole)} "
        f"{'has' if _count(whole) == 1 else 'have'} been measured at the paper's settings"
        + "".join(f"; {_told(row)}" for row in whole)
        + "."
    ]
    again = [r for r in run if not r["as_in_paper"] and r["where"] in {w["where"] for w in whole}]
    if again:
        found.append(f"At other settings, {'; '.join(map(_told, again))}.")
    others = [r for r in run if r["where"] not in {row["where"] for row in whole}]
    if others:
        found.append(
            f"{_listed(others)}: only at other settings, {_gaps(others)} from what is published."
        )
    leads = [row for row in run if row["lead_word"] not in ("", "not tested")]
    if leads:
        above = [row for row in leads if row["lead_word"] == "above"]
        found.append(
            f"The lead over DataDAM that the paper claims is there in {len(above)} of {len(leads)} "
            "measurements"
            + "".join(
                f"; {row['where']}{by(row['recipe'])} {row['lead']} points "
                f"(published {row['lead_published']})"
                for row in above
            )
            + "."
        )
    missing = [row for row in rows if row["word"] == "not run"]
    if missing:
        found.append(f"Not run: {_listed(missing)}.")
    reduced = [words for name, words in SIDE_TABLES.items() if not _as_in_paper(reports, name)]
    if reduced:
        found.append(f"Not run at the paper's settings: {', '.join(reduced)}.")
    return found


def _gaps(rows: list[dict[str, Any]]) -> str:
    """ "−14.3 to −9.0 points and by the code −1.3 points": the smallest and largest by recipe."""
    words = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        gaps = [row["gap"] for row in rows if row["recipe"] == recipe]
        ends = dict.fromkeys(points(gap).replace("-", "−") for gap in (min(gaps), max(gaps)))
        words.append(f"{by(recipe).removeprefix(', ')} {' to '.join(ends)} points".strip())
    return " and ".join(words)


def _count(rows: list[dict[str, Any]]) -> int:
    return len({row["where"] for row in rows})


def _told(row: dict[str, Any]) -> str:
    stands = {"not told apart": "not told apart from", "not tested": "not tested against"}
    word = stands.get(row["word"], row["word"])
    made = row["how"].removeprefix("the paper's settings, ")
    return (
        f"{row['where']} reaches {row['measured']} % ({made}), {word} the published "
        f"{row['published']} ({row['difference']} points)"
    )


def _listed(rows: list[dict[str, Any]]) -> str:
    """ "CIFAR-10, IPC 10 and 50; CIFAR-100, IPC 1, 10 and 50"."""
    ipcs: dict[str, dict[str, None]] = {}
    for row in rows:
        data, _, ipc = row["where"].partition(", IPC ")
        ipcs.setdefault(data, {})[ipc] = None
    words = []
    for data, found in ipcs.items():
        *first, last = found
        words.append(f"{data}, IPC {', '.join(first)}{' and ' if first else ''}{last}")
    return "; ".join(words)


def _as_in_paper(reports: Sequence[ReportFolder], name: str) -> bool:
    """Whether some report has a table on a data set of the paper, nothing changed or reduced."""
    labels = {known.of(dataset, None).label for dataset in set(published().dataset)}
    notes = [report.note(name) for report in reports]
    return any(
        not re.search("(Reduced|Changed):", note)
        and any(note.startswith(f"Data: {label}.") for label in labels)
        for note in notes
    )
