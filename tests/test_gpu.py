"""What a GPU would run, without one (see gpu.py): all on one device, and no step waits."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from atomlib import augmentation, preprocess, randomness
from atomlib.distill import distill
from atomlib.evaluate import evaluate
from atomlib.full_data import features_of, full_data_accuracies
from atomlib.methods import ATOM, DM, METHODS, GLaD, RandomImages, feature_matching
from atomlib.methods.decoder import Autoencoder, Decoder
from atomlib.methods.feature_matching import FeatureMatcher, RealSampler, class_chunks
from atomlib.models.architectures import Dropout
from atomlib.models.build import MODELS
from atomlib.models.convnet import NORMS, ConvNet, make_norm
from atomlib.models.ensemble import Ensemble
from atomlib.nas import Proxy, evaluate_candidates, search_space
from atomlib.runs.cost import step_cost
from atomlib.runtime import bookmark
from atomlib.runtime.device import Execution
from atomlib.training import EnsembleTrainer, EvalConfig, Trainer, side_by_side
from tests import gpu

CUDA = torch.device("cuda")
SMALL = {"width": 8, "compile": "off"}
LEARN = {"ipc": 2, "real_batch": 4, "zca": False, **SMALL}
TRAIN = {"epochs": 2, "networks": 3, "batch_size": 4}
CACHES = (
    preprocess.fitted,
    preprocess.training_images,
    preprocess.test_images,
    augmentation._indices,
)


@pytest.fixture
def watch():
    """A pretended GPU; nothing that another device left in a cache is read, and nothing stays."""
    for cached in CACHES:
        cached.cache_clear()
    with gpu.pretend_gpu() as seen:
        yield seen
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture
def small_vit(monkeypatch):
    """In the place of the vision transformer a small network with dropout, as that has."""

    class Small(nn.Sequential):
        SETTINGS = ()

        def __init__(self, channels, side, classes):
            layers = (nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), Dropout(0.1))
            super().__init__(*layers, nn.Flatten(), Dropout(0.1), nn.Linear(4 * side**2, classes))

    monkeypatch.setitem(MODELS, "vit", Small)


def sound(watch):
    """All on one device, each random number from a generator of it, a kernel for each operator."""
    assert not watch.mixed and not watch.generators
    assert watch.operators
    # The CPU's own attention; a GPU has another.
    missing = {str(op) for op in watch.kinds if not gpu.has_cuda_kernel(op)}
    assert all("_for_cpu" in name for name in missing)


def set_of(data, **settings):
    return distill(data, RandomImages(**{"ipc": 2, **settings}), device="cpu", progress=False)


def run_steps(data, watch, method, count=2):
    """Some iterations, seen from the second on: the first also copies what is then kept."""
    learner = method.resolve(data).learner(data, CUDA)
    learner.iterate()
    watch.clear()
    for _ in range(count):
        loss = learner.iterate()
    return loss, learner.learned["images"]


@pytest.mark.parametrize(
    ("method", "zca", "norm", "chunk"),
    [
        ("dm", False, "instance", 3),
        ("datadam", True, "batch", 3),
        ("atom", False, "instance", 1),
        ("atom", False, "batch", 3),
        ("atom", True, "instance", 3),
        ("atom", True, "layer", 1),
    ],
)
def test_a_step_is_all_on_the_gpu_and_waits_for_nothing(
    make_data, watch, monkeypatch, method, zca, norm, chunk
):
    chunks = [slice(k, k + chunk) for k in range(0, 3, chunk)]
    monkeypatch.setattr(feature_matching, "class_chunks", lambda *_: chunks)
    data = make_data()
    asked = METHODS[method](**{**LEARN, "zca": zca, "norm": norm})
    loss, images = run_steps(data, watch, asked)
    assert loss.device.type == images.grad.device.type == "cuda"
    assert not watch.waits
    sound(watch)


def test_the_loop_reads_losses_once_in_fifty_iterations(make_data, watch):
    data, waits = make_data(), []
    config = DM(dsa={"strategies": ()}, depth=1, **LEARN)
    for iterations in (1, 50, 100):  # the first also copies what is then kept
        watch.clear()
        distill(data, config.but(iterations=iterations), device="cuda", progress=False)
        waits.append(sum(watch.waits.values()))
    assert waits[2] - waits[1] == 1
    sound(watch)


@pytest.mark.parametrize(
    ("model", "together"), [("convnet", None), ("convnet", 1), ("alexnet", None), ("vit", None)]
)
def test_training_waits_no_more_the_longer_it_takes(make_data, watch, small_vit, model, together):
    data = make_data()
    made = set_of(data)
    width = SMALL if model == "convnet" else {"compile": "off"}
    config = EvalConfig(model=model, together=together, **width, **{**TRAIN, "networks": 2})
    waits = []
    for epochs in (1, 1, 2):
        watch.clear()
        evaluate(made, data, config.but(epochs=epochs), device="cuda", progress=False)
        waits.append(sum(watch.waits.values()))
        sound(watch)
    assert waits[1] == waits[2]


def test_all_else_is_on_one_device_too(make_data, watch, tmp_path):
    data = make_data(size=16)
    for method in ("herding", "kcenter"):
        chosen = METHODS[method](feature_epochs=1, zca=True, **SMALL)
        made = distill(data, chosen, device="cuda", progress=False)
    full_data_accuracies(
        data, EvalConfig(**TRAIN, **SMALL), zca=True, device="cuda", progress=False
    )
    alike = [c for c in search_space() if (c.depth, c.width, c.pooling) == (1, 32, "max")]
    waits = []
    for run, epochs in enumerate((1, 1, 2)):
        watch.waits.clear()
        evaluate_candidates(
            Proxy.of_set(made, epochs=epochs), alike, data, zca=True, keep=tmp_path / f"{run}",
            device="cuda", progress=False,
        )  # fmt: skip
        waits.append(sum(watch.waits.values()))
    assert waits[1] == waits[2]
    sound(watch)


def test_a_gpu_computes_what_a_cpu_does(make_data, watch):
    """Side by side and in one chunk, where a CPU does one after another: the same numbers."""
    data = make_data()
    config = ATOM(iterations=3, **LEARN)
    there, here = (distill(data, config, device=d, progress=False) for d in ("cuda", "cpu"))
    torch.testing.assert_close(there.trained, here.trained)
    train = partial(evaluate, here, data, EvalConfig(**TRAIN, **SMALL), progress=False)
    torch.testing.assert_close(train(device="cuda"), train(device="cpu"))


@pytest.mark.parametrize("model", ["convnet", "vit"])
def test_an_evaluation_goes_on_as_if_never_cut(
    make_data, watch, small_vit, tmp_path, monkeypatch, model
):
    data = make_data()
    width = SMALL if model == "convnet" else {"compile": "off"}
    config = EvalConfig(model=model, epochs=2, networks=1, batch_size=4, lr=0.05, **width)
    kept, write = [], bookmark.Bookmark.write

    def keep(self, tensors, *about):
        kept.append(dict(tensors))
        write(self, tensors, *about)
        if cut:
            raise KeyboardInterrupt

    monkeypatch.setattr(bookmark, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(bookmark.Bookmark, "write", keep)
    made, ends = set_of(data), []
    for cut in (False, True):
        kept.clear()
        path = tmp_path / f"{cut}.safetensors"
        for _ in range(4):
            try:
                evaluate(made, data, config, device="cuda", progress=False, resume=path)
                break
            except KeyboardInterrupt:
                continue
        ends.append({name: t.cpu().clone() for name, t in kept[-1].items()})
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=0, atol=0, msg=name)


def test_a_bookmark_comes_when_it_is_due_and_not_after_fifty_lives(
    make_data, watch, tmp_path, monkeypatch
):
    """A network's life can take minutes; between bookmarks losses are read now and then."""
    written, write = [], bookmark.Bookmark.write

    def keep(self, tensors, done, total):
        written.append((done, len(tensors["losses"])))
        write(self, tensors, done, total)

    monkeypatch.setattr(bookmark.Bookmark, "write", keep)
    monkeypatch.setattr(bookmark.Bookmark, "due", lambda self: next(due))
    due = iter([False, True, False, False, True, False])
    method = DM(iterations=6, **LEARN)
    distill(make_data(), method, device="cuda", progress=False, resume=tmp_path / "x.safetensors")
    assert written == [(2, 2), (5, 5)]


