"""The cost of a distillation iteration: seconds, peak memory, operations, and a lower bound.

The bound counts the convolutions and matrix products only: operations counted by
torch.utils.flop_counter, at the rate that one large matrix product reaches on this machine.
"""

import ctypes
import gc
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError, shown
from atomlib.methods import Method
from atomlib.runs.processes import alone
from atomlib.runtime.compiling import synchronize
from atomlib.runtime.device import pick_device
from atomlib.runtime.device import tf32 as number_type
from atomlib.runtime.progress import Bar
from atomlib.runtime.torch_state import under_torch_defaults


@under_torch_defaults
def costs(
    data: ImageData,
    methods: Sequence[Method],
    *,
    device: str | torch.device | None = None,
    repeats: int = 5,
    progress: bool = True,
) -> pd.DataFrame:
    """One row per method, as ``step_cost`` gives it, each measured in a process of its own.

    So that its peak memory is its own, and its first step what a first step costs. Raises
    SettingError for a method that takes no steps, or does not count their operations, and for
    fewer than one of ``repeats``.
    """
    if type(repeats) is not int or repeats < 1:
        raise SettingError(f"repeats is {shown(repeats)}; allowed: 1 or more")
    device = pick_device(device)
    methods = [method.resolve(data) for method in methods]
    for method in methods:
        if not method.length:
            raise SettingError(
                f"methods has {method.name!r}, which takes no steps; allowed: methods that learn"
            )
        if not hasattr(method, "operations"):
            raise SettingError(
                f"methods has {method.name!r}, which does not count its operations; allowed: "
                "methods with operations(data), those of an iteration"
            )
    rows = []
    for method in Bar(methods, desc=f"cost {data.name}", unit="cell", shown=progress):
        rows.append(alone(step_cost, data, method, device, repeats))
    return pd.DataFrame(rows)


@under_torch_defaults
def step_cost(
    data: ImageData, method: Method, device: torch.device, repeats: int = 5
) -> dict[str, Any]:
    """Cost of one iteration of a resolved method: its loss, gradient and image update.

    ``step_s`` is the median of ``repeats``, ``step_low_s`` and ``step_high_s`` the fastest and the
    slowest, ``first_step_s`` the first of all, compilation included;
    ``peak_mb`` the most memory (MB, 10^6 bytes) that the GPU's tensors took or, on a CPU, the whole
    process with Python, libraries and data, whitening and compilation included; ``step_peak_mb``
    the same while nothing but iterations ran (on macOS, ``peak_mb`` again); ``gflop`` the
    operations of its forwards and backwards, as ``method.operations`` counts them; ``bound_s`` the
    time that these take at ``matrix_gflops``, the machine's measured rate in the step's number
    type.
    """
    learner = method.learner(data, device, progress=False)
    first = seconds(learner.iterate, device, 1)
    learner.iterate()
    before = peak_memory(device)
    forget_peak(device)
    steps = timings(learner.iterate, device, repeats)
    median = steps[len(steps) // 2]
    # A CUDA graph that is replayed takes its memory when it is recorded, before.
    peak = before if learner.execution.graphs else peak_memory(device)
    work = method.operations(data)
    rate = matrix_rate(learner.execution.dtype, device, tf32=learner.execution.tf32)
    return {
        "dataset": data.name,
        "method": method.name,
        "recipe": method.recipe,
        "ipc": method.ipc,
        "real_batch": getattr(method, "real_batch", 0),  # a stranger's may see no real images
        "step_s": median,
        "step_low_s": steps[0],
        "step_high_s": steps[-1],
        "first_step_s": first,
        "peak_mb": max(before, peak) / 1e6,
        "step_peak_mb": peak / 1e6,
        "gflop": work / 1e9,
        "matrix_gflops": rate / 1e9,
        "bound_s": work / rate,
        "times_bound": median / (work / rate),
        "how": str(learner.execution),
    }


def seconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median of ``repeats`` timings."""
    return timings(action, device, repeats)[repeats // 2]


def timings(action: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """``repeats`` timings in seconds, ascending, the device's queue emptied around each."""
    found = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        action()
        synchronize(device)
        found.append(time.perf_counter() - start)
    return sorted(found)


def matrix_rate(dtype: torch.dtype, device: torch.device, *, tf32: bool = False) -> float:
    """Operations per second of a large matrix product, the best of twenty; on a GPU in TF32, or
    not, as the convolutions that it is held against."""
    n = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    with number_type(convolutions=tf32, products=tf32):
        a @ b
        return 2 * n**3 / timings(lambda: a @ b, device, 20)[0]


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or this process in memory, since forget_peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose getrusage counts the process that started this one too
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def forget_peak(device: torch.device) -> None:
    """Have peak_memory start anew from what is held now, where the system can: not on macOS."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    gc.collect()
    with suppress(OSError, AttributeError):
        # What is free counts as held until it is given back; see device.keep_freed_memory.
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
