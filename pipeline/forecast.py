"""What a run would do, from the index alone: counts that are exact, and the time that the roofline allows for them.

Everything here is arithmetic on what `planner.compose` found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import units
from pipeline.anyres import Geometry
from pipeline.config import PromptConfig
from pipeline.planner import Composed
from pipeline.roofline import Roofline
from pipeline.standing import KINDS
from pipeline.types import Cost, Media, Unit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Survey:
    """An input by its index, and what is to do of it.

    Asset by asset in input order: `kinds` are numbers in `KINDS`, `good` those that the index does not know to be bad,
    `costs` int64 (assets, 3) of visual tokens, crops and pixel bytes, `copied` those that get another's rows.
    """

    def __init__(self, composed: Composed) -> None:
        shards = composed.shards
        self.units = composed.units
        self.costs: Ints = np.concatenate([np.zeros((0, 3), np.int64), *(p.costs for p in shards)])
        self.kinds = np.concatenate([np.zeros(0, np.int8), *(p.indexed.kinds for p in shards)])
        self.good: Mask = ~np.concatenate([np.zeros(0, bool), *(p.indexed.problem for p in shards)])
        self.copied: Mask = np.concatenate([np.zeros(0, bool), *composed.todo.copied])
        self.unreadable = sum((Counter(p.codes) for p in shards), Counter[str]())
        firsts = np.cumsum([0, *(len(p.costs) for p in shards)])
        self._places = [firsts[piece.shard] + np.flatnonzero(piece.rows) for piece in composed.pieces]

    def places(self, unit: Unit) -> Ints:
        """Where the unit's assets are."""
        found: Ints = self._places[units.number(unit.unit_id)][unit.first : unit.first + unit.count]
        return found

    def by_kind(self) -> dict[str, int]:
        """Good assets by kind of media."""
        counts = np.bincount(self.kinds[self.good], minlength=len(KINDS)).tolist()
        return {kind: n for kind, n in sorted(zip(KINDS, counts, strict=True)) if n}

    def due(self, asks: Mapping[Media, int]) -> Ints:
        """How many captions are due for each asset, int64 (assets,); `asks` as `asks` has it."""
        each = [asks[Media(kind)] if kind else 0 for kind in KINDS]
        found: Ints = np.where(self.good, np.array(each, np.int64)[self.kinds], 0)
        return found


def asks(prompts: Sequence[PromptConfig], geometry: Geometry) -> dict[Media, int]:
    """How many prompts ask about each kind; none about videos where the checkpoint takes none."""
    taken = [media for media in Media if media is not Media.VIDEO or geometry.videos]
    return dict.fromkeys(Media, 0) | {media: sum(bool(p.asked(media)) for p in prompts) for media in taken}


def due(planned: Sequence[Unit], have: Collection[str]) -> npt.NDArray[np.bool_]:
    """Which units a run would caption: those that are not among the ones that `have` a part."""
    return np.array([unit.unit_id not in have for unit in planned], bool)


def total(planned: Sequence[Unit]) -> dict[str, int]:
    """Units, assets and cost of these units together."""
    cost = {name: sum(getattr(unit.cost, name) for unit in planned) for name in Cost.__slots__}
    return {"units": len(planned), "assets": sum(unit.count for unit in planned), **cost}


def histogram(values: Ints) -> list[dict[str, int]]:
    """Counts of positive values by powers of two, (2**k, 2**(k + 1)], without empty ends: [{from, to, assets}]."""
    if not len(values):
        return []
    bins = np.ceil(np.log2(values)).astype(int)
    counted = np.bincount(bins)
    return [
        {"from": (1 << k >> 1) + 1 if k else 1, "to": 1 << k, "assets": int(counted[k])}
        for k in range(int(bins.min()), len(counted))
    ]


@dataclass(frozen=True, slots=True)
class Pace:
    """How captions are made.

    `texts` has, of each prompt that asks about a kind, the text tokens by id; `slots` captions go on side by side, each
    of `new_tokens` output tokens.
    """

    roofline: Roofline
    texts: Mapping[Media, Mapping[str, int]]
    new_tokens: float
    slots: int

    def seconds(self, surveyed: Survey) -> Floats:
        """Of a replica for each unit: vision tower, prompts, and its share of steps in which all slots go on.

        Prompts of an asset begin with the same picture, which is read once. Assets without a cost, which are bad or
        not asked about, take no time.
        """
        return np.array(
            [self._unit(unit, self._asked(surveyed, unit)) for unit in surveyed.units], np.float64
        )

    def _asked(self, surveyed: Survey, unit: Unit) -> list[tuple[int, Sequence[int]]]:
        """Visual tokens of each asset that has any, and text tokens of each prompt that it is asked."""
        places = surveyed.places(unit)
        found = zip(surveyed.costs[places, 0].tolist(), surveyed.kinds[places].tolist(), strict=True)
        texts = {
            i: [n for name, n in self.texts[Media(kind)].items() if not unit.prompts or name in unit.prompts]
            for i, kind in enumerate(KINDS)
            if kind
        }
        return [(visual, texts[kind]) for visual, kind in found if visual]

    def _unit(self, unit: Unit, asked: Sequence[tuple[int, Sequence[int]]]) -> float:
        read = [
            n for visual, (first, *others) in (a for a in asked if a[1]) for n in (visual + first, *others)
        ]
        if not read:
            return 0.0
        contexts = [visual + text + self.new_tokens / 2 for visual, texts in asked for text in texts]
        step = self.roofline.step_s([round(sum(contexts) / len(contexts))] * self.slots)
        steps = len(contexts) * self.new_tokens / self.slots
        return self.roofline.vision_s(unit.cost.crops) + self.roofline.prefill_s(read) + steps * step


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's: Pearson's correlation of ranks, ties sharing the mean of theirs. NaN where either is constant."""
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def facts(surveyed: Survey, asks: Mapping[Media, int]) -> dict[str, Any]:
    """What is exact: counts, sums and histograms."""
    asked, copies, kinds = surveyed.due(asks), surveyed.copied, surveyed.by_kind()
    tokens, crops, pixels = surveyed.costs.sum(axis=0).tolist()
    looked_at = surveyed.costs[surveyed.costs[:, 0] > 0]
    return {
        "assets": len(surveyed.costs),
        "by_kind": kinds,
        "unreadable": dict(sorted(surveyed.unreadable.items())),
        "not_asked": {kind: n for kind, n in kinds.items() if not asks[Media(kind)]},
        "captions": int(asked.sum()),
        "duplicates": {"assets": int(copies.sum()), "captions_saved": int(asked[copies].sum())},
        "units": len(surveyed.units),
        "crops": crops,
        "visual_tokens": tokens,
        "pixel_bytes": pixels,
        "crops_histogram": histogram(looked_at[:, 1]),
        "visual_tokens_histogram": histogram(looked_at[:, 0]),
    }
