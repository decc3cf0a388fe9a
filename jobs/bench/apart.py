"""A part of the benchmark in a process of its own, with the environment that a replica's process has in a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from jobs.bench.figure import Found
from jobs.bench.subject import Options
from pipeline.errors import CaptionmillError, RunError
from pipeline.flow import replica_environment

Measure = Callable[[Options], Found]


def apart(measure: Measure, options: Options) -> Found:
    """What `measure` finds there; peers that it runs or starts have the same environment.

    CaptionmillError as it raises, RunError where its process ends without an answer.
    """
    context = get_context("spawn")
    answer, there = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(measure, options, there))
    with _environment(replica_environment(options.subject.gpus)):  # read when a process starts
        child.start()
    there.close()
    try:
        found: Found | CaptionmillError = answer.recv()
    except EOFError as error:
        child.join()
        raise RunError(f"the process that measured ended with {child.exitcode}") from error
    finally:
        child.kill()
    if isinstance(found, CaptionmillError):
        raise found
    return found


def _answer(measure: Measure, options: Options, to: Connection) -> None:
    try:
        to.send(measure(options))
    except CaptionmillError as error:
        to.send(error)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
