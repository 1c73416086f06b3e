"""Figures are rounded once: tables, their CSV, the front page, gallery and runs page agree."""

import numpy as np
import pytest

from atomlib.report.folder import ReportFolder
from atomlib.report.readable import main as readable
from atomlib.report.records import points, tenths
from atomlib.report.tables import main_table
from atomlib.report.writing import write_table
from atomlib.site.front_page import _cell
from atomlib.site.gallery_page import accuracy_text
from tests.test_environment import ROOT
from tests.test_report import record

REPORTS = sorted(path.parent for path in (ROOT / "reports").glob("*/main_table.csv"))


@pytest.mark.parametrize(
    ("accuracies", "text"),
    [
        ((32.104, 32.004), "32.1 ± 0.1"),  # rounded to 32.05 first, it would be 32.0
        ((48.748, 48.748), "48.7 ± 0.0"),  # and this one 48.75, so 48.8
        ((32.05, 32.05, 32.05), "32.0 ± 0.0"),  # a tie, whose mean in floats is above it
        ((7.1, 7.3), "7.2 ± 0.1"),
    ],
)
def test_a_mean_is_rounded_once_wherever_it_is_written(accuracies, text, tmp_path):
    made = record("cifar10", "dm", accuracies=accuracies)
    table = main_table([made])
    write_table(table, tmp_path, "main_table", "")
    report = ReportFolder.read(tmp_path)
    for found in (table, report.tables["main_table"]):
        assert readable(found)["IPC 1"].tolist() == [text]
        (cell,) = found.itertuples()
        shown, gap = _cell(report, cell, ""), points(sum(accuracies) / len(accuracies) - 26.0)
        assert shown["measured"] == text
        assert shown["difference"] == gap.replace("-", "−")
        assert readable(found)["IPC 1, difference"].tolist() == [f"{gap} {shown['sign']}"]
    assert accuracy_text(made["accuracies"]) == text


@pytest.mark.parametrize("folder", REPORTS, ids=lambda path: path.name)
def test_no_experiment_has_overwritten_anothers_result(folder):
    report = ReportFolder.read(folder)
    for name, table in report.tables.items():
        for cell in table[table.runs.notna()].itertuples() if "runs" in table else ():
            made = [report.records[run] for run in cell.runs.split()]
            if len(made) == 1:
                assert cell.mean == pytest.approx(np.mean(made[0]["accuracies"])), (name, cell.runs)


@pytest.mark.parametrize("folder", REPORTS, ids=lambda path: path.name)
def test_committed_tables_say_what_the_pages_say_of_their_runs(folder):
    report = ReportFolder.read(folder)
    table = report.tables["main_table"]
    shown = readable(table)
    assert report.markdown["main_table"].startswith(
        shown.to_markdown(index=False, disable_numparse=True)
    )
    for cell in table[table.seeds == 1].itertuples():
        last = report.records[cell.runs.split()[-1]]
        on_pages = accuracy_text(last["accuracies"])
        assert _cell(report, cell, "")["measured"] == on_pages
        assert tenths(cell.mean) == on_pages.split()[0]


@pytest.mark.parametrize(
    ("difference", "text"), [(-0.04, "+0.0"), (0.0, "+0.0"), (-0.06, "-0.1"), (-14.64, "-14.6")]
)
def test_a_difference_of_nothing_has_no_minus(difference, text):
    assert points(difference) == text
