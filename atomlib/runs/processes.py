"""A worker pool of processes on this machine: the same work on many items.

A worker starts with one thread; what it is to do may take more. Results are yielded as they finish.
Leaving the loop, Ctrl-C, or the end of the parent process stops all workers. Of several GPUs, each
worker has its own.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor


def in_processes(
    items: Sequence[Any], workers: int, make: Callable[..., Callable], arguments: tuple
) -> Iterator[tuple[Any, Any]]:
    """Each item and what ``make(*arguments)(item)`` gives; ``make`` is called once per worker.

    ``make`` must be importable, ``arguments`` and items be picklable, and items have a
    ``name``. Raises RuntimeError, naming the item, where the work on one failed.
    """
    # Spawned, not forked: a fork of a process with threads (torch's, a kernel's) can hang.
    context = multiprocessing.get_context("spawn")
    # Nothing is ever sent: workers see this process end, or give up, as the end of the pipe.
    ours, theirs = context.Pipe()
    with ours, theirs:
        numbers = context.SimpleQueue()
        for each in range(workers):
            numbers.put(each)
        pool = ProcessPoolExecutor(workers, context, _start, (make, arguments, theirs, numbers))
        try:
            futures = {pool.submit(_apply, item): item for item in items}
            for future in as_completed(futures):
                with named(futures[future]):
                    result = future.result()
                yield futures[future], result
        except BaseException as error:
            ours.close()
            if isinstance(error, BrokenProcessPool):
                raise RuntimeError(
                    f"a worker process died: the likely cause is too little memory for {workers} "
                    'of them, or, in a script, a call outside if __name__ == "__main__"'
                ) from None
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def alone(function: Callable, *arguments: Any) -> Any:
    """``function(*arguments)`` of a process that does nothing else.

    Pickled here, and not by multiprocessing, which hands tensors over by /dev/shm: in a container
    that is often 64 MB.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_unpacked, pickle.dumps((function, arguments))).result()


def _unpacked(packed: bytes) -> Any:
    function, arguments = pickle.loads(packed)
    return function(*arguments)


_work: Callable | None = None
"""A worker's own: what it does."""


def _start(
    make: Callable[..., Callable], arguments: tuple, parent: Connection, numbers: SimpleQueue
) -> None:
    """Make this process a worker."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    take_gpu(numbers.get())
    _work = make(*arguments)


def take_gpu(number: int) -> None:
    """Have "cuda" mean a GPU of its own for each worker; where there are fewer, they share them."""
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def _end_with(parent: Connection) -> None:
    """End this process, whatever it does, once the parent closes the pipe or is gone."""
    with suppress(EOFError, OSError):
        parent.recv()
    os._exit(1)


def _apply(item: Any) -> Any:
    return _work(item)


@contextmanager
def named(item: Any) -> Iterator[None]:
    """Have an exception say which item it is of."""
    try:
        yield
    except BrokenProcessPool:
        raise  # of none in particular
    except Exception as error:
        raise RuntimeError(f"{item.name} failed: {type(error).__name__}: {error}") from error


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with as many threads as a worker has: the order of a sum depends on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_tensor(array: np.ndarray) -> Tensor:
    """The same memory as a tensor, read-only: arrays from Ray are shared."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def processors(device: torch.device) -> int:
    """How many workers work at once: one per processor; one per GPU for "cuda", which has no
    number and is all of them; one for a GPU that is named."""
    if device.type != "cpu":
        return 1 if device.index is not None else max(1, torch.cuda.device_count())
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
