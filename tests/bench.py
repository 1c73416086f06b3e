"""``make bench``: what a step, an evaluation and their growth cost, in one run.

On random pixels in CIFAR-10's shape (10 classes, 32 x 32 x 3, ConvNet-3 of width 128,
InstanceNorm, 128 real images per class, 256 for DC): time does not depend on what they show.
"Plain" is the same work written the way published loops are (tests/plain.py): a class, or a
network, at a time, eager float32. Each figure is measured in a process of its own, so that neither
sees the other's memory, compiled code or settings. The bound is the arithmetic of convolutions and
matrix products alone, counted, at the rate that a matrix product of the same number type reaches on
this machine.
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from scipy.stats import ttest_rel
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from atomlib.augmentation import Draw, augment, draw
from atomlib.datasets.image_data import ImageData
from atomlib.datasets.load import load_dataset
from atomlib.distill import distill
from atomlib.distilled_set import by_class
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, DC, METHODS, Method, RandomImages
from atomlib.methods.feature_matching import RealSampler
from atomlib.models.build import network_for, reset_parameters
from atomlib.models.ensemble import Ensemble
from atomlib.nas.space import search_space
from atomlib.nas.together import MixedEnsemble, pack
from atomlib.randomness import stream
from atomlib.report.figures import style, write_figure
from atomlib.runs.cost import costs, matrix_rate, seconds
from atomlib.runs.processes import alone, in_processes
from atomlib.runs.ray_cluster import in_cluster
from atomlib.runtime import provenance
from atomlib.runtime.device import Execution, memory, pick_device
from atomlib.runtime.files import atomic_write
from atomlib.training import EnsembleTrainer, EvalConfig, Trainer, side_by_side
from tests.gpu import CUDA, Watch, as_if_compiled, pretend_gpu
from tests.plain import plain_epoch, plain_gradient_step, plain_step
from tests.ray_nodes import ray_nodes

MATCHING, IPCS = ("dm", "datadam", "atom"), (1, 10, 50)
FULL = {"zca": False, "compile": "on"}
NETWORKS = 5


def random_data(classes: int = 10, side: int = 32, images: int = 512) -> ImageData:
    """Random pixels, ``images`` of each class."""
    generator = torch.Generator().manual_seed(0)
    shape = (classes * images, 3, side, side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.arange(classes).repeat_interleave(images)
    names = tuple(str(k) for k in range(classes))
    return ImageData("random", pixels, labels, pixels[::images], labels[::images], names)


def speed(device: torch.device) -> pd.DataFrame:
    """A step of each method and IPC, and a pass of five networks, ours beside plain."""
    data = random_data()
    grid = [METHODS[name](ipc=ipc, **FULL) for name in MATCHING for ipc in IPCS]
    grid.append(DC(ipc=1, **FULL))  # where a network's life is one step
    steps = costs(data, grid, device=device, repeats=7)
    plain = [alone(plain_step_seconds, data, method, device) for method in tqdm(grid, "plain")]
    rows = [
        {
            "what": "step",
            "method": row.method,
            "ipc": row.ipc,
            "seconds": row.step_s,
            "plain": theirs,
            "bound": row.bound_s,
            "matrix_gflops": row.matrix_gflops,
            "peak_gb": row.peak_mb / 1e3,
            "how": row.how,
        }
        for row, theirs in zip(steps.itertuples(), plain, strict=True)
    ]
    for ipc in tqdm(IPCS, "evaluation"):
        ours = alone(pass_seconds, data, ipc, device)
        theirs = alone(plain_pass_seconds, data, ipc, device)
        rows.append({"what": f"pass of {NETWORKS} networks", "ipc": ipc, "plain": theirs, **ours})
    table = pd.DataFrame(rows)
    table.insert(5, "times_faster", table.plain / table.seconds)
    table.insert(7, "times_bound", table.seconds / table.bound)
    return table


def others(device: torch.device) -> pd.DataFrame:
    """A step of ATOM by the code's recipe (BatchNorm, ZCA, 64 real images per class), and an
    iteration of the methods of other papers, each at its own settings: of DC and MTT that is the
    life of a network. MTT's expert is trained beforehand; GLaD over DM stands below DM at GLaD's
    batch."""
    data = random_data()
    grid = [ATOM(ipc=ipc, recipe="code", **FULL | {"zca": True}) for ipc in (1, 10)]
    grid += [METHODS[name](ipc=1, **FULL) for name in ("dc", "dsa")]
    # On random pixels the student learns nothing, and its rate would soon fall below 0.
    expert = {"experts": 1, "latest_start": 1, "expert_epochs": 1, "rate_lr": 1e-12}
    grid += [METHODS["mtt"](ipc=1, **expert, **FULL)]
    grid += [METHODS["dm"](ipc=1, real_batch=256, **FULL), METHODS["glad"](ipc=1, **FULL)]
    table = costs(data, grid, device=device, repeats=7)
    table["peak_gb"] = table.peak_mb / 1e3
    columns = ["method", "recipe", "ipc", "real_batch", "step_s", "step_low_s", "step_high_s"]
    return table[[*columns, "bound_s", "times_bound", "peak_gb", "matrix_gflops", "how"]]


def plain_step_seconds(data: ImageData, method: Method, device: torch.device) -> float:
    """A published loop's step, its data on the device and drawn for it, which flatters it."""
    method = method.resolve(data)
    network = network_for(method, data).to(device).requires_grad_(False)
    sampler, chance = RealSampler(data, method, device), stream(0, "bench", device=device)
    images = method.start(data, device).requires_grad_()

    def step() -> None:
        images.grad = None
        reset_parameters(network, chance)
        real = sampler.as_inputs(sampler.images[sampler.draw()])
        if isinstance(method, DC):
            plain_gradient_step(network, real, images, None, None).backward()
            return
        drawn = draw(data.num_classes, data.image_size, method.dsa, chance)
        drawn = Draw(*(value.cpu() for value in drawn))  # published loops draw on the host
        plain_step(network, real, images, drawn, method).backward()

    step()
    return seconds(step, device, 5)


