"""A worker pool on a Ray cluster: the same work on many items, on many machines.

The cluster is there already (``ray start``). Ray runs an item again where its worker or its node
died, three times at the most; where the work itself raised, it does not.
"""

import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from atomlib.errors import SettingError
from atomlib.runs.processes import named
from atomlib.runtime.clone import absolute_folders

RETRIES = 3

TRAVEL = ("ATOM_", "OMP_NUM_THREADS", "TQDM_DISABLE")
"""Names, or their beginnings, of environment variables that workers have as the driver has."""

PROBE_S = 60
"""How long a node may take to start a worker and look at a file."""


def in_cluster(
    items: Sequence[Any],
    make: Callable[..., Callable],
    arguments: tuple,
    *,
    address: str = "auto",
    cpus: float | None = 1,
    gpus: float | None = None,
    threads: int = 1,
    shared: Path | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Each item and what ``make(*arguments)(item)`` gives, as it ends.

    As atomlib.runs.processes.in_processes: ``make`` is called once per worker process, which has
    one thread unless ``make`` takes more. ``address`` is "auto", the cluster of this machine, or
    HOST:PORT of its first node. ``cpus`` and ``gpus`` are those of one task. GPUs None is one where
    nodes have any; CPUs None is one per thread, of ``threads``, and with a GPU no more than leave
    some for the node's other GPUs. ``shared`` is a folder, by its absolute path, that every node
    must see as the one it is here.

    Raises SettingError, before any work, where there is no Ray or no cluster, where no node is
    large enough, and for a node that does not see the folder; RuntimeError, naming the item, where
    the work on one failed. Leaving the loop cancels what is left.
    """
    ray = _ray()
    environment = _environment()
    options = {"runtime_env": {"env_vars": environment}, "max_retries": RETRIES}
    with _connected(ray, address, options["runtime_env"]), _token(shared) as token:
        gpus, nodes, cpus = _able(ray.nodes(), cpus, gpus, threads)
        environment |= _hiding(gpus, nodes)
        if token:
            _check_shared(ray, nodes, token, options)
        # Put once: each node fetches it once, and arrays in it are one copy for its workers.
        boxed = [ray.put((make, arguments, token))]
        task = ray.remote(max_calls=_max_calls(gpus, nodes))(_apply)
        task = task.options(num_cpus=cpus, num_gpus=gpus, **options)
        key = uuid.uuid4().hex
        pending = {task.remote(key, boxed, item): item for item in items}
        try:
            while pending:
                (ready,), _ = ray.wait(list(pending))
                item = pending.pop(ready)
                with named(item):
                    result = _result(ray, ready)
                yield item, result
        finally:
            for left in pending:
                with suppress(Exception):  # it has just ended, or its node is gone
                    ray.cancel(left, force=True)


def memory_of_a_task(address: str, gpus: float | None) -> int | None:
    """Bytes of the GPU that a task gets on the cluster, as a first task sees it; None without one.

    Raises as in_cluster does.
    """
    ray = _ray()
    environment = _environment()
    with _connected(ray, address, {"env_vars": environment}):
        gpus, _, cpus = _able(ray.nodes(), 1, gpus)
        if not gpus:
            return None
        task = ray.remote(max_calls=1)(_memory).options(num_cpus=cpus, num_gpus=gpus)
        return _result(ray, task.remote())


def _environment() -> dict[str, str]:
    """Variables of a worker, which stands in a folder of its own."""
    return {k: v for k, v in os.environ.items() if k.startswith(TRAVEL)} | absolute_folders()


def _memory() -> int:
    return torch.cuda.get_device_properties(0).total_memory


_made: tuple[str, Callable | None] = ("", None)
"""A worker's own: which call it works for, and what ``make`` gave."""


def _apply(key: str, boxed: list, item: Any) -> Any:
    global _made
    if _made[0] != key:
        import ray

        _made = ("", None)  # what an earlier call needed is let go first
        make, arguments, token = ray.get(boxed[0])
        if token and not _sees(token):  # a node that came later than the check
            raise _unseen(token, socket.gethostname())
        torch.set_num_threads(1)
        _made = key, make(*arguments)
    return _made[1](item)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise SettingError(
            "ENGINE is 'ray', which is not installed; allowed: processes, or ray after: "
            'pip install "atomlib[ray]"'
        ) from None
    return ray


@contextmanager
def _connected(ray: Any, address: str, environment: dict[str, Any]) -> Iterator[None]:
    if ray.is_initialized():  # by the notebook itself
        yield
        return
    try:
        if address == "auto":
            from ray._private.services import canonicalize_bootstrap_address_or_die

            address = canonicalize_bootstrap_address_or_die("auto")
        # Ray itself tries for minutes where nobody answers.
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        # Here as well as with each task: workers that nodes start ahead are then of use.
        ray.init(address=address, runtime_env=environment, **quiet)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SettingError(
            f"RAY_ADDRESS is {address!r}, where no Ray cluster can be joined ({reason}); allowed: "
            "auto, or HOST:PORT of a cluster that this machine is a node of (ray start)"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _able(
    nodes: Sequence[Mapping[str, Any]], cpus: float | None, gpus: float | None, threads: int = 1
) -> tuple[float, list[Mapping[str, Any]], float]:
    """GPUs of a task, the nodes that have room for one, and its CPUs."""
    alive = [node for node in nodes if node["Alive"]]

    def most(kind: str) -> float:
        return max((node["Resources"].get(kind, 0) for node in alive), default=0)

    if gpus is None:
        gpus = 1 if most("GPU") >= 1 else 0
    if cpus is None:
        have = [n["Resources"] for n in alive if gpus and n["Resources"].get("GPU", 0) >= gpus]
        shares = [int(resources["CPU"] * gpus / resources["GPU"]) for resources in have]
        cpus = max(1, min([threads, *shares]))
    asked = {"CPU": cpus, "GPU": gpus}
    able = [n for n in alive if all(n["Resources"].get(k, 0) >= v for k, v in asked.items())]
    if not able:
        raise SettingError(
            f"CPUS_PER_CELL is {cpus:g} and GPUS_PER_CELL {gpus:g}; allowed: what one node of "
            f"this cluster has, of {most('CPU'):g} CPUs and {most('GPU'):g} GPUs at the most"
        )
    return gpus, able, cpus


def _max_calls(gpus: float, nodes: Sequence[Mapping[str, Any]]) -> int:
    """Tasks that a worker process does before it ends; 0 is any number.

    A process keeps the GPU that it began with, whatever Ray lends it next: where a node has
    others, each task has a process of its own.
    """
    return int(bool(gpus) and any(n["Resources"].get("GPU", 0) > max(1, gpus) for n in nodes))


def _hiding(gpus: float, nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What hides GPUs from a task that has asked for none; Ray itself would show it all."""
    some = any(node["Resources"].get("GPU") for node in nodes)
    return {"CUDA_VISIBLE_DEVICES": ""} if some and not gpus else {}


@contextmanager
def _token(shared: Path | None) -> Iterator[tuple[Path, str] | None]:
    """A file in the folder, and what it holds, while the work is done."""
    if shared is None:
        yield None
        return
    text = uuid.uuid4().hex
    path = shared / f".cluster-{text}"
    path.write_text(text)
    try:
        yield path, text
    finally:
        path.unlink(missing_ok=True)


def _sees(token: tuple[Path, str]) -> bool:
    path, text = token
    with suppress(OSError):
        return path.read_text() == text
    return False


def _unseen(token: tuple[Path, str], node: str) -> SettingError:
    return SettingError(
        f"folder {token[0].parent} is not the same on node {node} of the Ray cluster; allowed: a "
        "folder that all nodes share"
    )


def _check_shared(
    ray: Any, nodes: Sequence[Mapping[str, Any]], token: tuple[Path, str], options: dict[str, Any]
) -> None:
    """Have every node look, which also shows that each can start a worker with this package."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    probe, asked = ray.remote(_sees), {}
    for node in nodes:
        there = On(node["NodeID"], soft=False)
        answer = probe.options(num_cpus=0, scheduling_strategy=there, **options).remote(token)
        asked[answer] = node
    ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_S)
    for answer, node in asked.items():
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            seen = ray.get(answer, timeout=0)
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in {n["NodeID"] for n in ray.nodes() if n["Alive"]}:
                continue  # it died before the cluster knew, or while it was asked
            reason = (str(error).strip() or f"no answer in {PROBE_S} s").splitlines()[-1]
            raise SettingError(
                f"node {name} of the Ray cluster cannot work ({reason}); allowed: nodes that have "
                "this Python and this package"
            ) from None
        if not seen:
            raise _unseen(token, name)


def _result(ray: Any, ready: Any) -> Any:
    problems = ray.exceptions
    try:
        return ray.get(ready)
    except problems.RayTaskError as error:
        raise error.cause from error
    except (
        problems.WorkerCrashedError,
        problems.NodeDiedError,
        problems.OutOfMemoryError,
    ):
        raise RuntimeError(
            f"its worker died {RETRIES + 1} times, the likely cause is too little memory on a node"
        ) from None
