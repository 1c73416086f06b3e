"""Channel statistics and ZCA against numpy's, by their definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atomlib import preprocess
from atomlib.datasets import known, load_dataset
from atomlib.datasets.image_data import ImageData
from atomlib.preprocess import Preprocess

SIDE, CHANNELS = 4, 3
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path))
    return tmp_path


def correlated(n=400, seed=0):
    """uint8 images whose pixels hang together: a few patterns mixed, and some noise."""
    rng = np.random.default_rng(seed)
    size = CHANNELS * SIDE**2
    patterns = rng.normal(size=(4, size)) * [[40], [20], [10], [5]]
    pixels = 120 + rng.normal(size=(n, 4)) @ patterns / 2 + rng.normal(size=(n, size)) * 3
    pixels = pixels.round().clip(0, 255).astype(np.uint8)
    return torch.from_numpy(pixels.reshape(n, CHANNELS, SIDE, SIDE))


def made_up(name="made-up", train=None):
    train = correlated() if train is None else train
    labels = torch.arange(len(train)) % 2
    test = correlated(50, seed=1)[:, : train.shape[1]]
    return ImageData(name, train, labels, test, torch.arange(50) % 2, ("a", "b"))


def rows(images):
    return images.double().flatten(1).numpy()


def test_statistics_are_those_of_the_training_pixels():
    data = made_up()
    fitted = Preprocess.fit(data, zca=False)
    pixels = data.train_images.numpy() / 255
    np.testing.assert_allclose(fitted.mean.flatten(), pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(fitted.std.flatten(), pixels.std(axis=(0, 2, 3)), rtol=1e-6)
    images = fitted(data.train_images)
    expected = (pixels - pixels.mean(axis=(0, 2, 3), keepdims=True)) / pixels.std(
        axis=(0, 2, 3), keepdims=True
    )
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-5)


def test_a_data_set_takes_the_statistics_it_brings():
    data = replace(made_up("any"), statistics=known.official("cifar10").statistics)
    fitted = Preprocess.fit(data, zca=False)
    assert fitted.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    assert fitted.std.flatten().tolist() == pytest.approx([0.2023, 0.1994, 0.2010])


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_channel_becomes_zero(value):
    train = correlated()
    train[:, 1] = value
    images = Preprocess.fit(made_up(train=train), zca=False)(train)
    assert images.isfinite().all()
    torch.testing.assert_close(images[:, 1], torch.zeros_like(images[:, 1]))


def test_computed_whitening_goes_by_the_pixels_and_not_by_the_fields_statistics():
    data = made_up()
    other = replace(data, statistics=((0.4, 0.4, 0.4), (0.1, 0.1, 0.1)))
    pixels = other.train_images.double() / 255
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3), correction=0)
    x = rows((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    values, vectors = np.linalg.eigh(np.cov(x.T))
    white = (x - x.mean(axis=0)) @ (vectors / np.sqrt(values + 0.1) @ vectors.T)
    found = rows(Preprocess.fit(other, zca="computed")(other.train_images))
    np.testing.assert_allclose(found, white, atol=1e-3)
    fields = rows(Preprocess.fit(other, zca=True)(other.train_images))
    assert np.abs(fields - white).max() > 0.1


@pytest.mark.parametrize("zca", [False, True])
def test_floats_and_bytes_of_the_same_pixels_are_the_same_images(zca):
    data = made_up()
    fitted = Preprocess.fit(data, zca=zca)
    torch.testing.assert_close(fitted(data.test_images / 255), fitted(data.test_images))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("zca", [False, True])
def test_inverse_recovers_the_pixels(zca, channels):
    data = made_up(train=correlated()[:, :channels])
    fitted = Preprocess.fit(data, zca=zca)
    for pixels in (data.train_images, data.test_images):
        back = fitted.inverse(fitted(pixels))
        torch.testing.assert_close(back, pixels / 255, rtol=0, atol=1e-4)


@pytest.mark.parametrize("zca", ["units", "True", 1, 0, 1.0, None, ("unit",), torch.tensor(True)])
def test_a_whitening_that_is_none_is_told(complains, zca):
    """And not taken for the one that is True."""
    with complains("zca is ", "allowed: True, False, 'unit' or 'computed'"):
        Preprocess.fit(made_up(), zca=zca)
    with complains("zca is 'units' (did you mean 'unit'?)"):
        Preprocess.fit(made_up(), zca="units")


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool, torch.float32, torch.half])
@pytest.mark.parametrize("zca", [False, True])
def test_pixels_that_would_not_be_scaled_are_told(complains, zca, kind):
    data = made_up()
    fitted = Preprocess.fit(data, zca=zca)
    with complains(f"pixels are {kind}", "torch.uint8 of 0 to 255, or floats from 0 to 1"):
        fitted(data.test_images.to(kind))


@pytest.mark.parametrize("zca", [False, True, "unit"])
def test_there_and_back_is_no_pixel_too_bright(zca):
    train = correlated()
    train[::3] = 255
    fitted = Preprocess.fit(made_up(train=train), zca=zca)
    inputs = fitted(train)
    torch.testing.assert_close(fitted(fitted.inverse(inputs)), inputs, rtol=0, atol=1e-2)
    assert len(fitted(train[:0].float())) == 0


def test_floats_beyond_white_are_taken_where_that_is_said():
    fitted = Preprocess.fit(made_up(), zca=False)
    pixels = correlated(5) / 255
    both = (fitted.of_floats(pixels + 3) - fitted(pixels)) * fitted.std
    torch.testing.assert_close(both, torch.full_like(both, 3))


def test_inverse_does_not_clip():
    fitted = Preprocess.fit(made_up(), zca=False)
    far = torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 3, SIDE, SIDE)
    back = fitted.inverse(far)
    assert (back[0] < 0).all() and (back[1] > 1).all()


def test_zca_is_the_symmetric_whitening_of_the_unbiased_covariance():
    data = made_up()
    x = rows(Preprocess.fit(data, zca=False)(data.train_images))
    values, vectors = np.linalg.eigh(np.cov(x.T))
    matrix = vectors @ np.diag((values + 0.1) ** -0.5) @ vectors.T
    fitted = Preprocess.fit(data, zca=True)
    np.testing.assert_allclose(
        rows(fitted(data.train_images)), (x - x.mean(axis=0)) @ matrix, rtol=0, atol=2e-3
    )
    # And not refitted: the test split goes through the training split's matrix.
    y = rows(Preprocess.fit(data, zca=False)(data.test_images))
    np.testing.assert_allclose(
        rows(fitted(data.test_images)), (y - x.mean(axis=0)) @ matrix, rtol=0, atol=2e-3
    )


def test_whitened_images_vary_alike_in_every_direction_that_varied_much():
    data = made_up()
    x = rows(Preprocess.fit(data, zca=False)(data.train_images))
    values, vectors = np.linalg.eigh(np.cov(x.T))
    much = vectors[:, values > 5]
    assert much.shape[1] >= 2
    white = rows(Preprocess.fit(data, zca=True)(data.train_images))
    covariance = much.T @ np.cov(white.T) @ much
    np.testing.assert_allclose(covariance, np.eye(much.shape[1]), atol=0.025)


def test_pieces_of_a_large_set_are_transformed_like_the_whole():
    data = made_up()
    fitted = Preprocess.fit(data, zca=True)
    many = data.train_images.repeat(13, 1, 1, 1)  # 5,200: more than one piece
    torch.testing.assert_close(fitted(many), fitted(data.train_images).repeat(13, 1, 1, 1))


def test_second_fit_reads_the_first_ones_matrices(cache, monkeypatch):
    data = made_up()
    first = Preprocess.fit(data, zca=True)
    (kept,) = (path for path in cache.rglob("*") if path.is_file())
    written = kept.read_bytes()

    def refit(*_):
        raise AssertionError("fitted again")

    monkeypatch.setattr(preprocess.ZCAWhitening, "fit", refit)
    second = Preprocess.fit(data, zca=True)
    assert torch.equal(first(data.train_images), second(data.train_images))
    images = first(data.test_images)
    assert torch.equal(first.inverse(images), second.inverse(images))
    assert kept.read_bytes() == written


def test_other_data_has_its_own_matrices():
    one, other = made_up(), made_up(train=correlated(seed=5))
    Preprocess.fit(one, zca=True)
    images = rows(Preprocess.fit(other, zca=True)(other.train_images))
    np.testing.assert_allclose(images.mean(axis=0), 0, atol=1e-4)


def test_resident_splits_are_each_transformed_by_the_training_splits_fit():
    data = made_up()
    for zca in (False, True):
        fitted = Preprocess.fit(data, zca=zca)
        for split, pixels in (
            (preprocess.training_images, data.train_images),
            (preprocess.test_images, data.test_images),
        ):
            torch.testing.assert_close(split(data, zca, CPU), fitted(pixels))


CACHES = (preprocess.fitted, preprocess.training_images, preprocess.test_images)


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: cache.__name__)
def test_five_loads_of_one_data_set_are_pre_processed_once(cache):
    cache.cache_clear()
    for _ in range(5):
        cache(load_dataset("digits"), False, CPU)
    assert (cache.cache_info().misses, cache.cache_info().hits) == (1, 4)
    assert cache.cache_info().maxsize <= 4  # memory is bounded


@pytest.mark.parametrize("zca", [False, True])
def test_other_pixels_or_other_statistics_are_another_data_set(zca):
    one, two = made_up(), made_up(train=correlated(seed=1))
    three = replace(one, statistics=((0.5,) * 3, (0.25,) * 3))
    made = [preprocess.training_images(data, zca, CPU) for data in (one, two, three)]
    assert not any(torch.equal(made[i], made[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(preprocess.training_images(made_up(), zca, CPU), made[0])