# The stand-in finds what it is there to find: faults sown into a step that is sound


def read_each_loss(monkeypatch):
    loss = FeatureMatcher.loss
    monkeypatch.setattr(FeatureMatcher, "loss", lambda self, images: loss(self, images).item())


def copy_each_batch(monkeypatch):
    draw = RealSampler.draw
    monkeypatch.setattr(RealSampler, "draw", lambda self: draw(self).cpu().to(CUDA))


def index_by_mask(monkeypatch):
    draw = RealSampler.draw

    def chosen(self):
        rows = draw(self)
        return rows[rows >= 0].view_as(rows)

    monkeypatch.setattr(RealSampler, "draw", chosen)


def copy_the_strategies(monkeypatch):
    def copying(u, allowed, *settings, **more):
        allowed = torch.tensor(range(6), device=CUDA)
        return augmentation.as_draw(u, allowed, *settings, **more)

    monkeypatch.setattr(feature_matching, "as_draw", copying)


def leave_images_on_the_cpu(monkeypatch):
    init = RealSampler.__init__

    def half_moved(self, *arguments):
        init(self, *arguments)
        self.images = self.images.cpu()

    monkeypatch.setattr(RealSampler, "__init__", half_moved)


def draw_on_the_cpu(monkeypatch):
    def on_the_cpu(*names, device="cpu"):
        return randomness.stream(*names)

    monkeypatch.setattr(feature_matching, "stream", on_the_cpu)


