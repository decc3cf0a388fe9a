"""jobs.interrupt: a signal ends the run, even if somebody drops the exception."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from jobs import interrupt


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Handlers in place, and as they were afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupt.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_keyboard_interrupt(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_a_dropped_interrupt_is_raised_again_when_asked() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt.check()


def test_without_a_signal_nothing_is_raised() -> None:
    assert interrupt.check() is None  # type: ignore[func-returns-value]
