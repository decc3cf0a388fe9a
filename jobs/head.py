"""Whether the head of a cluster still answers.

Ray ends a driver that has lost its head, on the spot, from native code and without a word. A person who started a run
must read what happened and how to go on, so this asks the head now and then, and ends the process before Ray does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

from rich.console import Console

from jobs.exit_codes import FAILED
from pipeline.errors import ClusterError
from pipeline.store_errors import redact

# Ray's own limit, and its default (https://docs.ray.io: GCS fault tolerance); half of it is said to be too long.
LIMIT, LIMIT_S = "RAY_gcs_rpc_server_reconnect_timeout_s", 60.0
TRIES = 10  # in that half
PATIENCE_S = 10.0  # for the first answer


def require(address: str) -> None:
    """ClusterError if nobody listens at `address` (host:port).

    Ray itself would try for minutes, and then end the process from native code without a word.
    """
    if not _answers(address, PATIENCE_S):
        raise ClusterError(
            f"nobody answers at RAY_ADDRESS {redact(address)}: check that the cluster runs, and that its head's port "
            "(6379 unless it was started with another) is reached from here; unset, Ray starts on this machine"
        )


@contextlib.contextmanager
def watched(address: str, console: Console) -> Iterator[None]:
    """End the process, with exit code 1 and what to do, if nobody listens at `address` (host:port) for too long."""
    silent_s = float(os.environ.get(LIMIT, LIMIT_S)) / 2
    left = threading.Event()
    thread = threading.Thread(target=_watch, args=(address, silent_s, left, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()


def _watch(address: str, silent_s: float, left: threading.Event, console: Console) -> None:
    heard = time.monotonic()
    while not left.wait(silent_s / TRIES):
        if _answers(address, silent_s / TRIES):
            heard = time.monotonic()
        elif time.monotonic() - heard > silent_s:
            console.show_cursor()  # a progress line may have hidden it, and nothing else runs after this
            console.print(f"✗ Ray's head at {address} has not answered for {silent_s:g} s", markup=False)
            console.print("What is committed is kept; start the same command again when it is back.")
            os._exit(FAILED)


def _answers(address: str, patience_s: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), patience_s).close()
    except OSError:
        return False
    return True
