"""A Ray cluster of several nodes on this machine, in which anything can be killed.

Each node is a `ray start` of its own, as on a machine of its own: a raylet, its object store, its workers. The first is
the head; the others may die. Ray listens on this machine's address behind a token that is made up for the cluster.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
OBJECT_STORE = 200_000_000  # bytes a node
CPUS = 2  # a label, on every node
TITLES = {  # what Ray calls a worker process while it lives in, or runs
    "indexer": re.compile(r"ray::MapWorker\(MapBatches\(Indexer\)"),
    "preprocessor": re.compile(r"ray::MapWorker\(MapBatches\(Preprocessor\)"),
    "captioner": re.compile(r"ray::MapWorker\(MapBatches\(Captioner\)"),
    "write": re.compile(r"ray::MapBatches\((Committer|Compactor)\)"),
}


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine, as /proc has it."""

    pid: int
    parent: int
    title: str


def processes() -> list[Process]:
    """All that live now."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended since the folder was read
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(Process(int(entry.name), parent, title))
    return found


def below(pid: int, among: list[Process]) -> list[Process]:
    """The children of a process, their children, and so on."""
    children = [p for p in among if p.parent == pid]
    return [*children, *(q for p in children for q in below(p.pid, among))]


def kill(pid: int) -> bool:
    """SIGKILL; whether there was somebody to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Cluster:
    """A head and `workers` other nodes. A context manager; nothing is left of it afterwards."""

    def __init__(self, workers: int = 1) -> None:
        self._folder = tempfile.mkdtemp(prefix="cm", dir="/tmp")  # Ray's sockets allow about 100 letters
        self._size = 1 + workers
        self._nodes: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_worker_niceness": "0",  # else, at 15, workers stand still beside whatever else this machine does
        }

    def __enter__(self) -> Cluster:
        self._nodes = [self._start()]
        self._wait_for_head()
        self.repair()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._nodes:
            _end(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def driver_environment(self) -> Mapping[str, str]:
        """With this, a driver connects here."""
        return self.environment | {"RAY_ADDRESS": self.address}

    def repair(self) -> None:
        """Start nodes in place of those that died, without waiting for them."""
        for node in [n for n in self._nodes[1:] if n.poll() is not None]:
            self._nodes.remove(node)
            _end(node)
        while len(self._nodes) < self._size:
            self._nodes.append(self._start())

    def victims(self, kind: str) -> list[int]:
        """The workers, on any node, that are what `TITLES` says."""
        alive = processes()
        workers = [p for node in self._nodes for p in below(node.pid, alive)]
        return [p.pid for p in workers if TITLES[kind].match(p.title)]

    def kill_node(self) -> bool:
        """Kill a node that is not the head, with all that runs on it; False where none has begun to work."""
        alive = processes()
        for node in self._nodes[1:]:
            if any(p.title.startswith("ray::") for p in below(node.pid, alive)):
                _end(node)
                return True
        return False

    def _start(self) -> subprocess.Popen[bytes]:
        place = (
            ["--head", f"--port={self._port}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
            if not self._nodes
            else [f"--address={self.address}", "--dashboard-agent-listen-port=0"]
        )
        bounds = [f"--num-cpus={CPUS}", f"--object-store-memory={OBJECT_STORE}"]
        ports = ["--min-worker-port=0", "--max-worker-port=0"]
        return subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place, *bounds, *ports],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_for_head(self) -> None:
        for _ in _every(0.1, 120.0):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1.0):
                return
            if self._nodes[0].poll() is not None:
                raise ChildProcessError("the head node ended before it answered")
        raise TimeoutError("the head node does not answer")


def _every(seconds: float, at_most: float) -> Iterator[None]:
    end = time.monotonic() + at_most
    while time.monotonic() < end:
        yield
        time.sleep(seconds)


def _end(node: subprocess.Popen[bytes]) -> None:
    """Kill a node's processes, all at once: a raylet that is told first would end its workers itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(node.pid, signal.SIGSTOP)  # else it reports the death of its children
    for process in below(node.pid, processes()):
        kill(process.pid)
    node.kill()
    node.wait()
