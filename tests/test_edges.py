"""Where numbers end: constant images, one class, one pixel, no activation, overflow, NaN."""

import itertools
from dataclasses import replace

import pytest
import torch

from atomlib.datasets.image_data import ImageData
from atomlib.datasets.load import load_dataset
from atomlib.distill import DivergedError, distill
from atomlib.errors import DataError, MissingDataError
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, DM, METHODS, DataDAM, Herding, KCenter
from atomlib.methods.feature_matching import LearnedImages
from atomlib.models.build import check_room, network_for
from atomlib.models.convnet import NORMS
from atomlib.runtime import device as execution
from atomlib.training import EvalConfig
from tests.plain import class_loss

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")
SMALL = {"width": 8, "iterations": 3, "feature_epochs": 1, "precision": "float32"}
SMALL |= {"student_steps": 3, "experts": 2, "expert_epochs": 2, "latest_start": 1}
SMALL |= {"outer": 2, "inner": 2, "most_steps": 2, "most_epochs": 2}
SMALL |= {"rate_lr": 1e-7, "decoder_width": 8, "decoder_epochs": 1}
MTTS = ("mtt", "glad_mtt")
LEARNED = [DM.name, DataDAM.name, ATOM.name]


def small(method, **settings):
    """A method by name, with what it has of these settings where no other are given."""
    known = {k: v for k, v in SMALL.items() if k in METHODS[method].model_fields}
    return METHODS[method](**known | settings)


def run(data, method="atom", **settings):
    return distill(data, small(method, **settings), device="cpu", progress=False)


def accuracies(made, data, **settings):
    config = EvalConfig(**({"width": 8, "networks": 2, "epochs": 2} | settings))
    return evaluate(made, data, config, device="cpu", progress=False)


def coloured(data, values):
    """The same data with the images of each class that ``values`` names all of one value."""
    images = data.train_images.clone()
    for label, value in values.items():
        images[data.train_labels == label] = value
    return replace(data, train_images=images, fingerprint="")


# Constant images


@pytest.mark.parametrize("zca", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [0, 77, 255])
def test_images_all_of_one_colour_match_from_the_start(make_data, value, norm, zca):
    data = coloured(make_data(), dict.fromkeys(range(3), value))
    for method in LEARNED:
        made = run(data, method=method, norm=norm, zca=zca, dsa={"strategies": ()})
        # Real and synthetic images are the same, so every term is zero, and so is its gradient.
        assert made.history[0][1] == pytest.approx(0, abs=1e-10)
        assert made.trained.isfinite().all()
        if norm in ("none", "layer"):  # the others blow rounding up, having nothing else to scale
            torch.testing.assert_close(made.images, torch.full_like(made.images, value / 255))


@pytest.mark.parametrize(
    ("method", "norm"),  # MTT has no BatchNorm
    [
        (of, norm)
        for of, norm in itertools.product(METHODS, NORMS)
        if of not in MTTS or norm != "batch"
    ],
)
def test_one_class_of_one_colour_is_learned_with_the_others(make_data, method, norm):
    data = coloured(make_data(), {1: 128})
    made = run(data, method=method, norm=norm, ipc=2)
    assert made.trained.isfinite().all()
    found = accuracies(made, data, norm=norm)
    assert ((found >= 0) & (found <= 100)).all()


@pytest.mark.parametrize("method", [Herding(), KCenter()])
def test_of_equal_images_a_coreset_takes_each_once(method):
    assert sorted(method.choose(torch.ones(5, 3), 4).tolist()) == [0, 1, 2, 3]


# One class, one image, one pixel


@pytest.mark.parametrize("method", [name for name in METHODS if name not in MTTS])
def test_of_one_class_every_network_knows_every_image(make_data, method):
    data = make_data(counts=(5,))
    made = run(data, method=method)
    assert made.trained.isfinite().all()
    assert accuracies(made, data).tolist() == [100, 100]


