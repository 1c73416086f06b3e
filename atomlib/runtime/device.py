"""Device, precision and compilation: how arithmetic runs, never what it computes."""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Protocol

import torch

from atomlib.errors import SettingError

# Compiling costs up to a minute where the cache is cold and saves half to three quarters of
# the arithmetic's time. A run of fewer operations than this is over sooner without.
COMPILE_FROM = 2e12


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None is the GPU where there is one, else the CPU.

    Raises SettingError for a device that is not here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    here = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if str(device) not in (*here, "cuda" if len(here) > 1 else "cpu"):
        raise SettingError(f"device is {str(device)!r}; allowed here: {', '.join(here)}")
    return torch.device(device)


def memory(device: torch.device) -> int:
    """Bytes that a device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Arithmetic(Protocol):
    """The settings that say how a network's arithmetic runs (models.NetworkConfig has them)."""

    model: str
    precision: str
    compile: str
    graphs: bool


class Execution:
    """The chosen way to run steps of ``total_operations`` operations in all.

    ``compiled(f)`` is f, compiled where that pays; ``autocast()`` is the context in which
    convolutions and matrix products take ``dtype``.
    """

    def __init__(self, config: Arithmetic, device: torch.device, total_operations: float):
        self.device = device
        if device.type == "cpu":
            keep_freed_memory()
        # The other networks take minutes to compile, and have less to fuse.
        worth = total_operations >= COMPILE_FROM and config.model == "convnet"
        self.compile = config.compile == "on" or (config.compile == "auto" and worth)
        # bfloat16 without fusion spends in conversions what it saves in products.
        fast = config.precision == "auto" and self.compile and has_bfloat16(device)
        narrow = fast or config.precision == "bfloat16"
        self.dtype = torch.bfloat16 if narrow else torch.float32
        self.graphs = config.graphs and self.compile and device.type == "cuda"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def compiled(self, function: Callable) -> Callable:
        mode = "reduce-overhead" if self.graphs else "default"
        return _Compiled(function, mode) if self.compile else function

    def begin_step(self) -> None:
        """Say that nothing computed in the step before is read from now on, as CUDA graphs need."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def __str__(self) -> str:
        how = "compiled" if self.compile else "eager"
        return f"{how} {str(self.dtype).removeprefix('torch.')} on {self.device.type}"


class _Compiled:
    """A compiled function that goes on uncompiled, saying so, where no compiler works."""

    def __init__(self, function: Callable, mode: str):
        self.plain = function
        self.fast = torch.compile(function, dynamic=False, mode=mode)

    def __call__(self, *args):
        if self.fast is None:
            return self.plain(*args)
        try:
            return self.fast(*args)
        except Exception as error:
            # Raised while compiling (a missing C++ compiler or Python.h, an old GPU), under
            # names that differ between releases of torch; anything else is not ours to hide.
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            first, *more = str(error).strip().splitlines()
            reason = " ".join((first, *more[:1])) if first.endswith(":") else first
            print(
                f"torch.compile is not to be had here ({reason}); going on without", file=sys.stderr
            )
            self.fast = None
            return self.plain(*args)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware, so that they pay."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


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