def synthetic(data: ImageData, ipc: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """As many images and labels as a distilled set has."""
    images = RandomImages(ipc=ipc, zca=False).resolve(data).start(data, device)
    return images.flatten(0, 1), by_class(data.num_classes, ipc).to(device)


def pass_seconds(data: ImageData, ipc: int, device: torch.device) -> dict[str, Any]:
    """One pass of all networks over a set of that IPC, as atomlib.evaluate trains them."""
    config = EvalConfig(networks=NETWORKS, epochs=9, compile="on").resolve(data)
    images, labels = synthetic(data, ipc, device)
    execution, network = Execution(config, device, 0), network_for(config, data).to(device)
    together = side_by_side(config, data, device, min(config.batch_size, len(images)))
    chance = [stream(config.seed, "evaluate", i, device=device) for i in range(NETWORKS)]
    groups = [chance[first : first + together] for first in range(0, NETWORKS, together)]
    trainers: dict[int, Trainer] = {1: Trainer(network, config, execution)}
    for size in {len(group) for group in groups} - {1}:
        trainers[size] = EnsembleTrainer(Ensemble(network, size), config, execution)

    def train() -> None:
        for group in groups:
            trainers[len(group)].train(images, labels, group)

    train()
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network_for(config, data).to(device)(images[:1]), labels[:1]).backward()
    work = NETWORKS * len(images) * counter.get_total_flops()
    rate = matrix_rate(execution.dtype, device)
    return {
        "seconds": seconds(train, device, 3) / (config.epochs + 1),
        "bound": work / rate,
        "matrix_gflops": rate / 1e9,
        "how": str(execution),
    }


