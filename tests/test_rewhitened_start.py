"""The start that is whitened again by a ZCA fitted on itself, against its definition in float64."""

import pytest
import torch

from atomlib.methods import ATOM, DC, check_method

CPU = torch.device("cpu")
SMALL = {"width": 8, "precision": "float32", "compile": "off", "iterations": 1, "real_batch": 2}


def by_singular_values(images):
    """ZCA with eps 0.1 from the singular values of the centred rows, not from a covariance."""
    rows = images.double().flatten(0, 1).flatten(1)
    left, size, right = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    variance = size.square() / (len(rows) - 1)
    return (left * (size / (variance + 0.1).sqrt()) @ right).view_as(images)


@pytest.mark.parametrize("ipc", [1, 3])
def test_it_is_the_real_start_whitened_by_itself(make_data, ipc):
    data = make_data(counts=(9, 7, 8))
    config = ATOM(ipc=ipc, zca=True, init="rewhitened", **SMALL).resolve(data)
    real = config.but(init="real").start(data, CPU)
    found = config.start(data, CPU)
    torch.testing.assert_close(found.double(), by_singular_values(real), atol=2e-3, rtol=2e-3)
    # n images have n - 1 directions between them, of variance at most 1 each.
    assert float(found.flatten(0, 1).flatten(1).var(dim=0).sum()) < 3 * ipc - 1


def test_the_contract_holds_from_this_start_too():
    check_method(ATOM(ipc=2, zca=True, init="rewhitened", **SMALL))


def test_without_whitening_it_is_one_sentence(make_data, complains):
    for method in (ATOM(zca=False, init="rewhitened"), DC(init="rewhitened")):
        with complains("init is 'rewhitened', and zca is off", "allowed:"):
            method.resolve(make_data())
