"""``make bench``: seconds a step, beside a plain eager per-class step, in one run.

CIFAR-10's shape (10 classes, 32 x 32 x 3, 128 real images a class, ConvNet-3 of width 128,
InstanceNorm) on random pixels: time does not depend on what they show. The plain step is
the tests' oracle, written the way published loops are. The bound is the convolutions alone:
operations counted, at the rate that this machine's bfloat16 (or float32) matrix product
reached in the same run.
"""

import argparse
import re
import time
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from atomlib import provenance
from atomlib.config import DistillConfig
from atomlib.cost import matrix_rate, seconds
from atomlib.datasets import ImageData
from atomlib.distill import Step, initial_images
from atomlib.dsa import Draw, draw
from atomlib.execution import operations, pick_device
from atomlib.files import atomic_write
from atomlib.models import reset_parameters
from tests.plain import plain_step

CLASSES, IMAGES = 10, 512


def random_data(side: int = 32, channels: int = 3) -> ImageData:
    """Random pixels in CIFAR-10's shape, with fewer images a class."""
    generator = torch.Generator().manual_seed(0)
    shape = (CLASSES * IMAGES, channels, side, side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    names = tuple(str(k) for k in range(CLASSES))
    return ImageData("random", images, labels, images[::IMAGES], labels[::IMAGES], names)


def measure(
    config: DistillConfig, data: ImageData, device: torch.device, rates: dict[torch.dtype, float]
) -> dict[str, object]:
    """One row: our step and the plain one, on the same images and settings."""
    config = config.resolve(data)
    step = Step(data, config, device)
    images = initial_images(data, config, device).requires_grad_()

    def plain() -> None:
        # Data already on the device and drawn for it, which flatters the published loops.
        images.grad = None
        reset_parameters(step.network, step.networks)
        drawn = draw(data.num_classes, data.image_size, config.dsa, step.draws)
        real = step.sampler.as_inputs(step.sampler.images[step.sampler.draw()])
        drawn = Draw(*(value.cpu() for value in drawn))  # published loops draw on the host
        plain_step(step.network, real, images, drawn, config.dsa, config.matching()).backward()

    start = time.perf_counter()
    step(images)
    first = time.perf_counter() - start
    step(images)
    rate = rates[step.execution.dtype]
    forwards = data.num_classes * (config.real_batch + 3 * config.ipc)
    bound = operations(config, data) * forwards / rate
    mine = seconds(lambda: step(images), device, 7)
    theirs = seconds(plain, device, 3)
    return {
        "method": config.method,
        "ipc": config.ipc,
        "real_batch": config.real_batch,
        "step_s": mine,
        "plain_step_s": theirs,
        "speedup": theirs / mine,
        "bound_s": bound,
        "times_bound": mine / bound,
        "matrix_gflops": round(rate / 1e9),
        "first_step_s": first,
        "how": str(step.execution),
    }


def main() -> None:
    """Measure, print and write reports/bench/<hardware>/step.csv and .md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--methods", nargs="+", default=["dm", "datadam", "atom"])
    parser.add_argument("--ipcs", nargs="+", type=int, default=[1, 10])
    arguments = parser.parse_args()
    device, data = pick_device(None), random_data()
    grid = [(method, ipc) for method in arguments.methods for ipc in arguments.ipcs]
    rates = {dtype: matrix_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    rows = [
        measure(DistillConfig(method=method, ipc=ipc, zca=False, compile="on"), data, device, rates)
        for method, ipc in tqdm(grid, desc="bench", unit="cell")
    ]
    table = pd.DataFrame(rows).round(4)
    name = re.sub(r"\W+", "-", provenance.hardware()).strip("-").lower()
    folder = Path("reports/bench") / name
    with atomic_write(folder / "step.csv") as partial:
        table.to_csv(partial, index=False)
    text = table.round(2).to_markdown(index=False)
    libraries = ", ".join(f"{k} {v}" for k, v in provenance.versions().items())
    with atomic_write(folder / "step.md") as partial:
        partial.write_text(f"{text}\n\n{provenance.hardware()}; {libraries}.\n{__doc__}")
    print(f"{text}\n\nreport: {folder}/")


if __name__ == "__main__":
    main()