def plain_pass_seconds(data: ImageData, ipc: int, device: torch.device) -> float:
    """The same with a DataLoader, network after network. Its augmentation is our batched one,
    uncompiled, which flatters it."""
    config = EvalConfig().resolve(data)
    images, labels = synthetic(data, ipc, device)
    chance = stream(0, "bench", device=device)
    loader = DataLoader(TensorDataset(images, labels), batch_size=config.batch_size, shuffle=True)
    networks = [network_for(config, data).to(device) for _ in range(NETWORKS)]
    optimizers = [
        torch.optim.SGD(
            n.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
        )
        for n in networks
    ]

    def augmented(x: Tensor) -> Tensor:
        drawn = draw(len(x), x.shape[-1], config.dsa, chance, one_strategy=True)
        return augment(x[:, None], drawn, config.dsa)[:, 0]

    def train() -> None:
        for network, optimizer in zip(networks, optimizers, strict=True):
            plain_epoch(network, loader, optimizer, augmented)

    train()
    return seconds(train, device, 3)


def growth(device: torch.device) -> pd.DataFrame:
    """Time and memory of a step of ATOM as one of four sizes grows and the others stay."""
    sizes = {
        "ipc": (1, 10, 50, 100),
        "classes": (5, 10, 20, 50),
        "side": (16, 32, 64),
        "real_batch": (32, 64, 128, 256),
    }
    usual = {"ipc": 10, "classes": 10, "side": 32, "real_batch": 128}
    tables = []
    for what, values in sizes.items():
        for value in values:
            size = {**usual, what: value}
            data = random_data(size["classes"], size["side"])
            method = ATOM(ipc=size["ipc"], real_batch=size["real_batch"], **FULL)
            row = costs(data, [method], device=device, repeats=3, progress=False)
            tables.append(row.assign(grows=what, size=value, peak_gb=row.peak_mb / 1e3))
            print(f"{what} {value}: {row.step_s[0]:.3f} s, {row.peak_mb[0]:.0f} MB")
    table = pd.concat(tables)
    columns = ["grows", "size", "step_s", "step_low_s", "step_high_s", "peak_gb", "gflop"]
    return table[[*columns, "bound_s", "times_bound", "how"]]


def largest(device: torch.device) -> pd.DataFrame:
    """Time and memory of a step of ATOM in TinyImageNet's shape: 200 classes of 64 x 64 pixels,
    ConvNet-4 of width 128, 128 real images per class."""
    data = random_data(200, 64)
    grid = [ATOM(ipc=ipc, **FULL) for ipc in (1, 10)]
    table = costs(data, grid, device=device, repeats=1, progress=False)
    table["peak_gb"] = table.peak_mb / 1e3
    return table[["ipc", "step_s", "peak_gb", "gflop", "bound_s", "times_bound", "how"]]


AXES = {
    "ipc": "images per class (IPC)",
    "classes": "classes",
    "side": "side, pixels",
    "real_batch": "real images per class",
}


def growth_figure(table: pd.DataFrame) -> plt.Figure:
    """Seconds, from the fastest to the slowest step, and peak memory, measured once, against each
    size, with the arithmetic bound; the panels of a row have one y axis."""
    style()
    kinds = list(table.groupby("grows", sort=False))
    figure, axes = plt.subplots(2, len(kinds), figsize=(9, 4.2), sharex="col", sharey="row")
    blue, orange = sns.color_palette()[:2]
    for (above, below), (what, part) in zip(axes.T, kinds, strict=True):
        spread = [part.step_s - part.step_low_s, part.step_high_s - part.step_s]
        look = {"fmt": "o-", "color": blue, "capsize": 2, "label": "median, fastest, slowest"}
        above.errorbar(part["size"], part.step_s, spread, **look)
        above.plot(part["size"], part.bound_s, "--", color="0.4", label="arithmetic bound")
        below.plot(part["size"], part.peak_gb, "o-", color=orange)
        below.set(xlabel=AXES[what], xticks=part["size"])
    # Once all is drawn: the panels of a row share their limits.
    axes[0, 0].set(ylabel="seconds per step", ylim=(0, None))
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[1, 0].set(ylabel="peak memory, GB", ylim=(0, None))
    return figure


