"""Provenance: hardware and library versions, in words."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("atomlib", "torch", "torchvision", "kornia", "numpy")


def hardware() -> str:
    """The GPU, or the processor and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return f"{name}, {len(affinity(0)) if affinity else os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
