"""SIGINT and SIGTERM end a run as KeyboardInterrupt, also where the first one is lost.

Python raises it wherever the main thread happens to be. Inside a callback of a library's native code, or in a
finalizer, it is printed and dropped: in one of eight trials Ray Data went on to the end of the run. So the signal
is remembered, and the loops of a run ask.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_seen = threading.Event()


def listen() -> None:
    """Handle both signals from now on. For the main thread."""
    _seen.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _remember)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has come."""
    if _seen.is_set():
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _seen.set()
    raise KeyboardInterrupt
