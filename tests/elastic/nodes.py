"""Nodes that come and go: raylets of a cluster on this machine, each with resources and labels of its own.

A node is a `ray start` of its own, on this machine's address or, with a `host`, in a network of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import RAY, ROOT, below, kill

RAYLIKE = {name: value for name, value in RAY.items() if name != "RAY_OVERRIDE_RESOURCES"}
PROGRAM = (sys.executable, "-m", "ray.scripts.scripts")
SPOT = "ray.io/market-type=spot"
STEADY = "ray.io/market-type=on-demand"


@dataclass(frozen=True, slots=True)
class Host:
    """Where a node's processes run: words before each command, and the address that they listen on."""

    within: tuple[str, ...] = ()
    address: str = "127.0.0.1"


HERE = Host()


@dataclass(slots=True)
class Nodes:
    """A cluster whose nodes have names. A context manager; nothing is left of it afterwards.

    Whatever is started on it has the variables of `more` as well.
    """

    more: Mapping[str, str] = field(default_factory=dict)
    _folder: str = ""
    _head: str = ""
    _environment: dict[str, str] = field(default_factory=dict)
    _living: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Nodes:
        self._folder = tempfile.mkdtemp(prefix="cm", dir="/tmp")  # Ray's sockets allow about 100 letters
        own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        more = {"PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self._environment = {**own, **RAYLIKE, **more, **self.more}
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._living]:
            self.kill(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """With this, a driver connects to the head."""
        return {**self._environment, "RAY_ADDRESS": self._head}

    def start(
        self,
        name: str,
        cpus: int,
        gpus: int = 0,
        labels: str = STEADY,
        *,
        host: Host = HERE,
        store: int = 200,
    ) -> None:
        """Start a node of that name, the first as the head; it has joined when this returns. `store` is in MB."""
        if self._living:
            place = [f"--address={self._head}", "--dashboard-agent-listen-port=0"]
        else:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            self._head = f"{host.address}:{port}"
            place = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        has = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--labels={labels},name={name}"]
        bounds = [f"--object-store-memory={store * 1_000_000}", f"--node-ip-address={host.address}"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"]
        said = Path(self._folder, f"{name}.said")
        with said.open("w") as sink:
            self._living[name] = subprocess.Popen(
                [*host.within, *PROGRAM, "start", "--block", *place, *has, *bounds, *ports],
                cwd=ROOT,
                env=self._environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # Ray prints this when the head lists the node (ray/_private/node.py)
        wait(lambda: "Ray runtime started" in said.read_text(), f"no raylet of {name}", 120.0)

    def kill(self, name: str) -> None:
        """End all processes of a node at once, without notice."""
        node = self._living.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(node.pid, signal.SIGSTOP)  # else it reports the death of its children
        for pid in below([node.pid]):
            kill(pid)
        node.kill()
        node.wait()

    def stop(self, name: str) -> None:
        """SIGTERM to the node, as who takes a machine back sends it."""
        node = self._living.pop(name)
        node.terminate()
        try:
            node.wait(60)
        finally:
            for pid in below([node.pid]):
                kill(pid)
            node.kill()

    def drain(self, node_id: str, seconds: int) -> None:
        """Say that the node will be taken back in so many seconds (`ray drain-node`)."""
        why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=taken back"]
        until = [f"--deadline-remaining-seconds={seconds}", f"--address={self._head}"]
        command = [*PROGRAM, "drain-node", f"--node-id={node_id}", *why, *until]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened in a run: when (UTC s), what, on which node (its name), and to which unit or actor."""

    at: float
    what: str
    node: str
    who: str


@dataclass(slots=True)
class Drive:
    """A driver (`tests.elastic.driver`) under way."""

    process: subprocess.Popen[str]
    diary: Path
    log: Path

    def lines(self, what: str, node: str | None = None) -> list[Line]:
        """What happened, on that node alone if one is named."""
        whole = self.diary.read_text() if self.diary.exists() else ""
        split = (json.loads(line) for line in whole.splitlines(keepends=True) if line.endswith("\n"))
        found = [Line(*one) for one in split]
        return [line for line in found if line.what == what and node in (None, line.node)]

    def wait_for(self, what: str, node: str | None = None, count: int = 1, *, seconds: float = 180.0) -> Line:
        """The `count`th line of that kind, when it is there. AssertionError where the run ends before."""

        def there() -> bool:
            ended = self.process.poll() is not None
            found = len(self.lines(what, node)) >= count
            assert found or not ended, f"the driver ended before {what} on {node}: {self.said()}"
            return found

        wait(there, f"no {what} on {node}", seconds)
        return self.lines(what, node)[count - 1]

    def hears(self, words: str, *, seconds: float = 120.0) -> None:
        """Wait until the driver has said so."""
        wait(lambda: words in self.said(), f"the driver has not said {words!r}", seconds)

    def said(self) -> str:
        """Everything on its standard error so far, without line breaks that a narrow console makes."""
        return self.log.read_text()

    def ends(self, seconds: float = 240.0) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(seconds)


@contextmanager
def driving(
    nodes: Nodes | None,
    job: Path,
    *settings: str,
    host: Host = HERE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Drive]:
    """A driver of the job on these nodes, or without a cluster; `settings` are key=value of `tests.elastic.driver`."""
    stamp = f"{time.time_ns()}"
    diary, log = job.with_name(f"diary-{stamp}"), job.with_name(f"log-{stamp}")
    alone = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    with log.open("w") as sink:
        process = subprocess.Popen(
            [*host.within, sys.executable, "-m", "tests.elastic.driver", str(job), str(diary), *settings],
            cwd=ROOT,
            env={**(nodes.environment if nodes else alone), **(environment or {}), "COLUMNS": "1000"},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield Drive(process, diary, log)
    finally:
        for pid in [*below([process.pid])]:
            kill(pid)
        process.kill()
        process.wait()


def wait(there: Callable[[], bool], complaint: str, seconds: float = 60.0) -> float:
    """Seconds until it was so. TimeoutError, with the complaint, where it never is."""
    begun = time.monotonic()
    while not there():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"{complaint} for {seconds:g} s")
        time.sleep(0.1)
    return time.monotonic() - begun


def names(labels: Sequence[str]) -> str:
    """As an array of TOML."""
    return json.dumps(list(labels))
