"""A stand-in for a GPU: CPU tensors that say they are on "cuda", with every operator watched.

Under ``pretend_gpu()`` a tensor on "cuda" is a CPU tensor whose storage is marked. Values are
real, backward included, so that whole runs go through and can be compared with a CPU's.
(FakeTensors have no values, and torch 2.11 takes none backward on "cuda" without a driver.)
A Watch counts what would fail or be slow on a real GPU:

    mixed       operators given tensors of both devices (a CPU tensor of no dimension is allowed)
    generators  random numbers drawn with a generator of the other device
    waits       what makes the CPU wait for the GPU: item, tolist, copies, a mask as an index
    operators   each operator on the GPU, and how often it ran
    launches    the same without views, and without what runs inside a compiled function

Each by the line of atomlib where it happened. What it cannot see: CUDA's own algorithms and their
order of sums, its memory, its rules for autocast, streams and graphs. Eager code alone, so
``compile="off"``; what would be compiled can be left out of the count (``Watch.hidden``).
"""

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atomlib.runtime.device import Execution

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


class Generator(torch.Generator):
    """Its ``device`` is the one it was asked for: "cuda" stays without a number, as in torch."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.asked = torch.device(device)
        return made

    @property
    def device(self):
        return self.asked


class Marks:
    """A set of storages, by identity, for as long as they live."""

    def __init__(self):
        self.known = {}

    def add(self, tensor):
        storage = tensor.untyped_storage()
        # A weak reference keeps the address from being given to another storage.
        self.known.setdefault(storage._cdata, StorageWeakRef(storage))
        if len(self.known) % 4096 == 0:
            self.known = {key: ref for key, ref in self.known.items() if not ref.expired()}

    def __contains__(self, tensor):
        return tensor.untyped_storage()._cdata in self.known


class Watch:
    """Which tensors are on the GPU, and what was seen."""

    def __init__(self):
        self.on_gpu, self.within_torch = Marks(), Marks()
        self.mixed, self.generators, self.waits = Counter(), Counter(), Counter()
        self.operators, self.launches, self.kinds = Counter(), Counter(), set()
        self.place = None
        """Where tensors that are being made go; None where that is not known."""
        self.silent = self.in_compiled = False

    def wait(self, what):
        self.waits[f"{what} at {line()}"] += 1

    def clear(self):
        for counter in (self.mixed, self.generators, self.waits, self.operators, self.launches):
            counter.clear()

    def hidden(self, function):
        """The function, whose operators count as no launches: as if it were compiled."""

        def run(*args, **kwargs):
            self.in_compiled = True
            try:
                return function(*args, **kwargs)
            finally:
                self.in_compiled = False

        return run


def line():
    """The innermost line of atomlib."""
    frame = sys._getframe()
    while frame is not None:
        if "/atomlib/" in frame.f_code.co_filename:
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "no line of atomlib"


DEVICE = torch.Tensor.device.__get__
TRANSFERS = {torch.Tensor.cpu: CPU, torch.Tensor.cuda: CUDA}
READS = {
    getattr(torch.Tensor, name)
    for name in ("item", "tolist", "__int__", "__float__", "__bool__", "__index__", "__format__")
}
FACTORIES = {
    *(torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.from_numpy, torch.full),
    *(torch.linspace, torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm),
    *(torch.tensor, torch.zeros),
}


class Calls(TorchFunctionMode):
    """What Python asks of torch: devices, copies, reads, random numbers."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, watch = dict(kwargs or {}), self.watch
        if func == DEVICE:
            return CUDA if args[0] in watch.on_gpu else func(*args)
        if func in TRANSFERS:
            return self.moved(args[0], TRANSFERS[func])
        if func is torch.Tensor.to:
            return self.to(*args, **kwargs)
        if func is torch.Tensor.numpy and args[0] in watch.on_gpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func in READS and args[0] in watch.on_gpu:
            watch.wait(func.__name__)
            with self.unseen():
                return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            self.check_generator(func, args, kwargs)
        place = kwargs.get("device")
        if place is not None and torch.device(place).type == "cuda":
            kwargs["device"] = CPU
            if func in (torch.tensor, torch.as_tensor):
                watch.wait(func.__name__)
            with self.making(CUDA):
                made = func(*args, **kwargs)
            for tensor in tree_leaves(made):
                watch.on_gpu.add(tensor)
            return made
        with self.making(CPU if place is not None or func in FACTORIES else None):
            return func(*args, **kwargs)

    def check_generator(self, func, args, kwargs):
        if args and isinstance(args[0], torch.Tensor):
            filled = args[0] in self.watch.on_gpu
        else:
            filled = torch.device(kwargs.get("device") or CPU).type == "cuda"
        if (kwargs["generator"].device.type == "cuda") != filled:
            self.watch.generators[f"{func.__name__} at {line()}"] += 1

    def moved(self, tensor, device):
        watch, wanted = self.watch, device.type == "cuda"
        if (tensor in watch.on_gpu) == wanted:
            return tensor
        watch.wait("copy to the GPU" if wanted else "copy to the CPU")
        with self.unseen():
            made = tensor.clone()
        if wanted:
            watch.on_gpu.add(made)
        return made

    def to(self, tensor, *args, **kwargs):
        asked = [kwargs.pop("device", None), kwargs.pop("dtype", None), *args]
        for value in asked:
            if isinstance(value, str | torch.device):
                device = torch.device(value)
                tensor = tensor.to(device) if device.type == "meta" else self.moved(tensor, device)
            elif isinstance(value, torch.dtype):
                tensor = tensor.to(value)
        return tensor

    @contextmanager
    def unseen(self):
        before, self.watch.silent = self.watch.silent, True
        yield
        self.watch.silent = before

    @contextmanager
    def making(self, place):
        before, self.watch.place = self.watch.place, place
        try:
            yield
        finally:
            self.watch.place = before


WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount")
NO_KERNEL = ("empty", "empty_like", "empty_strided", "detach", "_unsafe_view", "lift_fresh")


class Operators(TorchDispatchMode):
    """What reaches a kernel."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():  # here a tensor's device is its own
            return self.seen(func, args, kwargs or {})

    def seen(self, func, args, kwargs):
        watch, out = self.watch, func(*args, **kwargs)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if watch.silent or any(t.device != CPU for t in given):  # meta
            return out
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.device == CPU]
        there = any(t in watch.on_gpu for t in given) if given else watch.place == CUDA
        if there:
            self.record(func, func._schema.name.removeprefix("aten::"), args, given)
            for tensor in made:
                watch.on_gpu.add(tensor)
        elif not given and watch.place is None:
            for tensor in made:  # within one of torch's own functions: where its arguments are
                watch.within_torch.add(tensor)
        return out

    def record(self, func, name, args, given):
        watch = self.watch
        watch.operators[str(func)] += 1
        watch.kinds.add(func)
        if not watch.in_compiled and not is_view(func) and name not in NO_KERNEL:
            watch.launches[f"{func} at {line()}"] += 1
        if name in WAITING:
            watch.wait(name)
        strays = [t for t in given if t.dim() and t not in watch.on_gpu]
        strays = [t for t in strays if t not in watch.within_torch]
        if name == "index":
            indices = [t for t in args[1] if t is not None]
            if any(t.dtype == torch.bool or t not in watch.on_gpu for t in indices):
                watch.wait("index")
            strays = [t for t in strays if all(t is not index for index in indices)]
        if name == "copy_":
            if strays:
                watch.wait("copy_")
        elif strays:
            watch.mixed[f"{func} at {line()}"] += 1


def is_view(func):
    """Whether an operator hands on its argument's memory and starts no kernel."""
    returns = [value.alias_info for value in func._schema.returns]
    return bool(returns) and all(alias and not alias.is_write for alias in returns)


def has_cuda_kernel(func):
    """Whether torch has code for an operator on a GPU; of a build without CUDA, nobody knows."""
    if not torch.backends.cuda.is_built():
        return True
    explicit = "CompositeExplicitAutograd"
    keys = ("CUDA", explicit, f"{explicit}NonFunctional", "CompositeImplicitAutograd")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) for key in keys)


@contextmanager
def pretend_gpu(gigabytes=80, count=1):
    """A Watch, while torch has ``count`` GPUs of so much memory, of which all use the first."""
    watch, autocast = Watch(), torch.autocast
    card = SimpleNamespace(total_memory=gigabytes * 10**9, name="no GPU at all")

    def as_cpu(device_type, *args, **kwargs):
        return autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: card.name,
        "get_device_properties": lambda device=None: card,
        "is_current_stream_capturing": lambda: False,
        "is_bf16_supported": lambda including_emulation=True: True,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "synchronize": lambda device=None: watch.wait("synchronize"),
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(torch, "autocast", as_cpu))
        stack.enter_context(mock.patch.multiple(torch.cuda, **cuda))
        stack.enter_context(Calls(watch))
        stack.enter_context(Operators(watch))
        yield watch


@contextmanager
def as_if_compiled(watch):
    """What would be compiled counts as no launches, nor does the backward pass through it."""
    init = Execution.__init__

    def compiling(self, *arguments):
        init(self, *arguments)
        self.compile = True

    with (
        mock.patch.object(Execution, "__init__", compiling),
        mock.patch.object(Execution, "compiled", lambda self, function: watch.hidden(function)),
        mock.patch.object(torch.Tensor, "backward", watch.hidden(torch.Tensor.backward)),
    ):
        yield
