"""How arithmetic runs: device, number type of convolutions, compilation. Never what it means."""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import torch

from atomlib.config import NetworkConfig
from atomlib.datasets import ImageData
from atomlib.errors import SettingError
from atomlib.models import build_model

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


def operations(config: NetworkConfig, data: ImageData) -> int:
    """Floating point operations of one image's forward, counted without computing it."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import: it looks for a GPU

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network_for(config, data)(torch.empty(1, data.channels, data.image_size, data.image_size))
    return counter.get_total_flops()


def network_for(
    config: NetworkConfig, data: ImageData, generator: torch.Generator | None = None
) -> torch.nn.Module:
    """The network that a config asks for, in the shape that ``data`` needs."""
    return build_model(
        config.model,
        in_channels=data.channels,
        image_size=data.image_size,
        num_classes=data.num_classes,
        generator=generator,
        **config.network_settings(),
    )


def check_room(
    config: NetworkConfig, data: ImageData, device: torch.device, images: int, networks: int = 0
) -> None:
    """Raise SettingError for a network that cannot learn from so many images a step on ``device``.

    ``networks`` are trained side by side; 0 is a network whose weights stay as they are.
    What is counted is less than any way to run the step takes: the weights, with gradient and
    momentum where they are trained, and a quarter of what the layers give out.
    """
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in network_for(config, data).parameters())
    number = 4 if config.precision == "float32" else 2
    needed = 4 * weights * max(1, 3 * networks)
    needed += number * given_out(config, data) * images * max(1, networks) // 4
    room = memory(device)
    if needed > room:
        settings = ", ".join(f"{key} {value}" for key, value in config.network_settings().items())
        raise SettingError(
            f"model is {config.model!r}{settings and f' ({settings})'}, which takes more than "
            f"{needed / 1e9:,.0f} GB for a step of {images} images by {max(1, networks)} network; "
            f"allowed: what the {room / 1e9:,.0f} GB of {device} hold, with a smaller width, depth "
            "or batch, or fewer networks together"
        )


def given_out(config: NetworkConfig, data: ImageData) -> int:
    """How many numbers all layers of a network give out for one image."""
    total = 0

    def count(_: torch.nn.Module, __: tuple, output: torch.Tensor | tuple) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, torch.Tensor) else 0

    with torch.device("meta"):
        network = network_for(config, data).eval()
        for module in network.modules():
            if not any(module.children()):
                module.register_forward_hook(count)
        network(torch.empty(1, data.channels, data.image_size, data.image_size))
    return total


def memory(device: torch.device) -> int:
    """Bytes that a device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Execution:
    """The chosen way to run a step of so many operations, so many times.

    ``compiled(f)`` is f, compiled where that pays; ``autocast()`` is the context in which
    convolutions and matrix products take ``dtype``.
    """

    def __init__(self, config: NetworkConfig, device: torch.device, total_operations: float):
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