@pytest.mark.parametrize("depth", [2, 3], ids=["last map of 2 pixels", "last map of 1 pixel"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_step_of_one_image_of_one_class_is_the_definition(make_data, norm, depth):
    data = make_data(counts=(4,))
    settings = {"norm": norm, "depth": depth, "dsa": {"strategies": ()}, "real_batch": 4}
    config = small("atom", **settings).resolve(data)
    learner = config.learner(data, CPU)
    images = config.start(data, CPU).requires_grad_()
    loss = learner.loss(images)
    real = learner.sampler.as_inputs(data.train_images).double()  # all that the class has
    exact = images.detach().double().requires_grad_()
    expected = class_loss(learner.network.double(), real, exact[0], config)
    expected.backward()
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-4, atol=1e-8)
    largest = float(exact.grad.abs().max())
    assert largest > 0
    torch.testing.assert_close(images.grad.double(), exact.grad, rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("counts", [(4,), (4, 4, 4)], ids=["one class", "three classes"])
@pytest.mark.parametrize("depth", [2, 3])
def test_batchnorm_takes_batches_of_one_image(make_data, counts, depth):
    data = make_data(counts=counts)
    made = run(data, norm="batch", depth=depth)
    assert made.trained.isfinite().all()
    # Three images by ones or twos: the last batch is a single one.
    for batch_size in (1, 2):
        found = accuracies(made, data, norm="batch", depth=depth, batch_size=batch_size)
        assert ((found >= 0) & (found <= 100)).all()


# Overflow


@pytest.fixture
def start(monkeypatch):
    """Have images start from what a function makes of the real ones."""
    real_start = LearnedImages.start

    def set_start(change):
        def start(self, *given, **settings):
            return change(real_start(self, *given, **settings))

        monkeypatch.setattr(LearnedImages, "start", start)

    return set_start


HIGH = {"spatial_power": 16.0, "channel_power": 16.0, "norm": "none", "output": False}


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_normalised_high_powers_learn_at_any_scale_of_the_features(make_data, start, scale):
    start(lambda images: scale * images)
    made = run(make_data(), **HIGH, dsa={"strategies": ()})
    assert all(loss > 0 for _, loss in made.history)
    before = run(make_data(), **HIGH, iterations=0).trained
    assert not torch.equal(made.trained, before), "no gradient came through"


def test_powers_that_overflow_without_normalisation_are_told(make_data, start, complains):
    start(lambda images: 1e4 * images)
    with complains("loss is", "iteration 1", "image_lr", kind=DivergedError):
        run(make_data(), **HIGH, attention_norm="none")


# NaN


def spoiled(value):
    def spoil(images):
        images = images.clone()
        images.view(-1)[7] = value
        return images

    return spoil


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("method", LEARNED)
def test_a_pixel_that_is_no_number_gives_no_set(
    make_data, start, complains, method, iterations, value
):
    start(spoiled(value))
    with complains("not finite" if not iterations else "loss is nan", kind=DivergedError):
        run(make_data(), method=method, iterations=iterations)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_set_with_a_pixel_that_is_no_number_is_not_evaluated(make_data, complains, value):
    data = make_data()
    made = run(data, method="random")
    with complains("no numbers", "allowed"):
        accuracies(replace(made, trained=spoiled(value)(made.trained)), data)


def test_a_set_of_other_images_than_its_data_is_not_evaluated(make_data, complains):
    data = make_data()
    made = run(data, method="random")
    with complains("(3, 4, 4)", "(3, 8, 8)", "toy"):
        trained, images = made.trained[..., ::2, ::2], made.images[..., ::2, ::2]
        accuracies(replace(made, trained=trained, images=images), data)


# Arguments of the wrong kind, data of the wrong form


@pytest.mark.parametrize("data", ["digits", None, torch.zeros(3, 3, 8, 8)])
def test_what_is_no_data_is_told(make_data, complains, data):
    with complains("data is", "load_dataset"):
        distill(data, ATOM())
    with complains("data is", "load_dataset"):
        evaluate(run(make_data(), method="random"), data)


@pytest.mark.parametrize("config", [{"ipc": 1}, "atom", EvalConfig(), 0, ATOM])
def test_what_is_no_config_is_told(make_data, complains, config):
    with complains("method is", "ATOM(ipc=1)"):
        distill(make_data(), config)
    if not isinstance(config, EvalConfig):
        with complains("config is", "an EvalConfig"):
            evaluate(run(make_data(), method="random"), make_data(), config)


def test_what_is_no_set_is_told(make_data, complains):
    with complains("distilled is", "DistilledSet.load"):
        evaluate("atom.safetensors", make_data())


def pixels(*shape, dtype=torch.uint8):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"train_images": pixels(18, 3, 8, 8).float()}, ("train_images", "float32", "uint8")),
        ({"train_images": torch.full((18, 3, 8, 8), NAN)}, ("train_images", "float32")),
        ({"train_images": pixels(18, 8, 8)}, ("train_images", "(18, 8, 8)")),
        ({"train_images": pixels(18, 3, 8, 9)}, ("train_images", "(18, 3, 8, 9)")),
        ({"train_images": pixels(18, 3, 1, 1)}, ("train_images", "2 pixels")),
        ({"train_images": pixels(17, 3, 8, 8)}, ("train_labels", "(18,)", "17")),
        ({"train_images": pixels(18, 0, 8, 8)}, ("train_images", "(18, 0, 8, 8)")),
        ({"test_images": pixels(6, 1, 8, 8)}, ("test_images", "(6, 1, 8, 8)", "(18, 3, 8, 8)")),
        ({"test_images": pixels(6, 3, 4, 4)}, ("test_images", "(6, 3, 4, 4)")),
        (
            {"test_images": pixels(0, 3, 8, 8), "test_labels": pixels(0, dtype=torch.long)},
            ("test_images", "one image or more"),
        ),
        ({"test_labels": torch.tensor([0, 0, 1, 1, 2, 3])}, ("test_labels", "0 to 3", "0 to 2")),
        ({"test_labels": torch.tensor([0, 0, 1, 1, 2, -1])}, ("test_labels", "-1 to 2")),
        ({"train_labels": pixels(18)}, ("train_labels", "uint8", "int64")),
        ({"train_labels": pixels(18, 1, dtype=torch.long)}, ("train_labels", "(18, 1)")),
        ({"train_labels": pixels(18, dtype=torch.long)}, ("'bee'", "no training images")),
    ],
)
def test_data_of_the_wrong_form_is_told(make_data, complains, change, parts):
    data = make_data()
    with complains("toy", "allowed", *parts, kind=DataError):
        replace(data, **change)


