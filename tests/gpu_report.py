"""``make gpu``: everything that only a real GPU can show, and one file to send back.

In this order: what compiling and CUDA graphs gain here; what the ``paper`` profile would cost, in
hours; the tests marked "gpu"; one profiled step; ``make bench``; the profile ``cifar10-gpu``, whose
accuracies are held against those that ``reports/cifar10-cpu`` has of the same settings. A part that
fails is written down, and the others go on. All of it is in build/gpu/ and in
build/gpu-report.tar.gz.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from atomlib.datasets.image_data import ImageData
from atomlib.methods import ATOM
from atomlib.models.build import network_for, operations
from atomlib.nas import search_space
from atomlib.randomness import stream
from atomlib.recipes import RECIPES
from atomlib.runs.cost import seconds
from atomlib.runs.grid import ablation, disagreements, powers
from atomlib.runs.profiles import read_profile
from atomlib.runtime import compiling
from atomlib.runtime.device import Execution
from atomlib.runtime.provenance import hardware, versions
from atomlib.training import EvalConfig, Trainer

FOLDER = Path("build/gpu")
CUDA = torch.device("cuda")
SHAPES = {"cifar10": (10, 32), "cifar100": (100, 32), "tinyimagenet": (200, 64)}
"""Classes and side of the data sets of the paper."""
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tinyimagenet": 100_000}
LEARNED = 3
"""DM, DataDAM and ATOM: the methods of a main table that learn for 8000 iterations."""


def random_data(classes: int, side: int, images: int = 128) -> ImageData:
    """Random pixels in the shape of a data set: time does not depend on what they show."""
    shape = (classes * images, 3, side, side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=stream(0, "pixels"))
    labels = torch.arange(classes).repeat_interleave(images)
    names = tuple(map(str, range(classes)))
    return ImageData("random", pixels, labels, pixels[::images], labels[::images], names)


def work(profile: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Operations of each notebook of a profile like ``paper``: to distil, to train networks on
    sets, and of the search. Counted from its settings, without its data."""
    rows = []
    for name, asked in profile.items():
        row = {"notebook": name, "distil": 0.0, "train": 0.0, "search": 0.0}
        number = name[:2]
        if number == "06":
            row["search"] = search_work(asked)
        sets = {"01": LEARNED, "03": len(ablation()), "09": LEARNED}
        if number == "04":
            sets["04"] = len(powers(asked["powers"]))
        if number == "08":
            sets["08"] = sum(len(disagreements(r, asked["settings_changed"])) for r in RECIPES)
        points = asked.get("checkpoints", 1)
        for dataset in asked.get("datasets", []) if number in sets else []:
            data = random_data(*SHAPES[dataset], images=1)
            for ipc in asked["ipcs"]:
                method = ATOM(ipc=ipc, real_batch=128).but(depth=3 + (data.image_size > 32))
                one = operations(method, data) * data.num_classes
                row["distil"] += sets[number] * method.iterations * one * (128 + 2 * ipc)
                config = EvalConfig(**asked["evaluation"])
                passes = 3 * ipc * (config.epochs + 1)
                row["train"] += sets[number] * points * config.networks * one * passes
        rows.append(row)
    return pd.DataFrame(rows)


def search_work(asked: dict[str, Any]) -> float:
    """Of all candidates, on the sets of each method and on all images."""
    data = random_data(*SHAPES[asked["dataset"]], images=1)
    config = EvalConfig()
    shapes = {(c.depth, c.width, c.pooling) for c in search_space()}
    forward = sum(
        operations(config.but(depth=depth, width=width, pooling=pooling), data)
        for depth, width, pooling in shapes
    )
    on_sets = len(asked["methods"]) * asked["ipc"] * data.num_classes * (asked["epochs"] + 1)
    on_all = IMAGES[asked["dataset"]] * (asked["full_data_epochs"] + 1)
    alike = len(search_space()) / len(shapes)  # norm and activation cost no products
    return alike * 3.0 * forward * (on_sets + on_all)


def rates(device: torch.device = CUDA) -> dict[str, float]:
    """Operations per second of a compiled ATOM step at IPC 10, of compiled training, and of the
    search's eager training, on CIFAR-10's shape."""
    data = random_data(10, 32)
    method = ATOM(ipc=10, zca=False, compile="on").resolve(data)
    learner = method.learner(data, device)
    learner.iterate()
    found = {"distil": method.operations(data) / seconds(learner.iterate, device, 20)}
    for name, compile_it in (("train", "on"), ("search", "off")):
        config = EvalConfig(compile=compile_it, epochs=9).resolve(32)
        network = network_for(config, data).to(device)
        trainer = Trainer(network, config, Execution(config, device, 0))
        images = torch.randn(256, 3, 32, 32, device=device)
        labels = torch.arange(256, device=device) % 10

        def train(trainer=trainer, images=images, labels=labels) -> None:
            trainer.train(images, labels, [stream(0, "rate", device=device)])

        train()
        taken = seconds(train, device, 3)
        found[name] = 3 * 256 * operations(config, data) * (config.epochs + 1) / taken
    return found


