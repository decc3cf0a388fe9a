"""A Ray cluster of several nodes on this machine, in which anything can be killed.

Each node is a `ray start` of its own, as on a machine of its own: a raylet, its object store, its workers. The first is
the head; the others may die. Ray listens on this machine's address behind a token that is made up for the cluster.
"""

from __future__ import annotations

import contextlib
import json
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
OBJECT_STORE = 200_000_000  # bytes a node
LABELS = {"CPU": 3, "GPU": 2}  # of every node, for two drivers with two captioners each on two nodes
RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_OVERRIDE_RESOURCES": json.dumps(LABELS),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_niceness": "0",  # else, at 15, workers stand still beside whatever else this machine does
    "RAY_prestart_worker_first_driver": "0",  # three for each new node, 2 s of a core each
    "RAY_health_check_initial_delay_ms": "1000",  # a dead node is noticed in 3 s instead of 15
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # and a dead head in 5 s instead of 60
}
T = TypeVar("T")
TITLES = {  # what Ray calls a worker process while it lives in, or runs
    "indexer": re.compile(r"ray::MapWorker\(MapBatches\(Indexer\)"),
    "preprocessor": re.compile(r"ray::MapWorker\(MapBatches\(Preprocessor\)"),
    "captioner": re.compile(r"ray::MapWorker\(MapBatches\(Captioner\)"),
    "write": re.compile(r"MapBatches\((Committer|Compactor)\)"),
}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _of_all(what: Callable[[int], T]) -> dict[int, T]:
    """Something of each process that lives now."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended since the folder was read
            found[int(entry.name)] = what(int(entry.name))
    return found


def below(roots: Iterable[int]) -> set[int]:
    """The children of processes, their children, and so on."""
    parents, found = _of_all(_parent), set[int]()
    new = {*roots}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def kill(pid: int) -> bool:
    """SIGKILL; whether there was somebody to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Cluster:
    """A head and `workers` other nodes. A context manager; nothing is left of it afterwards.

    Whatever is started on it, and every driver that `environment` starts, has the variables of `more` as well.
    """

    def __init__(self, more: Mapping[str, str], workers: int = 1) -> None:
        self._folder = tempfile.mkdtemp(prefix="cm", dir="/tmp")  # Ray's sockets allow about 100 letters
        self._size = 1 + workers
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._adrift: list[subprocess.Popen[bytes]] = []  # nodes whose head is dead
        self._port = 0
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            **more,
            **RAY,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
        }

    def __enter__(self) -> Cluster:
        self._start_head()
        return self

    def __exit__(self, *_: object) -> None:
        for node in (*self._nodes, *self._adrift):
            _end(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of the head that lives now."""
        return f"127.0.0.1:{self._port}"

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
        named = {pid for pid, title in _of_all(_title).items() if TITLES[kind].match(title)}
        return sorted(named & below(node.pid for node in self._nodes)) if named else []

    def kill_node(self) -> bool:
        """Kill a node that is not the head, with all that runs on it; False where none has begun to work."""
        titles = _of_all(_title)
        for node in self._nodes[1:]:
            if any(titles.get(pid, "").startswith("ray::") for pid in below([node.pid])):
                _end(node)
                return True
        return False

    def kill_head(self) -> None:
        """Kill the head, with all that runs on it, and start a new one with nodes of its own.

        The other nodes, and drivers, are left to find out.
        """
        self._adrift += self._nodes[1:]
        _end(self._nodes[0])
        self._start_head()

    def _start_head(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._nodes = []
        self._nodes.append(self._start())
        self._wait_for_head()
        self.repair()

    def _start(self) -> subprocess.Popen[bytes]:
        place = (
            ["--head", f"--port={self._port}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
            if not self._nodes
            else [f"--address={self.address}", "--dashboard-agent-listen-port=0"]
        )
        bounds = [f"--object-store-memory={OBJECT_STORE}"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"]
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
    for pid in below([node.pid]):
        kill(pid)
    node.kill()
    node.wait()
