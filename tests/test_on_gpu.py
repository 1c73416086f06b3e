"""What only a real GPU can show: ``pytest -m gpu``. Skipped where there is none."""

import copy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from atomlib.augmentation import augment, draw
from atomlib.datasets import ImageData
from atomlib.distill import distill
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, RandomImages
from atomlib.methods.feature_matching import RealSampler, class_means, matching_loss
from atomlib.models.build import network_for
from atomlib.models.ensemble import Ensemble
from atomlib.preprocess import fitted
from atomlib.randomness import stream
from atomlib.runtime import bookmark, compiling
from atomlib.runtime.device import Execution, has_bfloat16
from atomlib.training import EnsembleTrainer, EvalConfig, Trainer

pytestmark = pytest.mark.gpu
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EAGER = {"compile": "off", "precision": "float32"}


def random_data(classes=10, side=32, images=160):
    generator = torch.Generator().manual_seed(0)
    shape = (classes * images, 3, side, side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.arange(classes).repeat_interleave(images)
    names = tuple(map(str, range(classes)))
    return ImageData("random", pixels, labels, pixels[::images], labels[::images], names)


@pytest.fixture(scope="module")
def data():
    return random_data()


@pytest.fixture
def no_waiting():
    """An error for whatever makes the CPU wait for the GPU, between ``on()`` and the end."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def some_steps(data, method, count):
    """The losses and images of some iterations, and the learner itself."""
    learner = method.resolve(data).learner(data, CUDA)
    losses = [learner.iterate().clone() for _ in range(count)]
    return torch.stack(losses).cpu(), learner.images().clone(), learner


# The same values as a CPU's


@pytest.mark.parametrize("norm", ["instance", "batch", "layer", "group", "none"])
def test_loss_and_gradient_are_those_of_a_cpu(data, norm):
    method = ATOM(ipc=3, zca=False, norm=norm, **EAGER).resolve(data)
    network = network_for(method, data, stream(0, "network")).requires_grad_(False)
    drawn = draw(10, 32, method.dsa, stream(0, "dsa"))
    rows = torch.arange(1600).view(10, 160)
    pixels = [data.train_images[rows[:, part]] for part in (slice(32), slice(32, 35))]
    found = {}
    for device in (CPU, CUDA):
        transform, net = fitted(data, False, device), copy.deepcopy(network).to(device)
        real, synthetic = (transform(p.to(device)) for p in pixels)
        synthetic.requires_grad_()
        own = type(drawn)(*(value.to(device) for value in drawn))

        def of(images, own=own, net=net):
            maps, output = net.features(augment(images, own, method.dsa).flatten(0, 1))
            return class_means(method, maps, output, 10)

        with Execution(method, device, 0).step():
            weights, means = of(real)
            loss = matching_loss(weights, means, of(synthetic)[1], method.loss_scale)
            loss.backward()
        found[device] = loss.item(), synthetic.grad.cpu()
    (loss, gradient), (here, expected) = found[CUDA], found[CPU]
    assert loss == pytest.approx(here, rel=1e-3)
    error = (gradient - expected).norm() / expected.norm()
    assert error < 1e-2


@pytest.mark.parametrize("model", ["convnet", "alexnet", "vgg11", "resnet18", "vit"])
def test_scores_are_those_of_a_cpu(data, model):
    config = EvalConfig(model=model, **EAGER).resolve(32)
    network = network_for(config, data, stream(0, "network")).eval()
    images = torch.randn(16, 3, 32, 32, generator=stream(0, "images"))
    with torch.no_grad(), Execution(config, CUDA, 0).step():
        expected = network(images)
        torch.testing.assert_close(
            copy.deepcopy(network).to(CUDA)(images.to(CUDA)).cpu(), expected, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("zca", [False, True])
def test_whitened_images_are_those_of_a_cpu(data, zca):
    pixels = data.train_images[:50]
    there = fitted(data, zca, CUDA)(pixels.to(CUDA)).cpu()
    torch.testing.assert_close(there, fitted(data, zca, CPU)(pixels), rtol=1e-3, atol=1e-3)


def test_a_gpu_draws_other_numbers_than_a_cpu():
    """As randomness.stream says; a rerun on the other kind of device is another sample."""
    there = torch.rand(8, generator=stream(0, "x", device=CUDA), device=CUDA).cpu()
    assert not torch.equal(there, torch.rand(8, generator=stream(0, "x")))
    again = torch.rand(8, generator=stream(0, "x", device=CUDA), device=CUDA).cpu()
    assert torch.equal(there, again)


@pytest.mark.parametrize("settings", [{}, {"graphs": True}], ids=["compiled", "graphs"])
def test_compiled_steps_and_graphs_reach_what_eager_ones_do(data, settings):
    start = ATOM(ipc=2, zca=False, loss_scale=100.0)
    eager, images, *_ = some_steps(data, start.but(**EAGER), 5)
    fast = start.but(compile="on", precision="float32", **settings)
    losses, same, *_ = some_steps(data, fast, 5)
    torch.testing.assert_close(losses, eager, rtol=0.01, atol=1e-4)
    torch.testing.assert_close(same, images, rtol=0.01, atol=0.01)


def test_graphs_train_networks_as_eager_steps_do(data):
    images = torch.randn(100, 3, 32, 32, generator=stream(0, "images")).to(CUDA)
    labels = torch.arange(100, device=CUDA) % 10
    reached = []
    for settings in ({"compile": "off"}, {"compile": "on", "graphs": True}):
        config = EvalConfig(epochs=3, precision="float32", batch_size=40, **settings).resolve(32)
        network = network_for(config, data).to(CUDA)
        trainer = EnsembleTrainer(Ensemble(network, 3), config, Execution(config, CUDA, 0))
        trainer.train(images, labels, [stream(0, i, device=CUDA) for i in range(3)])
        reached.append(torch.tensor(trainer.accuracies(images, labels)))
        assert len(reached[-1]) == 3
    assert (reached[0] - reached[1]).abs().max() <= 5


# A run that was cut


@pytest.mark.parametrize("model", ["convnet", "vit"])
def test_an_evaluation_that_goes_on_ends_with_the_same_bytes(data, tmp_path, monkeypatch, model):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(bookmark, "EVERY_SECONDS", 0.0)
    made = distill(data, RandomImages(ipc=2), device="cpu", progress=False)
    # No DSA: the gradient of its resampling is summed in no fixed order.
    config = EvalConfig(model=model, epochs=3, networks=1, dsa={"strategies": ()}, **EAGER)
    write, kept, ends = bookmark.Bookmark.write, [], []

    def keep(self, tensors, *about):
        kept.append(dict(tensors))
        write(self, tensors, *about)
        if cut:
            raise KeyboardInterrupt

    monkeypatch.setattr(bookmark.Bookmark, "write", keep)
    for cut in (False, True):
        for _ in range(6):
            try:
                path = tmp_path / f"{cut}.safetensors"
                evaluate(made, data, config, device=CUDA, progress=False, resume=path)
                break
            except KeyboardInterrupt:
                continue
        ends.append({name: tensor.cpu().clone() for name, tensor in kept[-1].items()})
    for name in ends[0]:
        assert torch.equal(ends[0][name], ends[1][name]), name


# Waiting, launches, memory


@pytest.mark.parametrize("how", ["off", "on"])
def test_no_step_waits_for_the_gpu(data, no_waiting, how):
    *_, learner = some_steps(data, ATOM(ipc=2, zca=False, compile=how), 3)
    no_waiting()
    for _ in range(3):
        learner.iterate()


@pytest.mark.parametrize("networks", [1, 3])
def test_no_pass_of_training_waits_for_the_gpu(data, no_waiting, networks):
    config = EvalConfig(epochs=3, compile="off").resolve(32)
    network, execution = network_for(config, data).to(CUDA), Execution(config, CUDA, 0)
    if networks == 1:
        trainer = Trainer(network, config, execution)
    else:
        trainer = EnsembleTrainer(Ensemble(network, networks), config, execution)
    images = torch.randn(50, 3, 32, 32, device=CUDA)
    generators = [stream(0, i, device=CUDA) for i in range(networks)]
    for epoch in trainer.passes(images, torch.arange(50, device=CUDA) % 10, generators):
        if epoch == 1:  # the first pass copies what is then kept
            no_waiting()


def launches(learner):
    """Kernels and copies of one iteration, by the profiler."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        learner.iterate()
        torch.cuda.synchronize()
    return [event.name for event in seen.events() if event.device_type.name == "CUDA"]


def test_a_compiled_step_is_few_kernels(data):
    compiled, eager = (
        some_steps(data, ATOM(zca=False, compile=how), 4)[2] for how in ("on", "off")
    )
    assert len(launches(compiled)) < 120
    assert len(launches(compiled)) < len(launches(eager)) / 3


def test_no_graph_is_made_anew_from_step_to_step(data):
    from torch._dynamo.utils import counters

    *_, learner = some_steps(data, ATOM(zca=False, compile="on"), 3)
    before = counters["stats"]["unique_graphs"]
    for _ in range(3):
        learner.iterate()
    assert counters["stats"]["unique_graphs"] == before


def test_two_hundred_classes_of_64_pixels_take_less_than_16_gb():
    data = random_data(classes=200, side=64, images=130)
    torch.cuda.reset_peak_memory_stats()
    config = ATOM(ipc=10, zca=False, compile="on")
    some_steps(data, config, 2)
    assert torch.cuda.max_memory_allocated() < 16e9


def test_the_whole_training_set_rests_on_the_gpu_once(data):
    config = ATOM(zca=False).resolve(data)
    before = torch.cuda.memory_allocated()
    sampler = RealSampler(data, config, CUDA)
    taken = torch.cuda.memory_allocated() - before
    assert data.train_images.nbytes <= taken < 1.1 * data.train_images.nbytes + 1e6
    assert sampler.images.dtype == torch.uint8


# Choices that are measured


def test_whether_compiling_pays_is_measured_once_and_kept(capsys, monkeypatch):
    measured = compiling.pays_from(CUDA)
    assert 1e11 < measured < 1e18
    monkeypatch.setattr(compiling, "trial", None)
    assert compiling.pays_from(CUDA) == measured
    assert has_bfloat16(CUDA) in (True, False)
