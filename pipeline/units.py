"""The plan's grain: a shard's assets cut into contiguous units, bounded in tokens, pixels and count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.config import UnitConfig
from pipeline.types import Cost, Shard, Unit

Counts = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """What one of `of` drivers, number 1 to `of`, does of a run that they split. All cut the same lists."""

    number: int
    of: int

    def taken(self, items: Sequence[T]) -> Sequence[T]:
        """Every `of`th, beginning with the `number`th."""
        return items[self.number - 1 :: self.of]

    def units(self, planned: Iterable[Unit]) -> Sequence[Unit]:
        """Its units, of which all shares get about as many visual tokens."""
        return self.taken(sorted(planned, key=lambda unit: (-unit.cost.visual_tokens, unit.unit_id)))


def split(
    shard: Shard, number: int, costs: Counts, limits: UnitConfig, prompts: tuple[str, ...] = ()
) -> list[Unit]:
    """Units of the `number`th work, as long as all limits allow; an asset beyond one is a unit by itself.

    `costs` is int64 (index rows, 3) of visual tokens, crops and pixel bytes. The same input gives
    the same units, on any machine.
    """
    n = len(costs)
    sums = np.concatenate([np.zeros((1, 3), np.int64), np.cumsum(costs, axis=0)])
    stops = np.minimum(np.arange(n) + limits.max_assets, n)
    for total, limit in ((sums[:, 0], limits.max_visual_tokens), (sums[:, 2], limits.max_pixel_bytes)):
        stops = np.minimum(stops, np.searchsorted(total, total[:-1] + limit, side="right") - 1)
    stops = np.maximum(stops, np.arange(n) + 1)
    firsts = _starts(stops.tolist())
    counts = np.diff([*firsts, n]).tolist()
    of_units = np.diff(sums[[*firsts, n]], axis=0).tolist()
    return [
        Unit(name(number, first, count), shard, first, count, Cost(*cost), prompts)
        for first, count, cost in zip(firsts, counts, of_units, strict=True)
    ]


def name(number: int, first: int, count: int) -> str:
    """The id of the unit of `count` assets from the `first` of the `number`th work, or shard where all is to do."""
    return f"{number:06d}-{first:08d}-{count:05d}"


def number(unit_id: str) -> int:
    """Inverse of `name` in its first part."""
    return int(unit_id.partition("-")[0])


def longest_first(units: Iterable[Unit], draw: Random) -> list[Unit]:
    """Units by falling visual tokens, so that a run does not end waiting for one long unit.

    Those within a quarter of an octave (19 %) of each other are in the order that `draw` gives them: drivers that work
    on one output at once, each with its own, then seldom begin the same unit.
    """
    return sorted(units, key=lambda unit: (-_quarter_octave(unit.cost.visual_tokens), draw.random()))


def _quarter_octave(tokens: int) -> int:
    return math.floor(4 * math.log2(max(1, tokens)))


def _starts(stops: list[int]) -> list[int]:
    """Where units begin, given for each row where a unit that begins there would stop."""
    starts, at = [], 0
    while at < len(stops):
        starts.append(at)
        at = stops[at]
    return starts
