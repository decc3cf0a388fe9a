"""The plan of a run: which units of which shards, from the index alone. `todo = plan − parts that exist`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from pipeline import storage, units
from pipeline.columns import SCHEMA_VERSION
from pipeline.config import InputConfig, UnitConfig
from pipeline.errors import IntegrityError
from pipeline.fit import Needs
from pipeline.index import index_name
from pipeline.standing import Standing
from pipeline.types import Cost, Shard, Unit

MISSHAPEN = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Work:
    """Index rows of one shard that are asked the same: the object that has them, and the prompts (none: all)."""

    shard: Shard
    index: str
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Carried:
    """What a run takes over: rows of the run `base`, by `standing`; and `copies`, counted, of rows of its own.

    Which assets of the base do not stand, `dropped` of them, and which are copies, lies beside the plan
    (`before.dropped_uri`, `before.copies_uri`). Without a base there are copies only.
    """

    base: str | None
    standing: Standing | None
    dropped: int
    copies: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do, and what its table will hold.

    `indexes` has the address of each shard's index, in the order of `shards`. `assets` are all of these, `failed` those
    that the index knows to be unreadable. `units` are cut from `work`, or, where that is None, from the whole indexes.
    `replica` is what each replica takes of memory. `job_id` is the run's but for what was published before.
    """

    run_id: str
    recipe_id: str
    dataset: str
    shards: tuple[Shard, ...]
    indexes: tuple[str, ...]
    units: tuple[Unit, ...]
    assets: int
    failed: int
    replica: Needs
    job_id: str
    work: tuple[Work, ...] | None = None
    carried: Carried | None = None

    @property
    def base(self) -> str | None:
        """The run whose table this one follows."""
        return self.carried.base if self.carried else None

    @property
    def planned(self) -> int:
        """Assets of the units."""
        return sum(unit.count for unit in self.units)

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
        number = units.number(unit.unit_id)
        return self.indexes[number] if self.work is None else self.work[number].index

    def to_json(self) -> str:
        """Shards by path and indexes by name, for addresses may change.

        Units are [number of the work (or shard), first, count, tokens, crops, bytes].
        """
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "run_id": self.run_id,
                "job_id": self.job_id,
                "recipe_id": self.recipe_id,
                "dataset": self.dataset,
                "assets": self.assets,
                "planned": self.planned,
                "failed_in_index": self.failed,
                "cost": asdict(self.cost),
                "replica_bytes": asdict(self.replica),
                **_input(self.shards, self.indexes),
                "carried": asdict(self.carried) if self.carried else None,
                "work": None if self.work is None else self._told_work(),
                "unit_columns": ["work", "first", "count", *asdict(self.cost)],
                "units": [[units.number(u.unit_id), u.first, u.count, *astuple(u.cost)] for u in self.units],
            }
        )

    def _told_work(self) -> list[list[Any]]:
        """The work as [shard number, name of the object, prompts]; the name is null for a shard's whole index."""
        number = {s.path: i for i, s in enumerate(self.shards)}
        whole = dict(zip(self.indexes, self.shards, strict=True))
        return [
            [number[w.shard.path], None if w.index in whole else w.index.rpartition("/")[2], w.prompts]
            for w in self.work or ()
        ]

    @classmethod
    def from_json(
        cls, data: bytes, output: str, run_id: str, shards: Sequence[Shard], indexes: Sequence[str]
    ) -> Plan:
        """Inverse of `to_json`, with the addresses that the listed `shards` and their `indexes` have now.

        IntegrityError where `data` is not the whole plan of this run over these shards: it is written by one PUT, so
        somebody or something changed it. It can be deleted, for the index gives the same units again.
        """
        try:
            told: dict[str, Any] = json.loads(data)
            rows = _units(told, run_id, _input(shards, indexes))
            work = _work(told["work"], work_uri(output, run_id), shards, indexes)
            asked = work or [Work(*whole, ()) for whole in zip(shards, indexes, strict=True)]
            columns = [column.tolist() for column in rows.T]
            return cls(
                run_id,
                str(told["recipe_id"]),
                str(told["dataset"]),
                tuple(shards),
                tuple(indexes),
                tuple(
                    Unit(
                        units.name(number, first, count),
                        asked[number].shard,
                        first,
                        count,
                        Cost(*cost),
                        asked[number].prompts,
                    )
                    for number, first, count, *cost in zip(*columns, strict=True)
                ),
                int(told["assets"]),
                int(told["failed_in_index"]),
                Needs(**told["replica_bytes"]),
                str(told["job_id"]),
                work,
                _carried(told["carried"]),
            )
        except MISSHAPEN as error:
            raise IntegrityError(
                f"runs/{run_id}/plan.json is not the plan that was written ({type(error).__name__}: "
                f"{str(error)[:200]}); delete it and start again: the same units are planned from the index, and "
                "those that are done stay done"
            ) from error


