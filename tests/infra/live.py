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
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.conftest import Store, run
from tests.faults.proxy import Proxy, Schedule
from tests.faults.storage import JOB, SHARDS, fill

ROOT = Path(__file__).parents[2]
SCRAPE = ROOT / "infra" / "prometheus" / "scrape.yaml"
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
def ended(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is ended, with all that it started, when the block ends."""
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


@contextmanager
def cluster(environment: Mapping[str, str], folder: Path) -> Iterator[Mapping[str, str]]:
    """A head with its dashboard, which writes where Prometheus finds the nodes; yields a driver's environment."""
    port, dashboard = free_port(), free_port()
    own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | dict(environment) | RAY
    own |= {"RAY_AUTH_TOKEN": secrets.token_hex(16), "PYTHONPATH": str(ROOT)}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    ray += [f"--dashboard-port={dashboard}", f"--temp-dir={folder}", "--num-cpus=4", "--dashboard-host=127.0.0.1"]
    ray += ["--object-store-memory=300000000", "--node-ip-address=127.0.0.1"]
    with ended(ray, own):
        wait_for(port)
        wait_for(dashboard)
        yield own | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
