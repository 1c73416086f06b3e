"""GLaD: its gradient by definition, the methods that it holds, its decoder, its limits."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from atomlib.datasets.load import load_dataset
from atomlib.distill import DivergedError, distill, trajectory
from atomlib.methods import DM, DSA, MTT, decoder, glad
from atomlib.methods.decoder import Autoencoder, Decoder, Training, fit, trained_autoencoder
from atomlib.methods.glad import GLaD, GLaDDC, GLaDMTT, LatentLearner
from atomlib.methods.method import Learner
from atomlib.runtime.device import Execution

CPU = torch.device("cpu")
SMALL = {
    "ipc": 2,
    "width": 8,
    "real_batch": 4,
    "iterations": 3,
    "compile": "off",
    "decoder_width": 8,
    "decoder_epochs": 2,
    "fit_steps": 3,
}
STUDENT = {"student_steps": 3, "expert_epochs": 1, "latest_start": 1, "experts": 2}
HELD = [(GLaD, DM, {}), (GLaDDC, DSA, {"outer": 2, "inner": 1}), (GLaDMTT, MTT, STUDENT)]


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoders"


def of(method, **settings):
    known = {k: v for k, v in SMALL.items() if k in method.model_fields}
    return method(**known | settings)


def learner_of(data, method=GLaD, **settings):
    return of(method, **settings).resolve(data).learner(data, CPU, progress=False)


def made(data, method=GLaD, **settings):
    return distill(data, of(method, **settings), device="cpu", progress=False)


class Within(Learner):
    """A learner of images in float64 with a loss by hand."""

    def __init__(self, images, loss_of, method):
        execution = Execution(method, CPU, 0)
        super().__init__({"images": images}, execution, rates={"images": 1.0}, momentum=0.0)
        self.loss_of = loss_of

    def life(self):
        images = self.learned["images"]
        loss = self.loss_of(images)
        (images.grad,) = torch.autograd.grad(loss, images)
        yield loss.detach()

    def generators(self):
        return {}


def by_hand(data, latents, side, decode, loss_of):
    """A learner of latents, and the gradient that it gives them."""
    method = of(GLaD).resolve(data)
    images = torch.zeros(*latents.shape[:2], 3, side, side, dtype=latents.dtype)
    learner = LatentLearner(method, Within(images, loss_of, method), latents, decode)
    next(learner.life())
    return learner, learner.learned["latents"].grad


# The gradient


def test_gradient_through_a_linear_decoder_is_the_transposed_times_that_by_images(data):
    chance = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, 8, generator=chance, dtype=torch.float64)
    slopes, latents = (
        torch.randn(2, 1, *shape, generator=chance, dtype=torch.float64)
        for shape in ((3, 2, 2), (2, 2, 2))
    )
    learner, found = by_hand(
        data,
        latents,
        2,
        lambda f: (f.flatten(1) @ matrix.T).view(-1, 3, 2, 2),
        lambda images: (images * slopes).sum(),
    )
    torch.testing.assert_close(found.flatten(1), slopes.flatten(1) @ matrix, rtol=1e-14, atol=0)
    images = (latents.flatten(1) @ matrix.T).view_as(slopes)
    torch.testing.assert_close(learner.images(), images, rtol=1e-14, atol=0)


@pytest.mark.parametrize("most", [1, 3, 100], ids=["one by one", "by threes", "at once"])
def test_in_chunks_it_is_the_gradient_of_the_whole_graph(data, monkeypatch, most):
    monkeypatch.setattr(glad, "PIXELS", most * 8**2)
    network = decoder.random_decoder(data, 8, 0, CPU).double()
    chance = torch.Generator().manual_seed(1)
    latents = torch.randn(4, 2, *network.shape, generator=chance, dtype=torch.float64)
    exact = latents.clone().requires_grad_()
    network(exact.flatten(0, 1)).pow(3).sum().backward()
    _, found = by_hand(data, latents, 8, network, lambda images: images.pow(3).sum())
    torch.testing.assert_close(found, exact.grad, rtol=1e-12, atol=1e-16)


# What it holds


@pytest.mark.parametrize(("method", "within", "more"), HELD, ids=["dm", "dc", "mtt"])
def test_with_a_decoder_that_changes_nothing_it_is_the_method_within(
    data, cache, method, within, more
):
    plain = of(within, zca=False, **more).resolve(data)
    settings = {key: value for key, value in plain.model_dump().items() if key != "recipe"}
    held = of(method, **settings).resolve(data)
    start = plain.start(data, CPU)
    one, other = (plain.learner(data, CPU, progress=False) for _ in range(2))
    over = LatentLearner(held, other, start.clone(), lambda latents: latents)
    for _ in range(3):
        assert torch.equal(one.iterate(), over.iterate())
    assert torch.equal(one.images(), over.images()) and not torch.equal(one.images(), start)
    assert one.extras() == over.extras()


@pytest.mark.parametrize(("method", "within", "_"), HELD, ids=["dm", "dc", "mtt"])
def test_its_other_defaults_are_those_of_the_method_within(method, within, _):
    own = {
        GLaD: {"iterations": 1000, "real_batch": 256, "zca": False},
        GLaDDC: {"outer": 1, "inner": 1},
        GLaDMTT: {
            "iterations": 1000,
            "student_steps": 20,
            "expert_epochs": 3,
            "latest_start": 5,
            "rate": 0.01,
            "rate_lr": 1e-6,
            "zca": False,
        },
    }[method]
    own |= {"prior": "trained", "decoder_width": 64, "decoder_epochs": 10, "fit_steps": 200}
    assert method().model_dump() == within().model_dump() | own


@pytest.mark.parametrize("prior", ["trained", "random"])
@pytest.mark.parametrize("zca", [False, True])
def test_latents_are_learned_and_the_decoder_is_not(data, cache, prior, zca):
    learner = learner_of(data, prior=prior, zca=zca)
    decode = learner.decode
    probe = learner.learned["latents"].detach().flatten(0, 1).clone()
    before = decode(probe).clone()
    torch.testing.assert_close(learner.images().flatten(0, 1), before)
    learner.iterate()
    assert torch.equal(decode(probe), before)
    assert not torch.equal(learner.learned["latents"].detach().flatten(0, 1), probe)
    after = decode(learner.learned["latents"].detach().flatten(0, 1))
    torch.testing.assert_close(learner.images().flatten(0, 1), after)


def test_images_are_within_0_and_1_before_anything_is_clipped(data, cache):
    done = made(data, image_lr=30.0, zca=True)
    pixels = glad.preprocess.fitted(data, True, CPU).inverse(done.trained)
    assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5


def test_without_iterations_it_is_what_the_decoder_makes_of_the_start(data, cache):
    first = next(trajectory(data, of(GLaD), (0,), device="cpu", progress=False))
    none = made(data, iterations=0)
    assert torch.equal(none.trained, first.trained)
    real = of(GLaD).resolve(data).start(data, CPU).flatten(0, 1)
    assert not torch.equal(none.trained, real)


def test_latents_are_clipped_at_the_start_only(data, cache, monkeypatch):
    monkeypatch.setattr(glad, "LARGEST", 0.5)
    learner = learner_of(data, image_lr=1e3)
    assert learner.learned["latents"].abs().max() == 0.5
    learner.iterate()
    assert learner.learned["latents"].abs().max() > 0.5


# The decoder


@pytest.mark.parametrize("side", [1, 2, 5, 8, 28])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoder_of_any_side(channels, side):
    network = Autoencoder(channels, side, 8)
    pixels = torch.rand(2, channels, side, side)
    latents = network.encode(pixels)
    assert latents.shape == (2, *network.decoder.shape) == (2, 8, *[-(-side // 4)] * 2)
    made = network.decoder(latents)
    assert made.shape == pixels.shape and ((made > 0) & (made < 1)).all()


@pytest.mark.parametrize(("side", "multiplications"), [(32, 29_196_288), (8, 1_824_768)])
def test_operations_are_those_of_its_convolutions(make_data, side, multiplications):
    """w 64: 64 x 64 at half the side, 64 x 32 and 32 x 3 at the whole of it, nine of each."""
    assert decoder.operations(make_data(size=side), 64) == 2 * multiplications
    assert multiplications == 9 * side**2 * (64 * 64 // 4 + 64 * 32 + 32 * 3)


def test_on_images_that_it_has_not_seen_it_beats_the_mean_and_the_thumbnail(cache):
    digits = load_dataset("digits")
    network = trained_autoencoder(digits, 32, 5, of(GLaD), CPU, progress=False)
    seen, unseen = (images.float() / 255 for images in (digits.train_images, digits.test_images))
    thumbnails = F.interpolate(F.interpolate(unseen, size=2, mode="area"), size=8, mode="bilinear")
    with torch.no_grad():
        error, of_mean, of_thumbnails = (
            float((made - unseen).square().mean())
            for made in (network(unseen), seen.mean(dim=0), thumbnails)
        )
    assert error < min(of_mean, of_thumbnails) / 2


def test_fitted_latents_are_nearer_and_each_is_its_own_search(data):
    network = decoder.random_decoder(data, 8, 0, CPU)
    pixels = data.train_images[:3].float() / 255
    start = torch.randn(3, *network.shape, generator=torch.Generator().manual_seed(0))
    errors = [
        (network(fit(network, pixels, start, steps)) - pixels).square().sum() for steps in (0, 20)
    ]
    assert errors[1] < errors[0]
    alone = fit(network, pixels[1:2], start[1:2], 5)
    torch.testing.assert_close(fit(network, pixels, start, 5)[1:2], alone, rtol=1e-4, atol=1e-5)


def test_a_random_decoder_is_that_of_its_seed(data):
    probe = torch.ones(1, *Decoder(3, 8, 8).shape)
    one, again, other = (decoder.random_decoder(data, 8, seed, CPU)(probe) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_decoder_and_latents_of_a_random_prior_go_by_the_seed(data, monkeypatch):
    given = []
    monkeypatch.setattr(decoder, "fit", lambda *args: given.append(args) or args[2])
    for seed in (0, 0, 1):
        learner_of(data, prior="random", seed=seed)
    weights = [network.last.weight for network, *_ in given]
    latents = [start for _, _, start, _ in given]
    for first, same, other in (weights, latents):
        assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_decoder_of_more_epochs_is_another(data, cache):
    few, more = (trained_autoencoder(data, 8, n, of(GLaD), CPU, progress=False) for n in (1, 2))
    assert not torch.equal(few.last.weight, more.last.weight)


def test_a_decoder_is_trained_in_batches_of_128(make_data):
    execution = Execution(of(GLaD), CPU, 0)
    training = Training(Autoencoder(3, 8, 8), make_data(counts=(50, 50, 30)), execution)
    seen, loss = [], training._loss
    training._loss = lambda pixels: seen.append(len(pixels)) or loss(pixels)
    training.epoch()
    assert seen == [128, 2]


def test_a_trained_decoder_is_one_for_all_seeds_and_is_read_again(data, cache, monkeypatch):
    first = learner_of(data).images()
    monkeypatch.setattr(Training, "epoch", None)  # nothing is trained from here on
    assert torch.equal(learner_of(data).images(), first)
    learner_of(data, seed=1)
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_training_that_is_killed_goes_on_to_the_same_bytes(data, cache, monkeypatch):
    trained = partial(trained_autoencoder, data, 8, 4, of(GLaD), CPU, progress=False)
    monkeypatch.setattr(decoder.Bookmark, "due", lambda self: True)
    trained()
    (path,) = cache.glob("*.safetensors")
    whole = path.read_bytes()
    path.unlink()
    epoch, done = Training.epoch, []

    def killed(self):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(epoch(self))

    with monkeypatch.context() as patch:
        patch.setattr(Training, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            trained()
    assert not path.exists()
    counted = []
    monkeypatch.setattr(Training, "epoch", lambda self: counted.append(epoch(self)))
    trained()
    assert len(counted) == 2 and path.read_bytes() == whole
    assert list(cache.glob("*.unfinished")) == []


def test_compiled_training_agrees_with_eager(data, traced):
    found = []
    for how in ("off", "on"):
        execution = Execution(of(GLaD, compile=how, precision="float32"), CPU, 0)
        training = Training(Autoencoder(3, 8, 8), data, execution)
        training.epoch()
        found.append(training.network.state_dict())
    assert training._loss.fast is not None
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_damaged_decoder_is_made_again(data, cache, capsys):
    first = learner_of(data).images()
    (path,) = cache.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    assert torch.equal(learner_of(data).images(), first)
    assert "set aside" in capsys.readouterr().err


# Settings


def test_settings_that_cannot_be(complains):
    with complains("prior is 'styelgan'", "'trained' or 'random'"):
        GLaD(prior="styelgan")
    with complains("decoder_width is 12", "multiple of 8"):
        GLaD(decoder_width=12)
    with complains("decoder_epochs is 0", "allowed"):
        GLaD(decoder_epochs=0)
    with complains("unknown setting 'prior'"):
        DM(prior="random")
    with complains("unknown setting 'student_steps'"):
        GLaD(student_steps=3)


def test_latents_that_are_no_numbers_stop_the_run(data, cache, complains):
    with complains("image_lr (now 1e+30)", kind=DivergedError):
        made(data, image_lr=1e30, loss_scale=1e30)
