"""A Ray cluster as users have them, on this machine: a head with a job server, workers, a token.

Each host is a `ray start` of its own, with cores, GPUs (names that Ray counts), labels and an environment of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import ROOT, below, kill

BIN = Path(sys.executable).parent
TRIES = 3
UP = b"will now block forever"  # of `ray start`, when its raylet is known to the head
STORE = 150_000_000  # bytes of a host's object store
RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_DASHBOARD_DISABLE_FRONTEND": "1",
}


@dataclass(frozen=True, slots=True)
class Host:
    """A machine to be. `before` are words before its command, as of faketime."""

    cpus: int = 2
    gpus: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    store: int = STORE


class Hosts:
    """The cluster. A context manager; nothing is left of it afterwards."""

    def __init__(
        self, head: Host, *workers: Host, environment: Mapping[str, str] | None = None, path: Path = BIN
    ) -> None:
        self._given = (head, *workers)
        self._folder = tempfile.mkdtemp(prefix="cm", dir="/tmp")  # Ray's sockets allow about 100 letters
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.port, self._dashboard = _free(), _free()
        self.token = secrets.token_hex(16)
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            **RAY,
            **(environment or {}),
            "RAY_AUTH_TOKEN": self.token,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{path}:{BIN}:{os.environ['PATH']}",  # entrypoints are commands of a shell
        }

    @property
    def url(self) -> str:
        """Of the job server."""
        return f"http://127.0.0.1:{self._dashboard}"

    @property
    def folder(self) -> Path:
        """Where Ray keeps its sessions."""
        return Path(self._folder)

    def client(self) -> dict[str, str]:
        """The environment of somebody who has the token; nothing else leads to the cluster."""
        return dict(self._environment)

    def driver(self) -> dict[str, str]:
        """The environment of a driver on the head."""
        return self._environment | {"RAY_ADDRESS": f"127.0.0.1:{self.port}"}

    def __enter__(self) -> Hosts:
        try:
            for host in self._given:  # one by one: all at once, on two cores, some do not come up
                self._start(host)
            _wait(f"{self.url}/api/version", self.token, self.nodes[0])
        except OSError:  # also TimeoutError: what has come up must go
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            _end(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, host: Host) -> None:
        """Start one more and wait until it is there; again where Ray gave up, which it does after 30 s."""
        for _ in range(TRIES):
            number = self._add(host)
            if self._is_up(number):
                return
            _end(self.nodes.pop())
        raise TimeoutError(self._log(number).read_text()[-2000:])

    def _add(self, host: Host) -> int:
        """Start one more, the first time the head, without waiting; returns its number."""
        number = len(self.nodes)
        place = [f"--address=127.0.0.1:{self.port}"]
        if not self.nodes:
            place = ["--head", f"--port={self.port}"]
            place += [f"--dashboard-port={self._dashboard}", "--dashboard-host=127.0.0.1"]
        # Folders of their own, as machines have: of one that two share, each unpacks a job's files over the other's.
        place += [f"--temp-dir={self.folder / str(number)}"]
        labels = ",".join(f"{k}={v}" for k, v in host.labels.items())
        size = [f"--num-cpus={host.cpus}", f"--num-gpus={host.gpus}", f"--object-store-memory={host.store}"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        ports += ["--include-log-monitor=false"]  # a process a host, 2 s of a core
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place, *size, *ports]
        with self._log(number).open("wb") as log:
            node = subprocess.Popen(
                [*host.before, *command, *([f"--labels={labels}"] if labels else [])],
                cwd=ROOT,
                env=self._environment | dict(host.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.nodes.append(node)
        return number

    def _log(self, number: int) -> Path:
        return self.folder / f"{number}.log"

    def _is_up(self, number: int) -> bool:
        end = time.monotonic() + 180
        while UP not in self._log(number).read_bytes():
            if time.monotonic() > end or self.nodes[number].poll() is not None:
                return False
            time.sleep(0.1)
        return True


def _end(node: subprocess.Popen[bytes]) -> None:
    for pid in below([node.pid]):
        kill(pid)
    node.kill()
    node.wait()


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _wait(url: str, token: str, node: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    end = time.monotonic() + 120
    while time.monotonic() < end and node.poll() is None:
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError("the job server does not answer")
