"""A real Ray cluster on this machine: nodes of one processor each, started and killed."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.test_environment import ROOT


class Nodes:
    """The nodes of one cluster; the first is its head."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.started = []

    def start(self, count):
        """The head, and as many more as make ``count``."""
        port = self.address.rpartition(":")[2]
        self._started(self._start("--head", f"--port={port}", "--include-dashboard=false"))
        for _ in range(count - 1):
            self.add()

    def add(self):
        """One more node, once the cluster has it. Gives its process."""
        return self._started(self._start(f"--address={self.address}"))

    def _started(self, node):
        self._until(lambda: b"Ray runtime started" in self._log(node).read_bytes())
        return node

    def _start(self, *options):
        command = [Path(sys.executable).parent / "ray", "start", "--block", "--num-cpus=1"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats"]
        if "--head" in options:
            command.append(f"--temp-dir={self.folder}")
        log = self.folder / f"node-{len(self.started)}.log"
        path = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        with open(log, "wb") as out:
            node = subprocess.Popen(
                [*command, *options],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path), MORE_ON_MACOS: "1"},
                start_new_session=True,
            )
        self.started.append(node)
        return node

    def _log(self, node):
        return self.folder / f"node-{self.started.index(node)}.log"

    def _until(self, done, seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(OSError):
                if done():
                    return
            time.sleep(0.1)
        raise TimeoutError([self._log(node).read_text()[-2000:] for node in self.started])

    def processes(self, node):
        """The ids of a node's processes: its raylet, which is the parent of its workers, too."""
        return {child.pid for child in psutil.Process(node.pid).children(recursive=True)}

    def kill(self, node):
        """As a power cut: all of the node's processes at once."""
        if node.poll() is not None:
            return
        for process in [*psutil.Process(node.pid).children(recursive=True), node]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        node.wait()

    def alive(self):
        return [node for node in self.started if node.poll() is None]


MORE_ON_MACOS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Without it Ray has one node there."""


@contextmanager
def ray_nodes(count):
    """So many nodes; all that are there are killed at the end."""
    # Not in pytest's folder: the path of a socket may have a hundred letters.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    nodes = Nodes(folder)
    try:
        nodes.start(count)
        yield nodes
    finally:
        for node in reversed(nodes.alive()):
            nodes.kill(node)
        shutil.rmtree(folder, ignore_errors=True)
