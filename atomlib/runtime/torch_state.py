"""Torch's global state, kept out of results: the caller's defaults apply to the caller only.

A notebook may have set float64 as default type, or call us under ``no_grad``. What is computed here
must not depend on it: the public functions run under torch's own defaults and put the caller's
back.
"""

import getpass
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from threading import Lock
from typing import Any

import torch


@contextmanager
def torch_defaults() -> Iterator[None]:
    """float32, on the CPU, gradients recorded, no autocast, full precision of float32 products."""
    name_account()
    with ExitStack() as stack:
        _of_process.enter()
        stack.callback(_of_process.leave)
        # Each only where the caller has changed it, since some of them slow torch down.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        yield


class _OfProcess:
    """Those of torch's defaults that all threads share: the first to enter changes them, and the
    last to leave puts back what a caller had set, or one thread would end another's."""

    def __init__(self):
        self.lock, self.inside, self.callers = Lock(), 0, {}

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            for get, put, own in SHARED:
                if (value := get()) != own:
                    self.callers[put] = value
                    put(own)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                for put, value in self.callers.items():
                    put(value)
                self.callers.clear()


SHARED = (
    (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
)
"""How each is read and set, and what it is here."""

_of_process = _OfProcess()


@cache
def name_account() -> None:
    """Name an account without a name, as containers have it, by its number, for this process.

    torch names the cache of its compiler after the account, also where nothing is compiled.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def under_torch_defaults(function: Callable) -> Callable:
    """The same function, run under torch's defaults; of a generator, between any two items."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch_defaults():
            return function(*args, **kwargs)

    @wraps(function)
    def iterate(*args: Any, **kwargs: Any) -> Iterator:
        items = function(*args, **kwargs)
        try:
            while True:
                with torch_defaults():
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item
        finally:
            items.close()

    return iterate if inspect.isgeneratorfunction(function) else call