@pytest.mark.parametrize(
    ("sow", "found"),
    [
        (read_each_loss, "waits"),
        (copy_each_batch, "waits"),
        (index_by_mask, "waits"),
        (copy_the_strategies, "waits"),
        (leave_images_on_the_cpu, "mixed"),
        (draw_on_the_cpu, "generators"),
    ],
)
def test_a_fault_that_is_sown_is_found(make_data, watch, monkeypatch, sow, found):
    sow(monkeypatch)
    data = make_data()
    run_steps(data, watch, ATOM(**LEARN))
    assert getattr(watch, found)


def test_an_operator_without_code_for_a_gpu_is_found():
    assert gpu.has_cuda_kernel(torch.ops.aten.topk.default)
    assert not gpu.has_cuda_kernel(
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    )


# Number types


@contextmanager
def cuda_autocast():
    """The rules of torch.autocast("cuda", bfloat16), which it leaves off where there is no GPU."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_gives_out_the_number_type_that_it_takes(norm):
    """By the rules of CUDA alone, group and layer norms give out float32, and all that follows
    moves twice the bytes."""
    with FakeTensorMode(), cuda_autocast(), torch.device("cuda"):
        maps = torch.empty(2, 8, 4, 4, dtype=torch.bfloat16)
        assert make_norm(norm, 8, 4)(maps).dtype == torch.bfloat16


class NumberTypes(TorchDispatchMode):
    """Of each operator that a layer comes down to: its first input's, and its output's."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if name in ("convolution", "relu", "avg_pool2d") or name.endswith("norm"):
            first = out[0] if isinstance(out, tuple) else out
            self.seen.append((name, args[0].dtype, first.dtype))
        return out


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("train", [True, False])
def test_networks_side_by_side_have_the_number_types_of_one_alone(norm, train):
    """By the rules of CUDA under vmap: else how many train together would decide a result."""
    seen = []
    with FakeTensorMode(), cuda_autocast(), torch.device("cuda"), torch.no_grad():
        network = ConvNet(3, 16, 10, depth=2, width=8, norm=norm)
        for one in (network, Ensemble(network, 2)):
            (one.train if train else one.eval)()
            with NumberTypes() as types:
                one(torch.empty(4, 3, 16, 16))
            seen.append([t for t in types.seen if not t[0].endswith("batch_norm")])
            norms = [t for t in types.seen if t[0].endswith("norm")]
            assert len(norms) == (0 if norm == "none" else 2)
            assert {t[1] for t in norms} <= {torch.float32}
    assert seen[0] == seen[1]
    narrow = ("convolution", torch.bfloat16, torch.bfloat16)
    assert seen[0].count(narrow) == 2 and seen[0][-1][0] == "avg_pool2d"
    assert all(t[2] == torch.bfloat16 for t in seen[0] if t[0] in ("relu", "avg_pool2d"))


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("precision", "convolutions", "name"),
    [
        ("auto", True, "eager tf32 on cuda"),
        ("float32", False, "eager float32 on cuda"),
        ("bfloat16", False, "eager bfloat16 on cuda"),
    ],
)
def test_tf32_is_named_and_float32_is_float32(watch, precision, convolutions, name):
    before = tf32()
    execution = Execution(ATOM(precision=precision, compile="off"), CUDA, 0)
    assert str(execution) == name
    with execution.step():
        assert tf32() == (convolutions, False)
    assert tf32() == before


