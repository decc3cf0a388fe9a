"""Sides that are compared run in turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from rich.console import Console

from jobs.bench.figure import Spread

T = TypeVar("T")
LONG_S = 10.0  # a round that takes longer is told on standard error


@dataclass(frozen=True)
class Rounds(Generic[T]):
    """What each side made in the first round, which is not counted, and the seconds of each round after it."""

    made: Mapping[str, T]
    taken: Mapping[str, tuple[float, ...]]

    def seconds(self, side: str) -> Spread:
        """What a side took."""
        return Spread.of(self.taken[side])

    def rate(self, side: str, amount: float) -> Spread:
        """So much work in each round, a second."""
        return Spread.of(amount / seconds for seconds in self.taken[side])

    def ratio(self, side: str, base: str) -> Spread:
        """How many times the seconds of `base` a side took, round by round."""
        return Spread.of(a / b for a, b in zip(self.taken[side], self.taken[base], strict=True))


def rounds(
    sides: Mapping[str, Callable[[], T]],
    count: int,
    clock: Callable[[], float] = time.perf_counter,
    clocks: Mapping[str, Callable[[], float]] = MappingProxyType({}),
) -> Rounds[T]:
    """Run every side once to warm up, then `count` rounds of all by the seconds of their `clocks`, else of `clock`."""
    made = {name: side() for name, side in sides.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, count + 1):
        for name, side in sides.items():
            now = clocks.get(name, clock)
            begun = now()
            side()
            taken[name].append(now() - begun)
        last = {name: own[-1] for name, own in taken.items()}
        if sum(last.values()) > LONG_S:
            tell(number, count, ", ".join(f"{name} {seconds:.1f} s" for name, seconds in last.items()))
    return Rounds(made, {name: tuple(own) for name, own in taken.items()})


def tell(number: int, count: int, found: str) -> None:
    """What a round of so many found, on standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"  round {number} of {count}: {found}")
