"""What a benchmark found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress

from rich.console import Console
from rich.table import Table

PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
COLUMNS = ("what", "here", "against", "times as good", "share of the ceiling", "besides")
Details = Mapping[str, str | int | float]  # further facts, by name


@dataclass(frozen=True, slots=True)
class Spread:
    """What some rounds gave: their median, the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    def scaled(self, times: float) -> Spread:
        """The same in another unit."""
        return Spread(self.median * times, self.low * times, self.high * times)

    def __str__(self) -> str:
        spread = f" ({digits(self.low)} to {digits(self.high)})" if self.low < self.high else ""
        return digits(self.median) + spread


@dataclass(frozen=True, slots=True)
class Versus:
    """The same work by somebody else, in the same rounds. `ratio` is above 1 where it is done better here."""

    peer: str
    ratio: Spread


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that this machine could do: `rate`, and what of it was `reached`, both in `unit` a second."""

    name: str
    rate: float
    reached: float
    unit: str

    @property
    def share(self) -> float:
        """What was reached of the rate."""
        return self.reached / self.rate

    def __str__(self) -> str:
        return f"{self.share:.1%} of {scaled(self.rate)}{self.unit}/s {self.name}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line: `value` is ours, in `unit`."""

    name: str
    value: Spread
    unit: str
    versus: Versus | None = None
    ceiling: Ceiling | None = None
    details: Details = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What a part found. `work` says what was done, how often, with which seed; `notes`, what was left out and why."""

    part: str
    work: str
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()


def scaled(rate: float) -> str:
    """A rate in three digits, with the prefix of its unit at the end."""
    prefix, size = next((p for p in PREFIXES if rate >= p[1]), PREFIXES[-1])
    return f"{rate / size:.3g} {prefix}"


def digits(value: float) -> str:
    """Three digits at least, none after the point that say nothing."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def tell(found: Found, out: Console) -> None:
    """The part for people: its table, and its notes below."""
    out.print()
    if found.figures:
        out.print(table(found))
    for note in found.notes:
        out.print(f"{found.part}: {note}", markup=False)


def table(found: Found) -> Table:
    """Its figures, a line each; a column in which nothing stands is left out."""
    made = Table(title=f"{found.part}: {found.work}", title_justify="left", title_style="bold")
    rows = [_row(figure) for figure in found.figures]
    filled = [any(column) for column in zip(*rows, strict=True)]
    for name in compress(COLUMNS, filled):
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*compress(row, filled))
    return made


def _row(figure: Figure) -> Sequence[str]:
    """What stands in the columns."""
    versus, ceiling = figure.versus, figure.ceiling
    return (
        figure.name,
        f"{figure.value} {figure.unit}",
        versus.peer if versus else "",
        str(versus.ratio) if versus else "",
        str(ceiling) if ceiling else "",
        ", ".join(f"{name} {_said(value)}" for name, value in figure.details.items()),
    )


def _said(value: str | float) -> str:
    return digits(value) if isinstance(value, float) else str(value)


def to_json(machine: Mapping[str, object], parts: Sequence[Found]) -> str:
    """The machine and all parts for programs; each ceiling with its share."""
    told = []
    for found in parts:
        figures = [asdict(figure) for figure in found.figures]
        for figure, own in zip(figures, found.figures, strict=True):
            if own.ceiling:
                figure["ceiling"]["share"] = own.ceiling.share
        told.append({**asdict(found), "figures": figures})
    return json.dumps({"machine": machine, "parts": told}, indent=1)