def exactness(device: torch.device) -> pd.DataFrame:
    """The step as it runs against its definition in float64: error of the loss, cosine of the
    gradients; worst of two iterations each."""
    data = random_data(images=128)
    small = {"real_batch": 32, **FULL}
    grid = [METHODS[name](ipc=ipc, **small) for name in MATCHING for ipc in IPCS]
    grid += [ATOM(spatial_power=p, channel_power=p, **small) for p in (1.0, 2.0, 8.0)]
    rows = []
    for asked in tqdm(grid, "exactness"):
        method = asked.resolve(data)
        learner, sampler = method.learner(data, device), RealSampler(data, method, device)
        draws = stream(method.seed, "dsa", device=device)
        images = method.start(data, device).requires_grad_()
        errors, cosines = [], []
        for _ in range(2):
            loss = float(learner.loss(images))
            drawn = draw(data.num_classes, data.image_size, method.dsa, draws)
            drawn = Draw(*(v.double() if v.is_floating_point() else v for v in drawn))
            real = sampler.as_inputs(sampler.images[sampler.draw()]).double()
            exact = images.detach().double().requires_grad_()
            definition = plain_step(deepcopy(learner.network).double(), real, exact, drawn, method)
            definition.backward()
            errors.append(abs(loss / definition.item() - 1))
            both = (images.grad.double().flatten(), exact.grad.flatten())
            cosines.append(F.cosine_similarity(*both, dim=0).item())
        rows.append(
            {
                "method": method.name,
                "ipc": method.ipc,
                "power": getattr(method, "spatial_power", None),
                "loss_error_percent": 100 * max(errors),
                "gradient_cosine": min(cosines),
                "how": str(learner.execution),
            }
        )
    return pd.DataFrame(rows)


def accuracy(device: torch.device) -> pd.DataFrame:
    """Digits distilled by ATOM in bfloat16 and in float32, five seeds each, then trained on
    alike: accuracies by seed, and a paired t-test."""
    data, rows = load_dataset("digits"), []
    evaluation = EvalConfig(networks=3, epochs=100, precision="float32", compile="off")
    for precision in ("float32", "bfloat16"):
        for seed in tqdm(range(5), f"accuracy {precision}"):
            method = ATOM(ipc=10, iterations=100, seed=seed, precision=precision, loss_scale=100.0)
            made = distill(data, method, device=device, progress=False)
            found = evaluate(made, data, evaluation, device=device, progress=False)
            rows.append({"precision": precision, "seed": seed, "accuracy": float(found.mean())})
    return pd.DataFrame(rows)


def cluster(device: torch.device) -> pd.DataFrame:
    """Items side by side in processes and on a Ray cluster whose nodes have one processor each, all
    on this machine. Start: until a first worker is ready for work. Empty: what an item costs that
    does nothing, the mean of five hundred in a row. Work: items of matrix products on one
    thread, twenty of them, and how many times sooner they end than one after another."""
    rows = [{"engine": "this process", "workers": 1, **items_seconds(this_process)}]
    with ray_nodes(1) as nodes:
        engines = {
            "processes": lambda workers, *work: in_processes(work[0], workers, *work[1:]),
            "ray": lambda _, *work: in_cluster(*work, address=nodes.address, gpus=0),
        }
        for workers in (1, 2):
            if workers == 2:
                nodes.add()
            for name, engine in engines.items():
                seconds = items_seconds(partial(engine, workers))
                rows.append({"engine": name, "workers": workers, **seconds})
    table = pd.DataFrame(rows)
    table["times_faster"] = table.work_s[0] / table.work_s
    return table


SHAPES = [(1, 32, "average"), (3, 32, "average"), (3, 64, "average"), (1, 32, "none")]


def search(device: torch.device) -> pd.DataFrame:
    """A pass of the search's 15 networks of a shape over a set of IPC 10: one network after
    another, and all of them as one; and how many atomlib.nas.together has train together here."""
    return pd.DataFrame([alone(shape_seconds, *shape, device) for shape in tqdm(SHAPES, "search")])


