"""The plan of a run: which units of which shards, from the index alone. `todo = plan − parts that exist`."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage, units
from pipeline.anyres import Geometry
from pipeline.columns import SCHEMA_VERSION
from pipeline.config import InputConfig, UnitConfig, VideoConfig
from pipeline.errors import IntegrityError
from pipeline.fit import Needs
from pipeline.index import index_name
from pipeline.types import Clip, Cost, Media, Shard, Size, Unit
from pipeline.video import n_samples

READERS = 16  # index files read at once: they are small, and a store answers in tens of milliseconds
COLUMNS = ("media", "widths", "heights", "duration_s", "n_frames", "problem_code")
AT_ONCE = 4096  # sizes that are priced together
MISSHAPEN = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


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

    @property
    def unit_ids(self) -> list[str]:
        """Of all units, in order."""
        return [unit.unit_id for unit in self.units]

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
                **_input(self.shards, self.indexes),
                "unit_columns": ["shard", "first", "count", *asdict(self.cost)],
                "units": [[number[u.shard.path], u.first, u.count, *astuple(u.cost)] for u in self.units],
            }
        )

    @classmethod
    def from_json(cls, data: bytes, run_id: str, shards: Sequence[Shard], indexes: Sequence[str]) -> Plan:
        """Inverse of `to_json`, with the addresses that the listed `shards` and their `indexes` have now.

        IntegrityError where `data` is not the whole plan of this run over these shards: it is written by one PUT, so
        somebody or something changed it. It can be deleted, for the index gives the same units again.
        """
        try:
            told: dict[str, Any] = json.loads(data)
            columns = [column.tolist() for column in _units(told, run_id, _input(shards, indexes)).T]
            return cls(
                run_id,
                str(told["recipe_id"]),
                str(told["dataset"]),
                tuple(shards),
                tuple(indexes),
                tuple(
                    Unit(units.name(number, first, count), shards[number], first, count, Cost(*cost))
                    for number, first, count, *cost in zip(*columns, strict=True)
                ),
                int(told["assets"]),
                int(told["failed_in_index"]),
                Needs(**told["replica_bytes"]),
            )
        except MISSHAPEN as error:
            raise IntegrityError(
                f"runs/{run_id}/plan.json is not the plan that was written ({type(error).__name__}: "
                f"{str(error)[:200]}); delete it and start again: the same units are planned from the index, and "
                "those that are done stay done"
            ) from error


def plan_uri(output: str, run_id: str) -> str:
    """Where a run's plan is."""
    return storage.join(output, "runs", run_id, "plan.json")


def _input(shards: Sequence[Shard], indexes: Sequence[str]) -> dict[str, Any]:
    """What a plan says of its input."""
    listed = [{"path": s.path, "etag": s.etag, "bytes": s.bytes, "format": s.format} for s in shards]
    return {"shards": listed, "indexes": [uri.rpartition("/")[2] for uri in indexes]}


def _units(told: dict[str, Any], run_id: str, given: Mapping[str, Any]) -> np.ndarray:
    """The units of what a plan says, int64 (n, 6), taken out of it, for 100,000 take 25 MB there.

    ValueError unless it is the run's plan of the given input, each shard cut into units without a gap.
    """
    for name, value in {"schema_version": SCHEMA_VERSION, "run_id": run_id, **given}.items():
        if told[name] != value:
            raise ValueError(f"{name} of another run")
    rows = np.array(told.pop("units"), np.int64).reshape(-1, 6)
    number, first, count = rows[:, :3].T
    begins = np.diff(number, prepend=-1) != 0
    expected = np.where(begins, 0, np.roll(first + count, 1))
    if not np.array_equal(number[begins], np.arange(len(given["shards"]))) or (first != expected).any():
        raise ValueError("units that do not follow one another")
    if count.sum() != told["assets"] or rows[:, 3:].sum(axis=0).tolist() != [*told["cost"].values()]:
        raise ValueError("units that are not all there")
    return rows


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

    def __call__(self, table: pa.Table) -> tuple[np.ndarray, int]:
        """Table with `COLUMNS` → int64 array (rows, 3) of tokens, crops and pixel bytes, and the number of bad rows.

        Single images, which come by the million, are computed together; all else, one by one, is 20 times slower.
        """
        good = pc.is_null(table["problem_code"])
        single = pc.fill_null(pc.and_(good, pc.equal(table["media"], Media.IMAGE.value)), False).to_numpy()
        costs = np.zeros((len(table), 3), np.int64)
        images = table.filter(single)
        sizes = np.stack(
            [pc.list_element(images[name], 0).to_numpy() for name in ("widths", "heights")], axis=1
        )
        priced = [self._geometry.image_costs(sizes[i : i + AT_ONCE]) for i in range(0, len(sizes), AT_ONCE)]
        costs[single] = np.concatenate([np.zeros((0, 3), np.int64), *priced])
        others = np.flatnonzero(good.to_numpy() & ~single)
        for i, row in zip(others, table.take(others).select(COLUMNS[:-1]).to_pylist(), strict=True):
            costs[i] = self._price_of(**row)
        return costs, len(table) - table["problem_code"].null_count

    def _price_of(
        self, media: str, widths: list[int], heights: list[int], duration_s: float, n_frames: int
    ) -> tuple[int, int, int]:
        sizes = tuple(Size(w, h) for w, h in zip(widths, heights, strict=True))
        n = n_samples(Clip(sizes[0], duration_s, n_frames), self._video) if media == Media.VIDEO else 0
        cost = self._geometry.cost(Media(media), sizes, n)
        return cost.visual_tokens, cost.crops, cost.pixel_bytes
