"""actors.gate: together or alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from actors.gate import Gate


def inside(pool: ThreadPoolExecutor, enter: Callable[[], object], leave: threading.Event) -> threading.Event:
    """A thread that goes through the gate and stays until told to leave; set when it is inside."""
    there = threading.Event()

    def go() -> None:
        with enter():  # type: ignore[attr-defined]
            there.set()
            leave.wait(10)

    pool.submit(go)
    return there


def test_several_are_together() -> None:
    gate, leave = Gate(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first, second = (inside(pool, gate.together, leave) for _ in range(2))
        assert first.wait(10)
        assert second.wait(10)
        leave.set()


def test_who_is_alone_waits_for_others_and_keeps_them_out() -> None:
    gate, leave, end = Gate(), threading.Event(), threading.Event()
    with ThreadPoolExecutor(3) as pool:
        assert inside(pool, gate.together, leave).wait(10)
        alone = inside(pool, gate.alone, end)
        time.sleep(0.05)
        later = inside(pool, gate.together, leave)
        assert not alone.wait(0.1)
        assert not later.is_set()  # who asked to be alone goes first
        leave.set()
        assert alone.wait(10)
        assert not later.wait(0.1)
        end.set()
        assert later.wait(10)


def test_several_are_alone_one_after_another() -> None:
    gate, there = Gate(), 0

    def alone() -> int:
        nonlocal there
        with gate.alone():
            there += 1
            time.sleep(0.01)
            found, there = there, there - 1
            return found

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: alone(), range(8))) == [1] * 8