def shape_seconds(depth: int, width: int, pooling: str, device: torch.device) -> dict[str, Any]:
    data = random_data()
    images, labels = synthetic(data, 10, device)
    candidates = [
        c for c in search_space() if (c.depth, c.width, c.pooling) == (depth, width, pooling)
    ]
    precision = "bfloat16" if device.type == "cuda" else "float32"
    config = EvalConfig(compile="off", precision=precision, epochs=1)
    alike = dict.fromkeys(candidates, 1.0)
    groups = pack(alike, config, data, device, images=len(images), room=memory(device))
    by_norm = sorted(candidates, key=lambda candidate: candidate.norm)
    configs = [config.but(**asdict(candidate)) for candidate in by_norm]
    execution = Execution(config, device, 0)
    networks = [network_for(own, data).to(device) for own in configs]
    each = [Trainer(n, own, execution) for n, own in zip(networks, configs, strict=True)]
    mixed = EnsembleTrainer(MixedEnsemble(networks), config, execution)
    chance = [stream(0, "bench", place, device=device) for place in range(len(networks))]

    def one_by_one() -> None:
        for trainer, own in zip(each, chance, strict=True):
            trainer.train(images, labels, [own])

    def as_one() -> None:
        mixed.train(images, labels, chance)

    found = {}
    for name, train in (("one_by_one_s", one_by_one), ("as_one_s", as_one)):
        train()
        found[name] = seconds(train, device, 3) / (config.epochs + 1)
    return {
        "depth": depth,
        "width": width,
        "pooling": pooling,
        **found,
        "times_faster": found["one_by_one_s"] / found["as_one_s"],
        "together_here": len(groups[0].candidates),
        "how": str(execution),
    }


EMPTY, BUSY, PRODUCTS = 500, 20, 25


def items_seconds(engine: Callable) -> dict[str, float]:
    """Of one call: seconds to the first result, of an empty item, and of all that work."""
    kinds = {"first": 8, "empty": EMPTY, "busy": BUSY}  # eight, for all workers to be there
    items = [
        SimpleNamespace(name=f"{kind} {n}", kind=kind) for kind in kinds for n in range(kinds[kind])
    ]
    start = time.perf_counter()
    ends = {kind: [] for kind in kinds}
    for item, _ in engine(items, bench_work, ()):
        ends[item.kind].append(time.perf_counter())
    return {
        "start_s": ends["first"][0] - FIRST_S - start,
        "empty_ms": 1e3 * (ends["empty"][-1] - ends["empty"][0]) / (EMPTY - 1),
        "work_s": ends["busy"][-1] - ends["empty"][-1],
    }


FIRST_S = 0.5


def bench_work() -> Callable:
    """What a worker does with an item."""
    torch.set_num_threads(1)
    matrix = torch.rand(1024, 1024)

    def work(item: SimpleNamespace) -> None:
        if item.kind == "first":
            time.sleep(FIRST_S)
        if item.kind == "busy":
            for _ in range(PRODUCTS):
                matrix @ matrix

    return work


def this_process(items: list, make: Callable, arguments: tuple) -> Iterator[tuple[Any, None]]:
    """One after another."""
    work = make(*arguments)
    for item in items:
        yield item, work(item)


def launches(device: torch.device) -> pd.DataFrame:
    """Kernels that a step, and a pass of networks, starts on a GPU, and how often it waits for it.

    Counted by a stand-in for a GPU (tests/gpu.py), in small, for they depend on neither width nor
    batch. "Beside compiled" are those outside of what is compiled.
    """
    of_steps = [("step", name, partial(step_counts, METHODS[name])) for name in MATCHING]
    of_a_pass = [(f"pass of {NETWORKS} networks", None, pass_counts)]
    rows = []
    for what, method, counts in tqdm(of_steps + of_a_pass, "launches"):
        (eager, waits), (beside, more) = (alone(counts, compiled) for compiled in (False, True))
        row = {"what": what, "method": method, "launches_eager": eager}
        rows.append(row | {"launches_beside_compiled": beside, "waits": max(waits, more)})
    return pd.DataFrame(rows)


TINY = {"zca": False, "width": 8, "compile": "off"}


def step_counts(method: type[Method], compiled: bool) -> tuple[int, int]:
    """Launches and waits of a step after the first, which also copies what is then kept."""
    data = random_data(images=8)
    with watched(compiled) as watch:
        learner = method(ipc=1, real_batch=4, **TINY).resolve(data).learner(data, CUDA)
        learner.iterate()
        watch.clear()
        learner.iterate()
    return watch.launches.total(), watch.waits.total()


