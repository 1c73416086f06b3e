"""Device, precision and compilation: how arithmetic runs, never what it computes."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

from atomlib.errors import SettingError
from atomlib.runtime import compiling


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None is the GPU where there is one, else the CPU.

    Raises SettingError for a device that is not here.
    """
    if device is None:
        device = "cuda" if gpu_is_usable() else "cpu"
    here = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if str(device) not in (*here, "cuda" if len(here) > 1 else "cpu"):
        raise SettingError(f"device is {str(device)!r}; allowed here: {', '.join(here)}")
    return torch.device(device)


def gpu_is_usable() -> bool:
    """Whether torch computes on a GPU here. One that is there, and that it cannot use, is told of
    on stderr, or a run would take a day on the CPU and nobody knew why."""
    if torch.cuda.is_available():
        own = torch.cuda.get_device_capability()
        made_for = [int(name[3:]) for name in torch.cuda.get_arch_list() if name[:3] == "sm_"]
        if not made_for or 10 * own[0] + own[1] >= min(made_for):
            return True
        _tell(f"has no code for its compute capability, {own[0]}.{own[1]}")
    elif any(driver.exists() for driver in DRIVERS):
        _tell(f"cannot use it (most often for a driver older than CUDA {torch.version.cuda} asks)")
    return False


@cache
def _tell(reason: str) -> None:
    """Once in a process."""
    print(f"a GPU is here; torch {torch.__version__} {reason}: the CPU is used", file=sys.stderr)


DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/usr/lib/wsl/lib/libcuda.so.1"))
"""There where Linux, or Windows around it (WSL), has NVIDIA's driver."""


def free_memory(device: torch.device) -> None:
    """Give back what nothing uses any more: compiled steps and their owners refer to each other,
    so that without this their tensors wait for Python to look for such rings."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def memory(device: torch.device) -> int:
    """Bytes that a device has in all; of a CPU, that its container or its job may take."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits()])


def _limits(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Bytes that Linux lets this process's groups have, of either version of control groups."""
    found = []
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, kinds, group = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = root / kinds if kinds else root
        name = "memory.limit_in_bytes" if kinds else "memory.max"
        # A container sees its own group as the top, and may be told of it by the host's name.
        inner = top / group.lstrip("/")
        for folder in (inner, *inner.parents):
            with suppress(OSError, ValueError):  # ValueError: "max"
                found.append(int((folder / name).read_text()))
            if folder == top:
                break
    return found


class Arithmetic(Protocol):
    """The settings that say how a network's arithmetic runs (models.NetworkConfig has them)."""

    model: str
    precision: str
    compile: str
    graphs: str


class Execution:
    """The chosen way to run steps of ``total_operations`` operations in all.

    ``compiled(f)`` is f, compiled where that pays; ``autocast()`` is the context in which
    convolutions and matrix products take ``dtype``; ``step()`` is the context of a whole step.
    ``str()`` says what really runs: "compiled bfloat16 on cpu", "eager tf32 on cuda".
    """

    def __init__(self, config: Arithmetic, device: torch.device, total_operations: float):
        self.device = device
        if device.type == "cpu":
            keep_freed_memory()
            if sys.platform == "darwin":
                # Its build sends every convolution there: slower, and it rounds more.
                torch.backends.nnpack.set_flags(False)
        # The other networks take minutes to compile, and have less to fuse.
        long = config.model == "convnet" and total_operations >= compiling.PAYS_ON_A_CPU
        asked = config.compile == "on"
        meant = asked or (config.compile == "auto" and long)
        pays = asked or (meant and compiling.pays(total_operations, device))
        self.compile = pays and compiling.works(device.type)
        # On a CPU bfloat16 without fusion spends in conversions what it saves in products. On a
        # GPU it does not hang on what the trial of compiling measured, which would differ from
        # run to run, and the numbers with it.
        suits = self.compile if device.type == "cpu" else meant
        fast = config.precision == "auto" and suits and has_bfloat16(device)
        narrow = fast or config.precision == "bfloat16"
        self.dtype = torch.bfloat16 if narrow else torch.float32
        # Of float32's 23 bits TF32 multiplies 10. torch's own default is to have convolutions
        # do so; here it is what "auto" does, and "float32" is float32.
        self.tf32 = config.precision == "auto" and not narrow and has_tf32(device)
        self.graphs = (
            self.compile
            and device.type == "cuda"
            and (config.graphs == "on" or (config.graphs == "auto" and compiling.replays(device)))
        )

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def compiled(self, function: Callable) -> Callable:
        mode = "reduce-overhead" if self.graphs else "default"
        if not self.compile:
            return function
        return compiling.Compiled(function, mode, on_failure=self._goes_on_eager)

    def _goes_on_eager(self) -> None:
        self.compile = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """All that one step does: from here on, nothing computed in the step before is read (as
        CUDA graphs need), and convolutions take TF32 or do not. Matrix products never do: DSA's
        sampling grid is one."""
        if self.device.type == "cpu":
            yield
            return
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with tf32(convolutions=self.tf32, products=False):
            yield

    def __str__(self) -> str:
        how = "compiled" if self.compile else "eager"
        number = "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")
        replayed = ", replayed as CUDA graphs" if self.compile and self.graphs else ""
        return f"{how} {number} on {self.device.type}{replayed}"


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware, so that they pay."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def has_tf32(device: torch.device) -> bool:
    """Whether the device multiplies float32 in TF32 where it may."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@contextmanager
def tf32(*, convolutions: bool, products: bool) -> Iterator[None]:
    """Where a GPU may take TF32 for float32; afterwards as it was before."""
    convolution, product = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolution.allow_tf32, product.allow_tf32
    convolution.allow_tf32, product.allow_tf32 = convolutions, products
    try:
        yield
    finally:
        convolution.allow_tf32, product.allow_tf32 = before


@cache
def keep_freed_memory() -> None:
    """Have this process keep the memory that tensors give back, rather than return it at once.

    glibc hands every block above 32 MB back to the system and asks for it anew, and the system
    clears it page by page. ``ATOM_KEEP_MEMORY=0`` leaves it so, and so
    does a system without glibc.
    """
    if os.environ.get("ATOM_KEEP_MEMORY", "1") == "0" or not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of malloc.h."""
