"""transformers beside us: a process of its own, which waits while the others run.

In one process both would be slower: OpenMP keeps threads for each thread that has had it compute, and wakes all of them
later where they are more than the cores.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import Thread

from jobs.bench.measured import Ids
from jobs.bench.subject import Subject
from jobs.bench.transformers_peer import Transformers
from pipeline.errors import RunError
from pipeline.types import Request


class Beside:
    """The process, which loads its model before it answers first."""

    def __init__(self, process: SpawnProcess, to: Connection) -> None:
        self._process, self._to = process, to

    def captions(self, requests: Sequence[Request], lengths: Sequence[int], size: int) -> Ids:
        """As `Transformers.captions`. RunError where the process ends, which has said why."""
        try:
            self._to.send((requests, lengths, size))
            said: Ids = self._to.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise RunError(f"transformers' process ended with {self._process.exitcode}") from error
        return said


def transformers_or_none(subject: Subject) -> AbstractContextManager[Beside | None]:
    """The process, with the subject's checkpoint; None where crops are capped."""
    return nullcontext() if subject.image.max_crops else _transformers(subject)


@contextmanager
def _transformers(subject: Subject) -> Iterator[Beside]:
    context = get_context("spawn")
    ours, there = context.Pipe()
    process = context.Process(target=_serve, args=(subject, there))
    process.start()
    there.close()
    try:
        yield Beside(process, ours)
    finally:
        process.kill()
        process.join()


def _serve(subject: Subject, to: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks says when to stop
    Thread(target=_end_with_parent, daemon=True).start()
    model = Transformers(subject)
    while True:
        to.send(model.captions(*to.recv()))


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
    os._exit(1)
