"""A Ray session around one run: connect, run, let go."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout

import ray
from ray._private import ray_constants
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from jobs import head
from pipeline.errors import CaptionmillError, ClusterError, RunError
from pipeline.quality import caption_text
from pipeline.store_errors import redact

# Where Ray Data's own words begin, which it adds to the message of whatever a step raises.
ADVICE = "\nFailed to apply UDF transform"
HOST_PORT = re.compile(r"[^/]+:\d+")  # of a cluster's head; Ray takes "auto" and URLs as well


@contextmanager
def session(console: Console, *, quiet: bool = False) -> Iterator[None]:
    """Ray: the cluster that RAY_ADDRESS names, else one on this machine. What fails there is an error of ours."""
    with _connected(console, quiet), _own_errors():
        yield


@contextmanager
def _connected(console: Console, quiet: bool) -> Iterator[None]:
    """A Ray connection that does not talk: what a person needs to know is on our console."""
    if ray.is_initialized():  # tests and notebooks bring their own
        yield
        return
    where = os.environ.get("RAY_ADDRESS")
    said = f"Connecting to Ray at {caption_text(where)}" if where else "Starting Ray on this machine"
    if not quiet:
        console.print(said, markup=False)
    # Ray's native code repeats on our terminal what its log files have. Told to be quiet, it says just that, once.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray Data would start an actor and a thread, which ask for Prometheus every 10 s, to report how it is used.
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    if not where:
        _close_off()
    _init(where)
    try:
        # Of each worker that dies, Ray prints lines of its own to standard output, which is for data.
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), _watched(console):
            yield
    finally:
        ray.shutdown()


def _init(where: str | None) -> None:
    """Connect, or start a cluster here. ClusterError where Ray says that it cannot."""
    if where and HOST_PORT.fullmatch(where):
        head.require(where)
    try:
        with _native_stderr_off(), _signals_kept():
            ray.init(
                address=where or "local",
                include_dashboard=None if where else False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        place = f"to Ray at {redact(where)}" if where else "to the Ray that was started here"
        raise ClusterError(
            f"cannot connect {place}: {_line(error, str(error))}; "
            f"{'check RAY_ADDRESS' if where else 'start the same command again'}"
        ) from error


def _watched(console: Console) -> AbstractContextManager[None]:
    """Of a cluster that somebody else started: a head of our own does not go without us."""
    address = ray.get_runtime_context().gcs_address
    return head.watched(address, console) if os.environ.get("RAY_ADDRESS") else nullcontext()


def _close_off() -> None:
    """Let the cluster that is started here listen on loopback alone, and answer only who has its token.

    Whoever reaches a cluster can run code in it. Left to itself, Ray on Linux listens on every interface, and keeps
    one token for all times in a file that others on the machine may read. Ray stays on loopback where its switch for
    clusters on Windows and macOS is off, which it looks at when it is imported; _node_ip_address does not help.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.pop(
        "RAY_AUTH_MODE", None
    )  # unset, it is token for a new cluster; it may have been meant for another
    os.environ.setdefault(
        "RAY_AUTH_TOKEN", secrets.token_hex(32)
    )  # one a process, which is how long Ray keeps it


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Handlers of signals are afterwards what they were: Ray puts its own in place, which ends without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@contextmanager
def _native_stderr_off() -> Iterator[None]:
    """File descriptor 2 leads nowhere inside. What fails there must be an exception."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise our own error where a worker raised one, and say what Ray says otherwise."""
    try:
        yield
    except RayError as error:
        root = _root(error)
        said = str(root).partition(ADVICE)[0]
        if isinstance(root, CaptionmillError):
            root.args = (said,)
            raise root from error
        raise RunError(
            f"Ray ended the run: {_line(root, said)}\n"
            "What is committed is kept; start the same command to go on"
        ) from error


def _root(error: Exception) -> Exception:
    """What a worker raised, out of Ray's wrappers, which pose as errors of its class."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return error


def _line(error: Exception, said: str) -> str:
    """One line: of what Ray says the last, where the reason stands."""
    lines = [line for line in said.splitlines() if line.strip()]
    if isinstance(error, RayError) and lines:
        return lines[-1][:500]
    return f"{type(error).__name__}: {' '.join(lines)}"[:500]
