"""The verdict at the top of the site: which published figures of ATOM were met, and which not run.

All of it is computed from the reports; where several measured the same figure, the one nearest to
the paper stands: its settings first, then its pixels, then the iterations. Where that one is of
other pixels than the paper's, the nearest of the paper's own pixels stands below it.
"""

from collections.abc import Sequence
from typing import Any

from atomlib.datasets import known
from atomlib.methods import ATOM, METHODS, DataDAM
from atomlib.report import findings
from atomlib.report.findings import SIGNS, against_published
from atomlib.report.folder import ReportFolder
from atomlib.report.published import explained, published, published_text
from atomlib.report.records import (
    changes,
    data_label,
    data_of,
    is_reduced,
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
    "“By the code”: at the settings of the authors' earlier code, not those that the paper prints."
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
    """How records of distillations were made: "the paper's settings", or what is less."""
    learned = [r for r in records if iterations_of(r) and r["method"] in METHODS]
    if not learned:
        return ""
    texts = [r for r in learned if recipe_of(r) == "text"] or learned
    if not any(map(is_reduced, texts)):
        return "the paper's settings"
    counts = sorted({iterations_of(r) for r in texts})
    papers = [changes(r)["iterations"][1] for r in texts if "iterations" in changes(r)]
    whole = f" of {max(papers):,}" if papers else ""
    ends = dict.fromkeys(f"{count:,}" for count in (counts[0], counts[-1]))
    return f"{' to '.join(ends)}{whole} iterations"


def nearness(report: ReportFolder) -> tuple:
    """The nearer a report is to the paper, the greater: its settings, pixels and iterations."""
    table = report.tables.get("main_table")
    if table is None:
        return (0,)
    cells = [_nearness(report, cell) for cell in table.itertuples() if cell.method == ATOM.name]
    return (int(table.published.notna().any()), *max(cells, default=()))


def _nearness(report: ReportFolder, cell: Any) -> tuple:
    records = [report.records[name] for name in report.runs(cell._asdict())]
    original = not any(data_of(r).note for r in records)
    most = max(map(iterations_of, records), default=0)
    return not cell.reduced, original, most, cell.networks


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
        for r in lasts(report.evaluated)
        if r["method"] == DataDAM.name
        and not r["variant"]
        and (r["dataset"], str(r["ipc"]), recipe_of(r))
        == (cell.dataset, str(cell.ipc), cell.recipe)
    ]
    found = against_published(cell)
    lead = next(iter(findings.findings([*records, *rivals])), None)
    notes = dict.fromkeys(data_of(r).note for r in records if data_of(r).note)
    how = [settings_in_words(records)]
    how += [] if cell.recipe == "text" else [f"by the {cell.recipe}"]
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
        "reduced": bool(cell.reduced),
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
    whole = [row for row in run if not row["reduced"]]
    found = [
        f"Of {len(figures)} published accuracies of ATOM, {_count(whole)} "
        f"{'has' if _count(whole) == 1 else 'have'} been measured at the paper's settings"
        + "".join(f"; {_told(row)}" for row in whole)
        + "."
    ]
    again = [r for r in run if r["reduced"] and r["where"] in {row["where"] for row in whole}]
    if again:
        found.append(f"At reduced settings, {'; '.join(map(_told, again))}.")
    shorter = [r for r in run if r["where"] not in {row["where"] for row in whole}]
    if shorter:
        gaps = [row["gap"] for row in shorter]
        ends = " to ".join(
            dict.fromkeys(points(g).replace("-", "−") for g in (min(gaps), max(gaps)))
        )
        found.append(
            f"{_listed(shorter)}: only at reduced settings, {ends} points from what is published."
        )
    leads = [row for row in run if row["lead"]]
    if leads:
        above = [row for row in leads if row["lead_word"] == "above"]
        found.append(
            f"The lead over DataDAM that the paper claims is there in {len(above)} of {len(leads)} "
            "measurements"
            + "".join(
                f"; {row['where']} {row['lead']} points (published {row['lead_published']})"
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


def _count(rows: list[dict[str, Any]]) -> int:
    return len({row["where"] for row in rows})


def _told(row: dict[str, Any]) -> str:
    stands = {"not told apart": "not told apart from", "not tested": "not tested against"}
    word = stands.get(row["word"], row["word"])
    made = row["how"] if row["reduced"] else row["how"].partition(", ")[2]
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
    """Whether some report has a table on a data set of the paper, unchanged and not reduced."""
    labels = {known.of(dataset, None).label for dataset in set(published().dataset)}
    notes = [report.note(name) for report in reports]
    return any(
        "Reduced" not in note and any(note.startswith(f"Data: {label}.") for label in labels)
        for note in notes
    )
