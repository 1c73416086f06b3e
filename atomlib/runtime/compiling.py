"""torch.compile: whether it works here, from how long a run on it pays, and whether a GPU's CUDA
graphs give the same numbers and are faster."""

import hashlib
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from atomlib.errors import SettingError
from atomlib.runtime.files import DamagedError, lock, read_record, write_record
from atomlib.runtime.paths import cache_folder

PAYS_ON_A_CPU = 2e12
"""Operations of a run: compiling costs up to a minute where the cache is cold, and saves half to
three quarters of the arithmetic's time. Measured on one processor, and the same number on all of
them, so that they choose alike; on a GPU, runs of so many are in bfloat16, compiled or not."""

FORMS = 1 << 20
"""Compiled forms that a process may hold of one function: all that it needs. torch stops at eight
and runs the ninth uncompiled, so that a result would depend on those made before it."""


IN_THE_MAKING_S = 600
"""No compiler writes one file for so long: one that is empty after it stays so."""


class Compiled:
    """A compiled function; where compiling it fails, the function itself, with a line on stderr."""

    def __init__(self, function: Callable, mode: str, on_failure: Callable[[], None]):
        import torch._inductor  # slow: only where something is compiled

        # The backward too, at the first call: else it would be at the first backward, which is not
        # called from here. torch 2.6 may not have the name.
        if hasattr(torch._functorch.config, "force_non_lazy_backward_lowering"):
            torch._functorch.config.force_non_lazy_backward_lowering = True
        limits = torch._dynamo.config
        # By the names that torch 2.6 and 2.11 both have.
        for name in ("cache_size_limit", "accumulated_cache_size_limit"):
            setattr(limits, name, max(getattr(limits, name), FORMS))
        self.plain, self.on_failure = function, on_failure
        # Said, for torch's cache of compiled code does not tell apart what was compiled for another
        # number of threads: it would be as slow, and add up in another order.
        options = torch._inductor.list_mode_options(mode) | {"cpp.threads": torch.get_num_threads()}
        self.fast = torch.compile(function, dynamic=False, options=options)

    def __call__(self, *args):
        if self.fast is None:
            return self.plain(*args)
        try:
            return self.fast(*args)
        except Exception as error:
            # Raised while compiling, under names that differ between releases of torch; anything
            # else is not ours to hide.
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            print(f"a step cannot be compiled ({_reason(error)}); it runs eager", file=sys.stderr)
            self.fast = None
            self.on_failure()
            return self.plain(*args)


@cache
def works(kind: str) -> bool:
    """Whether torch.compile works on a "cpu" or "cuda" device, tried once with a small function.

    Where it does not (no C++ compiler, no Python.h, an old GPU), one line on stderr says why.
    """
    forget_what_was_cut_short()
    try:
        torch.compile(_small, dynamic=False)(torch.ones(16, device=kind))
    except Exception as error:
        print(
            f"torch.compile does not work here ({_reason(error)}); steps run eager", file=sys.stderr
        )
        return False
    return True


def forget_what_was_cut_short() -> None:
    """Take empty files out of torch's cache of compiled code, but for locks and new ones.

    A machine that loses power leaves them, and torch takes one for the code that it is named after.
    """
    with suppress(OSError):  # read only, or another process was first
        kept = torch._inductor.runtime.runtime_utils.cache_dir()
        for path in Path(kept).rglob("*"):
            facts = path.lstat()
            old = facts.st_mtime < time.time() - IN_THE_MAKING_S
            if S_ISREG(facts.st_mode) and not facts.st_size and old and path.suffix != ".lock":
                path.unlink()


def _small(x: Tensor) -> Tensor:
    return x + 1


def _reason(error: Exception) -> str:
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join((first, *more[:1])) if first.endswith(":") else first


def pays(operations: float, device: torch.device) -> bool:
    """Whether a run of so many floating point operations ends sooner compiled.

    On a GPU that is measured, which takes up to a minute, and kept in the cache folder for this
    GPU and this torch. A run that would not pay on a CPU does not pay on a GPU, which is faster.
    """
    if operations < PAYS_ON_A_CPU or device.type == "cpu":
        return operations >= PAYS_ON_A_CPU
    return operations >= pays_from(device)


class Trial(NamedTuple):
    """A step tried three ways: eager, compiled, and compiled and replayed as a CUDA graph."""

    operations: float
    eager_s: float
    compiled_s: float
    compiling_s: float
    replayed_s: float
    same: bool
    """Whether steps replayed give the losses and gradients, to the bit, of those that are not."""


NOTHING_GAINED = Trial(1.0, 1.0, math.inf, math.inf, math.inf, False)
_failed: dict[str, Trial] = {}
"""In this process, by GPU: not tried again."""

