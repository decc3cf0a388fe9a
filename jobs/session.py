"""A Ray session around one run: connect, run, let go."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console

from jobs.preflight import Ready
from jobs.run import Actors, actors, over_budget, run, summary
from pipeline.errors import CaptionmillError, RunError


def caption_all(
    ready: Ready, console: Console, begun: float, made_of: Callable[[Ready], Actors] = actors
) -> dict[str, Any]:
    """Run the job on the cluster that RAY_ADDRESS names, else on this machine, and print the summary.

    `begun` is when the command began, by the monotonic clock. Returns the snapshot.
    """
    output = ready.job.output.uri
    with connected(console), own_errors():
        snapshot = run(ready, made_of(ready), console)
    for line in summary(snapshot, output, time.monotonic() - begun):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if spent := over_budget(snapshot, ready.job):
        raise RunError(f"{spent}; the captions that were made are published")
    return snapshot


@contextmanager
def connected(console: Console) -> Iterator[None]:
    """A Ray connection that does not talk: what a person needs to know is on our console."""
    if ray.is_initialized():  # tests and notebooks bring their own
        yield
        return
    where = os.environ.get("RAY_ADDRESS")
    console.print(f"Connecting to Ray at {where}" if where else "Starting Ray on this machine", highlight=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(
        address=where or "local",
        include_dashboard=None if where else False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise our own error where a worker raised one, and say what Ray says otherwise."""
    try:
        yield
    except RayError as error:
        cause = _ours(error)
        if cause is not None:
            raise cause from error
        raise RunError(
            f"Ray ended the run: {_last_line(error)}\nWhat is committed is kept; start the same command to go on"
        ) from error


def _ours(error: BaseException | None) -> CaptionmillError | None:
    """The captionmill error at the root of a chain of causes."""
    while error is not None:
        if isinstance(error, CaptionmillError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _last_line(error: RayError) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
