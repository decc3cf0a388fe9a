"""Published assets again: their bytes against the index, and what comes of them against their rows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np

from pipeline import storage, units
from pipeline.columns import CAPTIONS
from pipeline.findings import Finding, Kind, Step
from pipeline.index import read_index
from pipeline.naming import digest
from pipeline.pricing import READERS
from pipeline.provenance import RETRIABLE, Context, part_table
from pipeline.read import read_assets
from pipeline.readback import UNREADABLE, opened, rows_of
from pipeline.record import TABLES, Record
from pipeline.types import Asset, Captioned, Cost, Problem, Shard, Unit

ASSETS = 10_000  # whose rows are held at once: some 30 MB, and one pass over the table
LOGPROB = 0.05  # natural log; in bfloat16 other batches move a mean by as much as a hundredth
TOGETHER = 256  # index rows of which some are made again together
# times and names of this time, a way to save work, and a recipe that may differ in versions alone
UNCOMPARED = frozenset(("created_at", "run_id", "unit_id", "recipe_id", "duplicate_of"))
Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str | None], Row]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the input is now: its shards by path, and what turns a unit's assets into answers, if anything shall."""

    shards: Mapping[str, Shard]
    context: Context
    caption: Callable[[Unit, Sequence[Asset]], Captioned] | None


def sample(record: Record, count: int | None, seed: int) -> Sequence[int]:
    """Places of `count` assets in the input, in order; all of them for None."""
    if count is None or count >= record.assets:
        return range(record.assets)
    return sorted(random.Random(seed).sample(range(record.assets), count))


def steps(record: Record, places: Sequence[int], source: Source) -> Iterator[Step]:
    """The assets at these places of the input, as many at a time as may be held."""
    stops = np.cumsum(rows_of_indexes(record))
    shards = np.searchsorted(stops, np.asarray(places), side="right")
    firsts = np.concatenate([[0], stops])
    yield Step("shards", iter(_shard_problems(record, np.unique(shards).tolist(), source)))
    for start in range(0, len(places), ASSETS):
        some = list(zip(shards[start : start + ASSETS].tolist(), places[start : start + ASSETS], strict=True))
        groups = groupby(some, lambda at: (at[0], (at[1] - int(firsts[at[0]])) // TOGETHER))
        found = [_unit(record, n, [p - int(firsts[n]) for _, p in at], source) for (n, _), at in groups]
        there = [unit for unit in found if unit is not None]
        rows = (
            _published(record, [a.asset_id for _, assets in there for a in assets]) if source.caption else {}
        )
        done = start
        for unit, assets in there:
            done += len(assets)
            yield Step(f"again, {done:,} of {len(places):,} assets", _again(unit, assets, rows, source))


def rows_of_indexes(record: Record) -> list[int]:
    """How many assets each shard has."""

    def read(name: str) -> int:
        with opened(storage.join(record.output, "index", name)) as file:
            return int(file.metadata.num_rows)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, record.indexes))


def _shard_problems(record: Record, numbers: Sequence[int], source: Source) -> list[Finding]:
    """Which of these shards are gone or are others now."""
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
    record: Record, number: int, rows: Sequence[int], source: Source
) -> tuple[Unit, list[Asset]] | None:
    """These rows of a shard's index, as a unit; None where the shard is not what it was."""
    told = record.shards[number]
    if _shard_problem(told, source):
        return None
    first, count = rows[0], rows[-1] - rows[0] + 1
    assets = read_index(storage.join(record.output, "index", record.indexes[number]), first, count)
    unit = Unit(units.name(number, first, count), source.shards[told["path"]], first, count, Cost(0, 0, 0))
    return unit, [assets[row - first] for row in rows]


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
