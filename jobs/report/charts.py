"""Numbers as bars: from counts to what a template draws as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BARS = 40
TAIL = (
    0.005  # of all values: beyond them a last bar stands for the rest, so that one outlier squeezes nothing
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: the words that name it, its value, and its height as a share of the highest."""

    name: str
    value: float
    said: str
    share: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A titled row of bars with words for its ends; `note` says what is counted."""

    title: str
    note: str
    bars: tuple[Bar, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        """What stands under the first, the middle and the last bar."""
        if len(self.bars) < 3:
            return tuple(bar.name for bar in self.bars)
        return tuple(self.bars[i].name for i in (0, len(self.bars) // 2, -1))


def chart(title: str, note: str, named: Sequence[tuple[str, float]], said: str = "{:,.0f}") -> Chart:
    """Bars with the given names and values; `said` formats a value."""
    highest = max((value for _, value in named), default=0) or 1
    bars = tuple(Bar(name, value, said.format(value), value / highest) for name, value in named)
    return Chart(title, note, bars)


def histogram(title: str, note: str, counts: Mapping[int, int], unit: float = 1.0) -> Chart:
    """Whole numbers, each standing for `unit`, in at most `BARS` bars of equal and round width."""
    if not counts:
        return chart(title, note, [])
    low, high = min(counts), _most(counts)
    width = _width(high - low + 1)
    low = math.floor(low / width) * width
    sums = [0] * ((high - low) // width + 1)
    beyond = 0
    for value, n in counts.items():
        if value > high:
            beyond += n
        else:
            sums[(value - low) // width] += n
    named = [(_range(low + i * width, width, unit), float(n)) for i, n in enumerate(sums)]
    if beyond:
        named.append((f"over {_number(high, unit)}", float(beyond)))
    return chart(title, note, named)


def _most(counts: Mapping[int, int]) -> int:
    """The value above which the tail begins; the largest, if that is no more than twice as far."""
    left, total, highest = TAIL * sum(counts.values()), 0, max(counts)
    for value in sorted(counts, reverse=True):
        total += counts[value]
        if total > left:
            return highest if highest - min(counts) <= 2 * (value - min(counts)) else value
    return highest


def _width(values: int) -> int:
    """The least of 1, 2, 5, 10, 20, … with which `values` values take at most `BARS` bars."""
    widths: list[int] = [m * 10**k for k in range(12) for m in (1, 2, 5)]
    return next(width for width in widths if -(-values // width) < BARS)


def _range(low: int, width: int, unit: float) -> str:
    last = low + width if unit != 1.0 else low + width - 1
    return _number(low, unit) if last == low else f"{_number(low, unit)} to {_number(last, unit)}"


def _number(value: int, unit: float) -> str:
    return f"{value:,}" if unit == 1.0 else f"{value * unit:.1f}"
