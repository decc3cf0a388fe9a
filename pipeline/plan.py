"""The plan of a run: which units of which shards, from the index alone. `todo = plan − parts that exist`."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage, units
from pipeline.anyres import Geometry
from pipeline.columns import SCHEMA_VERSION
from pipeline.config import InputConfig, UnitConfig, VideoConfig
from pipeline.fit import Needs
from pipeline.index import index_name
from pipeline.types import Clip, Cost, Media, Shard, Size, Unit
from pipeline.video import n_samples

READERS = 16  # index files read at once: they are small, and a store answers in tens of milliseconds
COLUMNS = ("media", "widths", "heights", "duration_s", "n_frames", "problem_code")


@dataclass(frozen=True, slots=True)
class Plan:
    """`indexes` has the address of each shard's index, in the order of `shards`. `failed` counts assets that the
    index already knows to be unreadable; they are in `assets` too. `replica` is what each replica takes of memory."""

    run_id: str
    recipe_id: str
    dataset: str
    shards: tuple[Shard, ...]
    indexes: tuple[str, ...]
    units: tuple[Unit, ...]
    assets: int
    failed: int
    replica: Needs

    @property
    def cost(self) -> Cost:
        """The sum over all units."""
        sums = np.array([astuple(u.cost) for u in self.units], np.int64).reshape(-1, 3).sum(axis=0)
        return Cost(*(int(n) for n in sums))

    def index_of(self, unit: Unit) -> str:
        """Where the unit's index rows are."""
        return self.indexes[int(unit.unit_id.partition("-")[0])]

    def to_json(self) -> str:
        """Shards by path and indexes by name, for addresses may change.

        Units are [shard number, first, count, tokens, crops, bytes].
        """
        number = {s.path: i for i, s in enumerate(self.shards)}
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "run_id": self.run_id,
                "recipe_id": self.recipe_id,
                "dataset": self.dataset,
                "assets": self.assets,
                "failed_in_index": self.failed,
                "cost": asdict(self.cost),
                "replica_bytes": asdict(self.replica),
                "shards": [
                    {"path": s.path, "etag": s.etag, "bytes": s.bytes, "format": s.format}
                    for s in self.shards
                ],
                "indexes": [uri.rpartition("/")[2] for uri in self.indexes],
                "unit_columns": ["shard", "first", "count", *asdict(self.cost)],
                "units": [[number[u.shard.path], u.first, u.count, *astuple(u.cost)] for u in self.units],
            }
        )


def run_id(recipe_id: str, shards: Sequence[Shard], given: InputConfig, limits: UnitConfig) -> str:
    """Hex blake2b-64 of all that decides a plan: recipe, unit bounds, listed input and index rules.

    What the index probe allows is in the recipe.
    """
    text = json.dumps([SCHEMA_VERSION, recipe_id, asdict(limits), [index_name(s, given) for s in shards]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def units_of(
    shards: Sequence[Shard],
    indexes: Sequence[str],
    limits: UnitConfig,
    cost_of: Callable[[pa.Table], tuple[np.ndarray, int]],
) -> tuple[list[Unit], int, int]:
    """Units of all shards in input order, the number of assets, and how many of them the index knows to be bad."""

    def read(uri: str) -> tuple[np.ndarray, int]:
        return cost_of(pq.read_table(io.BytesIO(storage.read(uri)), columns=list(COLUMNS)))

    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(read, indexes))
    planned: list[Unit] = []
    for number, (shard, (costs, _)) in enumerate(zip(shards, tables, strict=True)):
        planned += units.split(shard, number, costs[:, 0], costs[:, 1], costs[:, 2], limits)
    return planned, sum(len(costs) for costs, _ in tables), sum(failed for _, failed in tables)


class Pricer:
    """Costs of index rows under one checkpoint's geometry and one way of sampling clips."""

    def __init__(self, geometry: Geometry, video: VideoConfig) -> None:
        self._geometry, self._video = geometry, video
        self._price = lru_cache(1 << 16)(self._price_of)  # sizes repeat: a cached look-up is 20 times quicker

    def __call__(self, table: pa.Table) -> tuple[np.ndarray, int]:
        """Table with `COLUMNS` → int64 array (rows, 3) of tokens, crops and pixel bytes, and the number of bad rows."""
        columns = [table.column(name).to_pylist() for name in COLUMNS]
        costs = np.zeros((len(table), 3), np.int64)
        for i, (media, widths, heights, duration, frames, problem) in enumerate(zip(*columns, strict=True)):
            if problem is None:
                costs[i] = self._price(media, tuple(widths), tuple(heights), duration, frames)
        return costs, len(table) - table.column("problem_code").null_count

    def _price_of(
        self, media: str, widths: tuple[int, ...], heights: tuple[int, ...], duration: float, frames: int
    ) -> tuple[int, int, int]:
        sizes = tuple(Size(w, h) for w, h in zip(widths, heights, strict=True))
        n = n_samples(Clip(sizes[0], duration, frames), self._video) if media == Media.VIDEO else 0
        cost = self._geometry.cost(Media(media), sizes, n)
        return cost.visual_tokens, cost.crops, cost.pixel_bytes
