"""`captionmill` with doubles for replicas, which notes when things happen, for `tests.cluster.submitted`.

A line of the file that CAPTIONMILL_TEST_MARKS names is a word and a time (UTC s).
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from jobs import run
from jobs.cli import main
from jobs.preflight import Ready
from tests.double import Double, with_doubles

MARKS = "CAPTIONMILL_TEST_MARKS"
REAL = run.actors


def mark(path: str, word: str, at: float = 0.0) -> None:
    """Note that something happens now, or happened then."""
    with Path(path).open("a") as file:
        file.write(f"{word} {at or time.time():.3f}\n")


def loaded(path: str) -> Double:
    """A double, where the captioner lives."""
    mark(path, "loaded")
    return Double()


def doubles(ready: Ready) -> run.Actors:
    """The actors of a run. Ray is connected when they are made."""
    path = os.environ[MARKS]
    mark(path, "connected")
    made_of = with_doubles(REAL(ready), ready)
    kwargs = {**made_of.captioner.kwargs, "replica": partial(loaded, path)}
    return replace(made_of, captioner=replace(made_of.captioner, kwargs=kwargs))


def _started() -> float:
    """When this process began, UTC s."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def start() -> None:
    """The command line."""
    mark(os.environ[MARKS], "began", _started())
    run.actors = doubles
    main(prog_name="captionmill")


if __name__ == "__main__":
    from tests.cluster.double_command import start as begin  # not __main__'s: workers get functions by name

    begin()
