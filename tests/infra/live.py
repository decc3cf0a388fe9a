"""A live run for tests of metrics: a real cluster behind a token, a store on a bad day, and Prometheus that scrapes.

The run is `captionmill run` itself, with the demo checkpoint, over small pictures of which some are none.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.conftest import Store
from tests.faults.cluster import below, kill
from tests.faults.proxy import Proxy, Schedule
from tests.faults.storage import JOB, fill

ROOT = Path(__file__).parents[2]
SCRAPE = ROOT / "infra" / "prometheus" / "prometheus.yaml"
RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_metrics_report_interval_ms": "1000",  # instead of 10 s
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
START = 120.0  # seconds until a server must answer


def free_port() -> int:
    """Of 127.0.0.1, at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens at port {port}")


@contextmanager
def ended(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """A program that is killed, with all that it started, when the block ends."""
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        for pid in (*below([process.pid]), process.pid):
            kill(pid)
        process.wait()


@contextmanager
def cluster(environment: Mapping[str, str], folder: Path) -> Iterator[Mapping[str, str]]:
    """A head with its dashboard, which writes where Prometheus finds the nodes; yields a driver's environment."""
    port, dashboard = free_port(), free_port()
    own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | dict(environment) | RAY
    own |= {"RAY_AUTH_TOKEN": secrets.token_hex(16), "PYTHONPATH": str(ROOT)}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    ray += [
        f"--dashboard-port={dashboard}",
        f"--temp-dir={folder}",
        "--num-cpus=4",
        "--dashboard-host=127.0.0.1",
    ]
    ray += ["--object-store-memory=300000000", "--node-ip-address=127.0.0.1"]
    with ended(ray, own):
        wait_for(port)
        wait_for(dashboard)
        yield own | {"RAY_ADDRESS": f"127.0.0.1:{port}"}


@dataclass(frozen=True, slots=True)
class Watched:
    """A run that is over, and the Prometheus that watched it from `begun_s` to `ended_s`; `lines` are its output."""

    prometheus: str
    begun_s: float
    ended_s: float
    lines: Sequence[Mapping[str, Any]]

    def ask(self, what: str, **given: Any) -> Any:
        """Prometheus' answer; ValueError where it does not understand."""
        try:
            with urllib.request.urlopen(f"{self.prometheus}/api/v1/{what}?{urlencode(given)}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{given}: {error.read().decode()}") from error

    def values(self, expression: str) -> list[float]:
        """The values that the expression had, of all series, each second of the run."""
        over = {"start": self.begun_s, "end": self.ended_s, "step": 1}
        found = self.ask("query_range", query=expression, **over)["result"]
        return [float(value) for series in found for _, value in series["values"]]


@contextmanager
def watched(store: Store, prometheus: Sequence[str]) -> Iterator[Watched]:
    """Run a job on a store that refuses one request of twenty, and watch it."""
    folder = Path(tempfile.mkdtemp(prefix="cm", dir="/tmp"))  # Ray's sockets allow about 100 letters
    with Proxy().serving() as proxy, contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        proxy.forward_to(store.environment["AWS_ENDPOINT_URL"])
        behind = {**store.environment, "AWS_ENDPOINT_URL": proxy.url}
        root = stack.enter_context(Store(behind, store.root).entered())
        fill(root)
        values = {"root": root, "last": 2, "checkpoint": "demo", "output": f"{root}/out"}
        (folder / "job.toml").write_text(JOB.format(**values))
        proxy.schedule(Schedule(["503"], 0.05, 1))
        driver = stack.enter_context(cluster(behind, folder / "ray"))
        url = stack.enter_context(_scraping(folder, prometheus))
        begun = time.time()
        told = subprocess.run(
            [sys.executable, "-m", "jobs.cli", "run", str(folder / "job.toml"), "--json", "--quiet"],
            env=driver, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        lines = [json.loads(line) for line in told.stdout.splitlines()]
        yield Watched(url, begun, time.time(), lines)


@contextmanager
def _scraping(folder: Path, prometheus: Sequence[str]) -> Iterator[str]:
    """Prometheus with the shipped configuration, but every second, and with this cluster's folder for /tmp/ray."""
    told = SCRAPE.read_text().replace("15s", "1s").replace("/tmp/ray/", f"{folder}/ray/")
    told += "        refresh_interval: 1s\n"
    (folder / "prometheus.yaml").write_text(told)
    shutil.copy(SCRAPE.with_name("alerts.yaml"), folder)
    port = free_port()
    own = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb"]
    with ended([*prometheus, *own, f"--web.listen-address=127.0.0.1:{port}"], os.environ):
        wait_for(port)
        _wait_for_scrape(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"


def _wait_for_scrape(prometheus: str) -> None:
    """Until it has heard of the cluster, which on two busy cores may take longer than a run."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{prometheus}/api/v1/targets?state=active") as answer:
            if any(target["health"] == "up" for target in json.load(answer)["data"]["activeTargets"]):
                return
        time.sleep(0.1)
    raise TimeoutError("Prometheus scrapes nobody")
