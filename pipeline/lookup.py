"""One asset, or a few, in a published output: their rows, and where the index says that their bytes lie."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.errors import ConfigError, IntegrityError
from pipeline.papers import plan_uri
from pipeline.pricing import READERS
from pipeline.publish import File, snapshot
from pipeline.quality import caption_text
from pipeline.readback import UNREADABLE, opened
from pipeline.record import INDEX, MISSHAPEN, NAME, PATH, TABLES
from pipeline.types import Asset, Shard, ShardFormat

NAMED = 5  # of several assets that fit
AFTER_HEX = "g"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """An index row, the shard that it is of as it was listed then, and the index's name."""

    asset: Asset
    shard: Shard
    index: str


@dataclass(frozen=True, slots=True)
class Published:
    """What `snapshot.json` shows."""

    output: str
    snapshot: Mapping[str, Any]
    captions: tuple[File, ...]
    failures: tuple[File, ...]

    @property
    def run_id(self) -> str:
        """The run that published it."""
        return str(self.snapshot["run_id"])


@contextmanager
def readable(output: str) -> Iterator[None]:
    """IntegrityError in place of what damaged files raise inside."""
    try:
        yield
    except (storage.MissingError, *UNREADABLE) as error:
        said = (
            f"a file of {storage.redact(output)} cannot be read ({type(error).__name__}: {str(error)[:200]})"
        )
        raise IntegrityError(f"{said}; captionmill verify says which, and what to do") from error


def published(output: str) -> Published:
    """The table as consumers see it. ConfigError where nothing is published, IntegrityError for another document."""
    try:
        told = snapshot(output)
        if told is None:
            raise ConfigError(
                [f"nothing is published in {storage.redact(output)}: there is no snapshot.json"]
            )
        files = {table: tuple(File(**file) for file in told[table]["files"]) for table in TABLES}
        for name in ("run_id", "dataset", "published_at"):
            str(told[name])
        if outside := [f.path for some in files.values() for f in some if not PATH.fullmatch(f.path)]:
            raise ValueError(f"{outside[0]!r} is no published file")
    except MISSHAPEN as error:
        raise IntegrityError(
            f"snapshot.json is not what captionmill writes ({type(error).__name__})"
        ) from error
    return Published(output, told, files["captions"], files["failures"])


def asset_id_of(table: Published, start: str) -> str:
    """The one asset whose id begins with `start`. ConfigError where there is none, or several."""
    found: dict[str, None] = {}
    for file in (*table.captions, *table.failures):
        for rows in _between(table.output, file, start, start + AFTER_HEX, ["asset_id"]):
            found.update(dict.fromkeys(pc.unique(rows["asset_id"]).to_pylist()))
    return _one([*found], f"an id that begins with {start!r}")


def asset_id_of_key(table: Published, key: str) -> str:
    """The one asset with this key. ConfigError where there is none, or several (of other shards)."""
    found: dict[str, None] = {}
    for file in (*table.captions, *table.failures):
        with opened(storage.join(table.output, file.path)) as parquet:
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group, ["asset_id", "key"], use_threads=False)
                mine = rows.filter(pc.equal(rows["key"], key))["asset_id"]
                found.update(dict.fromkeys(pc.unique(mine).to_pylist()))
    return _one([*found], f"the key {key!r}")


def _one(ids: Sequence[str], what: str) -> str:
    if not ids:
        raise ConfigError([f"no published asset has {caption_text(what)}"])
    if len(ids) > 1:
        some = ", ".join(sorted(ids)[:NAMED])
        raise ConfigError(
            [f"{len(ids):,} assets have {caption_text(what)}: {some}{', …' * (len(ids) > NAMED)}"]
        )
    return ids[0]


def rows_of_one(table: Published, asset_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Its captions and its failures, all columns."""
    captions, failures = (
        [row for file in files for rows in _of_one(table, file, asset_id) for row in rows.to_pylist()]
        for files in (table.captions, table.failures)
    )
    return captions, failures


def _of_one(table: Published, file: File, asset_id: str) -> Iterator[pa.Table]:
    return _between(table.output, file, asset_id, asset_id + "\0")


def _between(
    output: str, file: File, low: str, high: str, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Rows with low <= asset_id < high. Ids are read of the row groups that may hold one, the rest of those that do."""
    if not file.rows or str(file.min_asset_id) >= high or str(file.max_asset_id) < low:
        return
    with opened(storage.join(output, file.path)) as parquet:
        for group in range(parquet.num_row_groups):
            ids = parquet.metadata.row_group(group).column(0).statistics
            if ids is not None and ids.has_min_max and (ids.min >= high or ids.max < low):
                continue
            column = parquet.read_row_group(group, ["asset_id"], use_threads=False)["asset_id"]
            here = pc.and_(pc.greater_equal(column, low), pc.less(column, high))
            if pc.any(here).as_py():
                yield parquet.read_row_group(group, columns, use_threads=False).filter(here)


@dataclass(slots=True)
class Places:
    """Finds index rows by the rows' shard, in the published run's plan. What is not there any more is not found.

    The plan is read once; of an index only the rows that are asked for become assets.
    """

    table: Published
    _plan: Mapping[str, tuple[str, Shard]] | None = None

    def find(self, rows: Collection[Row]) -> dict[str, Place]:
        """By asset_id, for rows of captions or failures."""
        wanted: dict[str, set[str]] = {}
        for row in rows:
            wanted.setdefault(row["shard"], set()).add(row["asset_id"])
        self._plan = plan = self._plan or _indexes(self.table)
        known = [(path, ids) for path, ids in wanted.items() if path in plan]
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda item: self._indexed(*plan[item[0]], item[1]), known)
            return {asset_id: place for places in found for asset_id, place in places}

    def _indexed(self, name: str, shard: Shard, ids: Collection[str]) -> list[tuple[str, Place]]:
        try:
            with opened(storage.join(self.table.output, "index", name)) as file:
                rows = _of(file, ids)
        except (storage.MissingError, *UNREADABLE):
            return []
        return [(asset.asset_id, Place(asset, shard, name)) for asset in schema.table_to_assets(rows)]


def _indexes(table: Published) -> Mapping[str, tuple[str, Shard]]:
    """By path of the shard, its index and what was listed; nothing where the plan is gone or is no plan."""
    if not NAME.fullmatch(table.run_id):
        return {}
    try:
        told = json.loads(storage.read(plan_uri(table.output, table.run_id)))
        return {
            str(s["path"]): (
                name,
                Shard("", str(s["path"]), str(s["etag"]), int(s["bytes"]), ShardFormat(s["format"])),
            )
            for s, name in zip(told["shards"], told["indexes"], strict=True)
            if INDEX.fullmatch(name)
        }
    except (storage.MissingError, *MISSHAPEN):
        return {}


def _of(file: pq.ParquetFile, ids: Collection[str]) -> pa.Table:
    """The index rows of these assets."""
    rows = file.read(use_threads=False)
    return rows.filter(pc.is_in(rows["asset_id"], value_set=pa.array(sorted(ids), pa.string())))