STEPS_COMPILED = 2
"""Graphs of the trial's size that a run compiles: of real and of synthetic images, or of training
and of testing."""


def pays_from(device: torch.device) -> float:
    """Operations from which a run pays for being compiled on this GPU; infinite where none does."""
    tried = tried_on(device)
    saved = tried.eager_s - tried.compiled_s
    steps = STEPS_COMPILED * tried.compiling_s / saved if saved > 0 else math.inf
    return steps * tried.operations


def replays(device: torch.device) -> bool:
    """Whether compiled steps are better replayed as CUDA graphs on this GPU: where that gives the
    same numbers, and sooner."""
    tried = tried_on(device)
    return tried.same and tried.replayed_s < tried.compiled_s


def tried_on(device: torch.device) -> Trial:
    """The trial on this GPU with this torch, made once and kept in the cache folder; one that fails
    says that nothing is gained."""
    name = torch.cuda.get_device_name(device)
    if name in _failed:
        return _failed[name]
    key = hashlib.sha256(f"{name} {torch.__version__}".encode()).hexdigest()[:16]
    path = cache_folder() / "compiling" / f"{key}.json"
    with suppress(OSError):  # a folder that cannot be written has no lock
        path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):  # else processes that start together measure each other
        with suppress(DamagedError, OSError, KeyError):  # not yet, or damaged, or by older code
            kept = read_record(path)
            return Trial(*(kept[field] for field in Trial._fields))
        print(f"measuring what compiling and CUDA graphs gain on {name}", file=sys.stderr)
        try:
            tried = trial(device)
        except Exception as error:  # whatever a compiler raises, or no room left on the GPU
            print(f"neither could be tried ({_reason(error)}); steps run eager", file=sys.stderr)
            return _failed.setdefault(name, NOTHING_GAINED)
        try:
            write_record(path, {"gpu": name, "torch": torch.__version__, **tried._asdict()})
        except (OSError, SettingError) as error:
            print(f"it is not kept, and measured again by the next run: {error}", file=sys.stderr)
        return tried


WIDTH, DEPTH, SIDE = 128, 3, 32
STEPS_COMPARED = 6
"""Enough that a graph is warmed up, recorded, and replayed."""


def trial(device: torch.device, images: int = 256) -> Trial:
    """The paper's ConvNet forward on some images and backward to them, as steps run it here:
    eager, compiled, and replayed, in bfloat16 where the device has it."""
    weights, x = [], torch.randn(images, 3, SIDE, SIDE, device=device)
    for block in range(DEPTH):
        shape = (WIDTH, WIDTH if block else 3, 3, 3)
        weights.append(torch.randn(shape, device=device) / math.sqrt(9 * shape[1]))
    narrow = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    def forward(x: Tensor) -> Tensor:
        for weight in weights:
            x = F.avg_pool2d(F.relu(F.group_norm(F.conv2d(x, weight, padding=1), WIDTH)), 2)
        return x.square().mean()

    def narrow_forward(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            return forward(x)

    def seconds(function: Callable, repeats: int) -> float:
        taken = []
        for _ in range(repeats):
            torch.compiler.cudagraph_mark_step_begin()
            synchronize(device)
            start = time.perf_counter()
            function(x.clone().requires_grad_()).backward()
            synchronize(device)
            taken.append(time.perf_counter() - start)
        return sorted(taken)[repeats // 2]

    def numbers(function: Callable) -> list[Tensor]:
        """Losses and gradients of some steps: new images each, weights changed in place."""
        found, kept = [], [weight.clone() for weight in weights]
        for step in range(STEPS_COMPARED):
            torch.compiler.cudagraph_mark_step_begin()
            image = x.roll(step, dims=0).requires_grad_()
            loss = function(image)
            loss.backward()
            found += [loss.detach().clone(), image.grad.clone()]
            for weight in weights:
                weight.mul_(0.9)
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)
        return found

    seconds(forward, 3)
    eager_s = seconds(forward, 7)
    compiled = torch.compile(narrow_forward, dynamic=False, mode="default")
    first_s = seconds(compiled, 1)
    seconds(compiled, 2)
    compiled_s = seconds(compiled, 7)
    replayed = torch.compile(narrow_forward, dynamic=False, mode="reduce-overhead")
    same = all(map(torch.equal, numbers(compiled), numbers(replayed)))
    replayed_s = seconds(replayed, 7)
    # Two operations a product, and a backward to the images is a forward more.
    pixels = [(SIDE >> block) ** 2 for block in range(DEPTH)]
    products = sum(w.numel() * p for w, p in zip(weights, pixels, strict=True))
    work = 2 * 2 * products * images
    return Trial(work, eager_s, compiled_s, first_s - compiled_s, replayed_s, same)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
