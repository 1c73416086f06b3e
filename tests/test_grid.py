"""Networks on the whole set, one for each data set of a grid."""

import pytest

from atomlib.runs.grid import cells, full_data_cells


@pytest.fixture(scope="module")
def grid():
    return cells(
        ["digits"], ["random", "atom"], [1, 2], [0, 1],
        settings={"width": 8}, evaluation={"width": 8, "networks": 4},
    )  # fmt: skip


def test_one_cell_a_data_set_trained_as_its_networks_are(grid):
    (cell,) = full_data_cells(grid, {"networks": 2})
    assert cell.data is grid[0].data and cell.zca is False
    assert cell.evaluation == grid[0].evaluation.but(networks=2, epochs=200)
    (cell,) = full_data_cells(grid, {"epochs": 5})
    assert cell.evaluation.epochs == 5


def test_none_is_none(grid):
    assert full_data_cells(grid, None) == []


def test_bad_settings_are_refused(grid, complains):
    with complains("whole is [1]", "settings by name, or None"):
        full_data_cells(grid, [1])
    with complains("'epoch'", "did you mean 'epochs'"):
        full_data_cells(grid, {"epoch": 5})