def pass_counts(compiled: bool) -> tuple[int, int]:
    """What an epoch more adds to an evaluation: launches and waits."""
    data, counts = random_data(images=8), []
    made = distill(data, RandomImages(ipc=1, zca=False), device="cpu", progress=False)
    for epochs in (1, 2, 3):  # the first also copies what is then kept
        config = EvalConfig(epochs=epochs, networks=NETWORKS, width=8, compile="off")
        with watched(compiled) as watch:
            evaluate(made, data, config, device=CUDA, progress=False)
        counts.append((watch.launches.total(), watch.waits.total()))
    (before, waits), (after, more) = counts[1:]
    return after - before, more - waits


@contextmanager
def watched(compiled: bool) -> Iterator[Watch]:
    """A pretended GPU, whose Watch sees what would be compiled too, or all else alone."""
    with pretend_gpu() as watch, as_if_compiled(watch) if compiled else nullcontext():
        yield watch


def bandwidth(device: torch.device) -> float:
    """Bytes a second read and written by a copy of 256 MB, the best of ten."""
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    return (
        2
        * source.nbytes
        / min(seconds(partial(target.copy_, source), device, 1) for _ in range(10))
    )


def same_accuracy(table: pd.DataFrame) -> str:
    """Whether bfloat16 and float32 differ, tested over seeds in pairs."""
    narrow, wide = (table[table.precision == kind].accuracy for kind in ("bfloat16", "float32"))
    return (
        f"bfloat16 {narrow.mean():.2f} %, float32 {wide.mean():.2f} %: paired t-test over "
        f"{len(wide)} seeds, p = {ttest_rel(narrow, wide).pvalue:.2g}."
    )


def readable(table: pd.DataFrame) -> str:
    """The table in Markdown, without what its notes say."""
    shown = table.drop(columns=["how", "matrix_gflops"], errors="ignore")
    for column in shown.select_dtypes("float"):
        shown[column] = shown[column].map(lambda value: "" if pd.isna(value) else f"{value:.3g}")
    shown = shown.rename(columns=lambda column: column.replace("_", " ")).fillna("")
    return shown.to_markdown(index=False, disable_numparse=True)


def main() -> None:
    """Measure, print, and write reports/bench/<hardware>/."""
    sections = {
        "speed": speed,
        "others": others,
        "growth": growth,
        "largest": largest,
        "exactness": exactness,
        "accuracy": accuracy,
        "cluster": cluster,
        "search": search,
        "launches": launches,
    }
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", nargs="+", choices=sections, default=list(sections))
    device, only = pick_device(None), parser.parse_args().only
    folder = Path("reports/bench") / re.sub(r"\W+", "-", provenance.hardware()).strip("-").lower()
    libraries = ", ".join(f"{k} {v}" for k, v in provenance.versions().items())
    about = f"{provenance.hardware()}, memory copied at {bandwidth(device) / 1e9:.0f} GB/s"
    for name in only:
        table = sections[name](device)
        with atomic_write(folder / f"{name}.csv") as part:
            table.to_csv(part, index=False, float_format="%.5g")
        text = readable(table)
        notes = [" ".join(sections[name].__doc__.split()), f"{about}; {libraries}.", __doc__]
        if "how" in table:
            notes.insert(1, f"How: {', '.join(table.how.unique())}.")
        if "matrix_gflops" in table:
            low, high = table.matrix_gflops.min(), table.matrix_gflops.max()
            notes.insert(2, f"Matrix products at {low:.0f} to {high:.0f} GFLOP/s.")
        if name == "accuracy":
            notes.insert(0, same_accuracy(table))
        with atomic_write(folder / f"{name}.md") as part:
            part.write_text("\n\n".join([text, *notes]))
        if name == "growth":
            write_figure(growth_figure(table), folder, "growth")
        print(f"{text}\n\nreport: {folder}/{name}.md\n")


if __name__ == "__main__":
    main()
