"""A gate that many threads are behind together, or one alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Gate:
    """Whoever waits to be alone goes first: no others come in until it has been."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside, self._asking, self._alone = 0, 0, False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Behind the gate with others who are so."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._asking)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Behind the gate with nobody else."""
        with self._changed:
            self._asking += 1
            self._changed.wait_for(lambda: not self._inside and not self._alone)
            self._asking -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
