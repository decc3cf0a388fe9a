"""Published assets again: their bytes against the index, and what comes of them against their rows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.columns import CAPTIONS
from pipeline.findings import Finding, Kind, Step
from pipeline.index import read_index
from pipeline.naming import digest
from pipeline.provenance import RETRIABLE, Context, part_table
from pipeline.read import read_assets
from pipeline.readback import UNREADABLE, rows_of
from pipeline.record import TABLES, Record
from pipeline.types import Asset, Captioned, Cost, Problem, Shard, Unit

ASSETS = 10_000  # whose rows are held at once: some 30 MB, and one pass over the table
LOGPROB = 0.05  # natural log; in bfloat16 other batches move a mean by as much as a hundredth
UNCOMPARED = frozenset(("created_at", "duplicate_of"))  # one is another time, the other a way to save work
Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str | None], Row]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the input is now: its shards by path, and what turns a unit's assets into answers, if anything shall."""

    shards: Mapping[str, Shard]
    context: Context
    caption: Callable[[Unit, Sequence[Asset]], Captioned] | None


def sample(record: Record, count: int | None, seed: int) -> Sequence[int]:
    """Places of `count` assets in the plan, in order; all of them for None."""
    total = int(record.units[:, 2].sum())
    if count is None or count >= total:
        return range(total)
    return sorted(random.Random(seed).sample(range(total), count))


def steps(record: Record, places: Sequence[int], source: Source) -> Iterator[Step]:
    """The assets at these places of the plan, as many at a time as may be held."""
    yield Step("shards", iter(_shard_problems(record, places, source)))
    for start in range(0, len(places), ASSETS):
        some = places[start : start + ASSETS]
        units = [_unit(record, number, list(at), source) for number, at in groupby(some, _unit_of(record))]
        there = [unit for unit in units if unit is not None]
        rows = (
            _published(record, [a.asset_id for _, assets in there for a in assets]) if source.caption else {}
        )
        done = start
        for unit, assets in there:
            done += len(assets)
            yield Step(f"again, {done:,} of {len(places):,} assets", _again(unit, assets, rows, source))


def _unit_of(record: Record) -> Callable[[int], int]:
    stops = np.cumsum(record.units[:, 2])
    return lambda place: int(np.searchsorted(stops, place, side="right"))


def _shard_problems(record: Record, places: Sequence[int], source: Source) -> list[Finding]:
    """Shards of the sample that are gone or are others now."""
    units = np.searchsorted(np.cumsum(record.units[:, 2]), np.asarray(places), side="right")
    numbers = np.unique(record.units[units, 0]).tolist()
    said = ((record.shards[n]["path"], _shard_problem(record.shards[n], source)) for n in numbers)
    return [Finding(Kind.INPUT, f"shard {path!r}", problem) for path, problem in said if problem]


def _shard_problem(told: Mapping[str, Any], source: Source) -> str:
    shard = source.shards.get(told["path"])
    if shard is None:
        return "it is not in the input any more"
    same = shard.etag == told["etag"]
    return (
        "" if same else f"it changed since it was captioned: its etag is {shard.etag}, and was {told['etag']}"
    )


def _unit(
    record: Record, number: int, places: Sequence[int], source: Source
) -> tuple[Unit, list[Asset]] | None:
    """The unit and its sampled assets; None where its shard is not what it was."""
    shard_number, first, count = record.units[number].tolist()
    told = record.shards[shard_number]
    if _shard_problem(told, source):
        return None
    assets = read_index(storage.join(record.output, "index", record.indexes[shard_number]), first, count)
    before = int(record.units[:number, 2].sum())
    unit = Unit(record.unit_ids[number], source.shards[told["path"]], first, count, Cost(0, 0, 0))
    return unit, [assets[place - before] for place in places]


def _published(record: Record, ids: Collection[str]) -> Rows:
    rows: dict[tuple[str, str | None], Row] = {}
    for table in TABLES:
        try:
            for some in rows_of(record.output, record.files[table], ids):
                rows |= {(row["asset_id"], row["prompt_id"]): row for row in some.to_pylist()}
        except (*UNREADABLE, storage.MissingError):
            continue  # a finding of the file's own step; its rows are missing here
    return rows


def _again(unit: Unit, assets: Sequence[Asset], rows: Rows, source: Source) -> Iterator[Finding]:
    changed = dict(_changed(unit, assets))
    for asset_id, said in changed.items():
        yield Finding(Kind.INPUT, f"shard {unit.shard.path!r}", said, asset_id)
    same = [asset for asset in assets if asset.asset_id not in changed]
    if source.caption is not None and same:
        made = part_table(source.caption(unit, same), source.context, datetime.now(UTC))
        for row in made.to_pylist():
            yield from _compared(row, rows.get((row["asset_id"], row["prompt_id"])))


def _changed(unit: Unit, assets: Sequence[Asset]) -> Iterator[tuple[str, str]]:
    """Assets whose bytes are not those that were indexed. What the index could not read is not read again."""
    known = [replace(asset, facts=()) for asset in assets if asset.sha256 and asset.members]
    for asset, found in zip(known, read_assets(unit.shard, known), strict=True):
        if isinstance(found, Problem):
            yield asset.asset_id, found.message
        elif digest(found) != asset.sha256:
            yield asset.asset_id, f"other bytes than were captioned: their sha256 is {digest(found)}"


def _compared(made: Row, row: Row | None) -> Iterator[Finding]:
    """How a published row differs from the row that is made again."""
    ids = made["asset_id"], made["prompt_id"]
    where = f"shard {made['shard']!r}, key {made['key']!r}"
    if row is None:
        yield Finding(
            Kind.CAPTION, where, f"made again it is a {made['row']}, and no such row is published", *ids
        )
    elif "error_code" in row:
        if row["error_code"] not in RETRIABLE and row["error_code"] != made["error_code"]:
            said = f"it failed with {row['error_code']}, and made again {_outcome(made)}"
            yield Finding(Kind.CAPTION, where, said, *ids)
    elif made["row"] == "failure" or row["caption"] != made["caption"]:
        said = f"it says {row['caption'][:200]!r}, and made again {_outcome(made)}"
        yield Finding(Kind.CAPTION, where, said, *ids)
    else:
        for name in CAPTIONS.names:
            if name not in UNCOMPARED and not _equal(row[name], made[name], name):
                yield Finding(
                    Kind.CAPTION, where, f"{name} is {row[name]}, and made again {made[name]}", *ids
                )


def _outcome(made: Row) -> str:
    if made["row"] == "failure":
        return f"it fails with {made['error_code']}: {made['error_message']}"
    return f"it says {made['caption'][:200]!r}"


def _equal(one: Any, other: Any, name: str) -> bool:
    if name != "mean_logprob" or one is None or other is None:
        return bool(one == other)
    return math.isclose(one, other, abs_tol=LOGPROB)
