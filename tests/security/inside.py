"""A run with doubles that looks around in its own Ray session: `python -m tests.security.inside JOB.toml SEEN.json`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from rich.console import Console

from jobs.session import session
from tests.double import caption_with_doubles

ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_job_info()"


def look() -> dict[str, Any]:
    """Who listens where, what Ray knows of its jobs, and whom it answers (exit codes)."""
    me = psutil.Process()
    processes = [me, *me.children(recursive=True)]
    here = ray.get_runtime_context().gcs_address
    return {
        "host": socket.gethostname(),
        "listening": [
            (process.name(), connection.laddr.ip)
            for process in processes
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ],
        "jobs": str(ray._private.state.jobs()),
        "with_token": _asked(
            here, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}
        ),
        "without_token": _asked(here, {"RAY_AUTH_MODE": "disabled"}),
        "with_another_token": _asked(here, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}),
    }


def _asked(address: str, told: Mapping[str, str]) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", ASK, address]
    return subprocess.run(command, env={**kept, **told}, check=False, capture_output=True).returncode


if __name__ == "__main__":
    console = Console(stderr=True)
    with session(console):
        caption_with_doubles(Path(sys.argv[1]).read_text(), console)
        Path(sys.argv[2]).write_text(json.dumps(look()))