@pytest.mark.parametrize("part", ["train_images", "train_labels", "test_images", "test_labels"])
def test_what_is_no_tensor_is_told(make_data, complains, part):
    data = make_data()
    given = getattr(data, part)
    others = {"a numpy.ndarray": given.numpy(), "a list": given.tolist(), "a NoneType": None}
    for kind, other in others.items():
        with complains(f"{part} of toy are {kind};", "torch.from_numpy", kind=DataError):
            replace(data, **{part: other})
    for other in (given.to("meta"), given.to_sparse()):
        with complains(f"{part} of toy are on ", "allowed: on cpu", kind=DataError):
            replace(data, **{part: other})


@pytest.mark.parametrize(
    "names", [None, 3, "abc", (0, 1, 2), ("a", "b", None), ("a", "b", "\ud800"), ("a", "b", "c\n")]
)
def test_class_names_that_are_no_text_are_told(make_data, complains, names):
    with complains("class", "of toy", "allowed: ", "text", kind=DataError):
        replace(make_data(), class_names=names)
    with complains("fingerprint of toy is None", kind=DataError):
        replace(make_data(), fingerprint=None)


# Folders from the environment


@pytest.mark.parametrize("settings", [{"zca": True}, {"method": "herding"}])
def test_a_cache_that_cannot_be_is_told(make_data, tmp_path, monkeypatch, complains, settings):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "file" / "cache"))
    with complains(tmp_path / "file", "be written", "allowed"):
        run(make_data(seed=99), **settings)


@pytest.mark.parametrize("name", ["cifar10", "tinyimagenet", "folder:pets"])
def test_a_data_folder_that_is_none_is_told(tmp_path, monkeypatch, complains, name):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATOM_DATA", str(tmp_path / "file"))
    with complains(tmp_path / "file", name, kind=MissingDataError):
        load_dataset(name)


# Memory


@pytest.fixture
def gigabyte(monkeypatch):
    """A machine of 1 GB."""
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 18}
    monkeypatch.setattr(execution.os, "sysconf", pages.__getitem__)


HUGE = {"width": 2**14, "depth": 3}


@pytest.mark.parametrize("method", ["atom", "herding"])
def test_a_network_beyond_the_memory_is_refused_unbuilt(make_data, gigabyte, complains, method):
    with complains("width 16384", "GB", "allowed", "1 GB of cpu"):
        run(make_data(), method=method, **HUGE)


def test_networks_beyond_the_memory_are_refused_unbuilt(make_data, gigabyte, complains):
    data = make_data()
    made = run(data, method="random")
    with complains("width 16384", "GB"):
        accuracies(made, data, **HUGE)
    with complains("width 16384", "GB"):
        run(data, method="kcenter", **HUGE)
    with complains("1000000 network", "fewer networks together"):
        accuracies(made, data, networks=10**6, together=10**6)
    assert len(accuracies(made, data, networks=2, together=10**6)) == 2


@pytest.mark.parametrize("images", [1, 64])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pooling", ["none", "average", "max"])
def test_no_step_is_refused_that_fits(make_data, monkeypatch, complains, images, norm, pooling):
    """What check_room asks for is less than what autograd keeps, which any step has to hold."""
    data = make_data(size=16)
    config = ATOM(norm=norm, pooling=pooling, width=16, precision="float32").resolve(data)
    network = network_for(config, data).requires_grad_(False)
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.features(torch.randn(images, 3, 16, 16, requires_grad=True))
    weights = sum(weight.nbytes for weight in network.parameters())
    room = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": weights + sum(kept.values())}
    monkeypatch.setattr(execution.os, "sysconf", room.__getitem__)
    check_room(config, data, CPU, images)
    room["SC_PHYS_PAGES"] //= 16
    with complains("GB"):
        check_room(config, data, CPU, images)


def test_class_names_and_labels_agree_in_number(make_data, complains):
    data = make_data()
    with complains("no training images", kind=DataError):
        ImageData("toy", data.train_images, data.train_labels, data.test_images, data.test_labels,
                  (*data.class_names, "dog"))  # fmt: skip