def work_uri(output: str, run_id: str) -> str:
    """The folder of index rows that are a part of a shard's only."""
    return storage.join(output, "runs", run_id, "work")


def _work(
    told: Sequence[Any] | None, folder: str, shards: Sequence[Shard], indexes: Sequence[str]
) -> tuple[Work, ...] | None:
    """Inverse of `Plan._told_work`."""
    if told is None:
        return None
    return tuple(
        Work(shards[i], indexes[i] if name is None else storage.join(folder, str(name)), tuple(prompts))
        for i, name, prompts in told
    )


def _carried(told: Mapping[str, Any] | None) -> Carried | None:
    if told is None:
        return None
    rule = told["standing"]
    return Carried(**{**told, "standing": None if rule is None else Standing.from_json(rule)})


def _input(shards: Sequence[Shard], indexes: Sequence[str]) -> dict[str, Any]:
    """What a plan says of its input."""
    listed = [{"path": s.path, "etag": s.etag, "bytes": s.bytes, "format": s.format} for s in shards]
    return {"shards": listed, "indexes": [uri.rpartition("/")[2] for uri in indexes]}


def _units(told: dict[str, Any], run_id: str, given: Mapping[str, Any]) -> np.ndarray:
    """The units of what a plan says, int64 (n, 6), taken out of it, for 100,000 take 25 MB there.

    ValueError unless it is the run's plan of the given input, all of its work cut into units without a gap.
    """
    for name, value in {"schema_version": SCHEMA_VERSION, "run_id": run_id, **given}.items():
        if told[name] != value:
            raise ValueError(f"{name} of another run")
    rows = np.array(told.pop("units"), np.int64).reshape(-1, 6)
    number, first, count = rows[:, :3].T
    begins = np.diff(number, prepend=-1) != 0
    expected = np.where(begins, 0, np.roll(first + count, 1))
    pieces = given["shards"] if told["work"] is None else told["work"]
    if not np.array_equal(number[begins], np.arange(len(pieces))) or (first != expected).any():
        raise ValueError("units that do not follow one another")
    if count.sum() != told["planned"] or rows[:, 3:].sum(axis=0).tolist() != [*told["cost"].values()]:
        raise ValueError("units that are not all there")
    return rows


def job_id(recipe_id: str, shards: Sequence[Shard], given: InputConfig, limits: UnitConfig) -> str:
    """Hex blake2b-64 of all that decides a table but what was published before.

    These are recipe, unit bounds, listed input and index rules. What the index probe allows is in the recipe.
    """
    indexes = [index_name(s, given) for s in shards]
    return _digest([SCHEMA_VERSION, recipe_id, asdict(limits), given.duplicates, indexes])


def run_id(job: str, base: str | None, again: Sequence[str] | None) -> str:
    """Names the run of a job after the run `base`, with codes of failures that are tried again (see `todo`).

    The same job after the same table is the same run.
    """
    return _digest([job, base, again])


def _digest(decides: Sequence[Any]) -> str:
    return hashlib.blake2b(json.dumps(decides).encode(), digest_size=8).hexdigest()
