"""What this process has had of its stores since it started. For people who watch: nothing in a run depends on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that came and went, and requests that were sent again after a failure."""

    read_bytes: int = 0
    written_bytes: int = 0
    retries: int = 0


_lock = Lock()  # readers have threads
_had = Counter[str]()


def add(read_bytes: int = 0, written_bytes: int = 0, retries: int = 0) -> None:
    """Count so much more."""
    with _lock:
        _had.update(read_bytes=read_bytes, written_bytes=written_bytes, retries=retries)


def so_far() -> Traffic:
    """All of it."""
    with _lock:
        return Traffic(**_had)