def hours(profile: dict[str, dict[str, Any]], speed: dict[str, float]) -> pd.DataFrame:
    """Hours of each notebook at such rates; the last row is their sum."""
    table = work(profile)
    for kind in ("distil", "train", "search"):
        table[kind] = table[kind] / speed[kind] / 3600
    table["hours"] = table[["distil", "train", "search"]].sum(axis=1)
    total = {"notebook": "all", **table.drop(columns="notebook").sum()}
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def cost_of_paper() -> str:
    """What the profile would take on this GPU, in hours: counted work at measured rates."""
    speed = rates()
    table = hours(read_profile("paper"), speed)
    text = table.to_markdown(index=False, floatfmt=".2f")
    rate = ", ".join(f"{kind} {value / 1e12:.1f} TFLOP/s" for kind, value in speed.items())
    return f"{text}\n\nCounted work at rates measured here: {rate}."


def profiled_step() -> str:
    """Kernels of one compiled ATOM iteration, and where its time goes."""
    parts = []
    data = random_data(10, 32)
    for ipc in (1, 50):
        learner = ATOM(ipc=ipc, zca=False, compile="on").resolve(data).learner(data, CUDA)
        for _ in range(5):
            learner.iterate()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            learner.iterate()
            torch.cuda.synchronize()
        kernels = [event for event in seen.events() if event.device_type.name == "CUDA"]
        took = seconds(learner.iterate, CUDA, 20)
        averages = seen.key_averages().table(sort_by="cuda_time_total", row_limit=25)
        run = f"IPC {ipc}: {len(kernels)} kernels, {1e3 * took:.2f} ms ({learner.execution})"
        parts += [run, averages]
    return "\n\n".join(parts)


def command(*arguments: str) -> str:
    """What a command prints; RuntimeError where it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{done.stdout}\n{done.stderr}")
    return done.stdout


def smoke() -> str:
    """The profile cifar10-gpu, and its main table beside that of cifar10-cpu."""
    command("-m", "atomlib", "run", "--profile", EXPECTED[0])
    return compared(*(pd.read_csv(f"reports/{p}/main_table.csv") for p in EXPECTED))


EXPECTED = ("cifar10-gpu", "cifar10-cpu")


def compared(here: pd.DataFrame, there: pd.DataFrame) -> str:
    """Means of the same methods and IPCs, and by how many deviations of networks they differ."""
    keys = ["method", "ipc"]
    here, there = (t.assign(ipc=t.ipc.astype(str))[[*keys, "mean", "std"]] for t in (here, there))
    both = here.merge(there, on=keys, suffixes=("", "_expected"))
    spread = (both["std"].fillna(0) ** 2 + both["std_expected"].fillna(0) ** 2) ** 0.5
    both["deviations"] = (both["mean"] - both["mean_expected"]).abs() / spread.clip(lower=0.5)
    far = both[both.deviations > 4]
    said = "as expected" if far.empty else f"NOT as expected: {', '.join(far.method)}"
    return f"{both.to_markdown(index=False, floatfmt='.2f')}\n\nAccuracies are {said}."


def trial() -> str:
    """What decides, on this GPU, whether runs are compiled and replayed as CUDA graphs."""
    tried = compiling.tried_on(CUDA)._asdict()
    tried["graphs are on"] = compiling.replays(CUDA)
    return "\n".join(f"{name}: {value}" for name, value in tried.items())


PARTS = {
    "trial of compiling and graphs": trial,
    "cost of the profile paper": cost_of_paper,
    "tests": lambda: command("-m", "pytest", "-m", "gpu", "-rA"),
    "profiled step": profiled_step,
    "bench": lambda: command("-m", "tests.bench"),
    "cifar10-gpu": smoke,
}


def main() -> None:
    """Run every part, print it, and pack what came out into one file."""
    if not torch.cuda.is_available():
        raise SystemExit("error: there is no GPU here; allowed: make test, which needs none")
    FOLDER.mkdir(parents=True, exist_ok=True)
    failed = []
    lines = [f"# {hardware()}", ", ".join(f"{k} {v}" for k, v in versions().items())]
    for name, part in PARTS.items():
        start = time.monotonic()
        try:
            text = part()
        except Exception as error:
            failed.append(name)
            text = f"FAILED: {error}"
        lines += [f"## {name}", text, f"{time.monotonic() - start:.0f} s"]
        print("\n\n".join(lines[-3:]), flush=True)
        (FOLDER / "report.md").write_text("\n\n".join(lines))
    for kept in (Path("reports/bench"), Path("reports/cifar10-gpu")):
        if kept.exists():
            shutil.copytree(kept, FOLDER / kept.name, dirs_exist_ok=True)
    packed = shutil.make_archive("build/gpu-report", "gztar", FOLDER)
    print(f"\nto send back: {packed}")
    if failed:
        raise SystemExit(f"error: {', '.join(failed)} failed, see {FOLDER}/report.md")


if __name__ == "__main__":
    main()