def test_a_gpu_without_tf32_has_float32(watch, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert str(Execution(ATOM(compile="off"), CUDA, 0)) == "eager float32 on cuda"


def test_each_step_and_each_test_runs_in_the_chosen_number_type(make_data, watch, monkeypatch):
    seen = set()
    for owner, name in (
        (FeatureMatcher, "_means"),
        (Trainer, "_augmented"),
        (Trainer, "_test_scores"),
    ):
        monkeypatch.setattr(owner, name, _noting(getattr(owner, name), seen, name))
    data = make_data()
    made = distill(data, ATOM(iterations=1, **LEARN), device="cuda", progress=False)
    evaluate(made, data, EvalConfig(**TRAIN, **SMALL), device="cuda", progress=False)
    expected = {(n, True, False) for n in ("_means", "_augmented", "_test_scores")}
    assert seen == expected


def test_what_runs_outside_of_steps_has_the_chosen_number_type_too(
    make_data, watch, monkeypatch, tmp_path
):
    """Features by which images are chosen, and decoders: torch's own default is TF32."""
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path))
    seen = set()
    for owner, name in ((ConvNet, "features"), (Autoencoder, "encode"), (Decoder, "forward")):
        what = f"{owner.__name__}.{name}"
        monkeypatch.setattr(owner, name, _noting(getattr(owner, name), seen, what))
    data, exact = make_data(), {"precision": "float32", **SMALL}
    features_of(data, EvalConfig(epochs=1, **exact), False, CUDA, progress=False)
    small = {"decoder_width": 8, "decoder_epochs": 1, "fit_steps": 1, "iterations": 1}
    for prior in ("trained", "random"):
        method = GLaD(prior=prior, **small, **LEARN | exact)
        distill(data, method, device="cuda", progress=False)
    names = ("ConvNet.features", "Autoencoder.encode", "Decoder.forward")
    assert seen == {(name, False, False) for name in names}


def _noting(method, seen, name):
    def noted(self, *arguments):
        if not any(getattr(one, "is_meta", False) for one in arguments):  # which only counts
            seen.add((name, *tf32()))
        return method(self, *arguments)

    return noted


def test_the_bound_is_measured_in_the_number_type_of_the_step(make_data, watch, monkeypatch):
    seen = []
    matmul = torch.Tensor.__matmul__

    def product(a, b):
        seen.append(tf32()[1])
        return matmul(a[:8, :8], b[:8, :8])

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    data = make_data()
    for precision, expected in (("auto", True), ("float32", False)):
        seen.clear()
        config = ATOM(precision=precision, **LEARN).resolve(data)
        step_cost(data, config, CUDA, repeats=1)
        assert set(seen) == {expected}


# Memory


@pytest.mark.parametrize(("gigabytes", "most"), [(80, 10), (1, 3), (0.01, 1)])
def test_as_many_networks_train_together_as_memory_holds(make_data, gigabytes, most):
    data = make_data(size=32)
    config = EvalConfig(networks=10, compile="off").resolve(32)
    with gpu.pretend_gpu(gigabytes):
        assert 1 <= side_by_side(config, data, CUDA, images=10) <= most


def test_chunks_of_classes_fit_a_small_card(make_data):
    data = make_data(counts=(200,) * 3, size=32)
    config = ATOM(ipc=1).resolve(data)
    sizes = []
    for gigabytes in (80, 2):
        with gpu.pretend_gpu(gigabytes):
            chunk = class_chunks(data, config, CUDA, 128)[0]
            sizes.append(chunk.stop - chunk.start)
    assert sizes == [3, 1]


def test_networks_that_do_not_fit_train_in_smaller_groups(make_data, watch, monkeypatch, capsys):
    data = make_data()
    made, config = set_of(data), EvalConfig(**{**TRAIN, "networks": 5}, **SMALL)
    train = partial(evaluate, made, data, config, device="cuda", progress=False)
    expected, passes = train(), EnsembleTrainer.passes

    def limited(self, images, labels, generators, state=None):
        for epoch in passes(self, images, labels, generators, state):
            if epoch == 2 and len(generators) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield epoch

    monkeypatch.setattr(EnsembleTrainer, "passes", limited)
    capsys.readouterr()
    torch.testing.assert_close(train(), expected)
    said = capsys.readouterr().err
    assert "5 networks" in said and "2 at a time" in said and said.count("\n") == 1


def test_what_one_network_lacks_is_not_hidden(make_data, watch, monkeypatch):
    def none(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "passes", none)
    data = make_data()
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(set_of(data), data, EvalConfig(**TRAIN, **SMALL), device="cuda", progress=False)


def test_gradients_are_let_go_before_test_images_come(make_data, watch, monkeypatch):
    left, scores = [], Trainer._test_scores

    def noted(self, images):
        left.extend(p.grad is not None for p in self.network.parameters())
        return scores(self, images)

    monkeypatch.setattr(Trainer, "_test_scores", noted)
    data = make_data()
    evaluate(set_of(data), data, EvalConfig(**TRAIN, **SMALL), device="cuda", progress=False)
    assert left and not any(left)


# Launches


def test_a_compiled_step_launches_few_kernels_beside_the_compiled_ones(make_data, watch):
    """At IPC 1 a large GPU waits for launches more than for arithmetic."""
    data = make_data(size=16)
    with gpu.as_if_compiled(watch):
        run_steps(data, watch, ATOM(**{**LEARN, "depth": 3}), count=1)
    assert sum(watch.launches.values()) < 20, watch.launches
