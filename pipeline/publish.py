"""Publish: unit parts become large sorted files, then a manifest, then `snapshot.json` is swapped.

Readers see the old snapshot or the new one. Everything before the swap is invisible to who reads the snapshot, and
everything here can be done again, by anyone, with the same result.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.columns import CAPTIONS, FAILURES, PART, SCHEMA_VERSION, parquet_options, split_part
from pipeline.commit import Parts, committed, manifest_uri, read_part, units_uri
from pipeline.errors import IntegrityError
from pipeline.plan import Plan

ROWS_PER_FILE = 500_000  # about 150 MB of zstd Parquet: what indexes like to load, and a gigabyte in memory
READERS = 8
LEFT = {"description": "an asset that left the input"}
REMOVED = pa.schema([pa.field("asset_id", pa.string(), metadata=LEFT)])


@dataclass(frozen=True, slots=True)
class File:
    """A published file; `path` is below the output."""

    path: str
    rows: int
    bytes: int
    sha256: str
    min_asset_id: str | None
    max_asset_id: str | None


@dataclass(frozen=True, slots=True)
class Partition:
    """One published file each of captions and failures: number `number` of `of`, by range of asset_id."""

    number: int
    of: int

    def bounds(self) -> tuple[str, str]:
        """Lowest asset_id, and the first above; asset ids are uniform over 32 hex digits."""
        return self._bound(self.number), self._bound(self.number + 1)

    def _bound(self, number: int) -> str:
        after_every_digit = "g"
        return after_every_digit if number == self.of else f"{(number << 32) // self.of:08x}"


def partitions(rows: int) -> list[Partition]:
    """As few partitions as keep files near `ROWS_PER_FILE`."""
    n = max(1, -(-rows // ROWS_PER_FILE))
    return [Partition(i, n) for i in range(n)]


class Compactor:
    """Writes the published files of one partition at a time."""

    def __init__(
        self, output: str, run_id: str, unit_ids: Sequence[str], metadata: Mapping[str, str]
    ) -> None:
        self._output, self._run_id = output, run_id
        self._unit_ids = tuple(unit_ids)
        self._metadata = metadata

    def __call__(self, table: pa.Table) -> pa.Table:
        """A one-row table (number, of) in, one row of JSON (files, assets) out."""
        row = table.to_pylist()[0]
        return pa.table({"done": [json.dumps(self.compact(Partition(row["number"], row["of"])))]})

    def compact(self, partition: Partition) -> dict[str, Any]:
        """Write captions and failures of the partition. Returns both files and the number of assets in them.

        Raises IntegrityError where an asset and prompt occur twice.
        """
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(lambda unit_id: self._read(unit_id, partition), self._unit_ids)
            part = pa.concat_tables(read) if self._unit_ids else PART.empty_table()
        part = part.sort_by([("asset_id", "ascending"), ("prompt_id", "ascending")])
        if len(part.group_by(["asset_id", "prompt_id"]).aggregate([])) != len(part):
            raise IntegrityError(f"run {self._run_id}: an asset and prompt occur twice in the unit parts")
        captions, failures = split_part(part)
        return {
            "captions": asdict(self._write("captions", partition, captions, CAPTIONS)),
            "failures": asdict(self._write("failures", partition, failures, FAILURES)),
            "assets": len(pc.unique(part["asset_id"])),
            "output_tokens": pc.sum(captions["n_output_tokens"]).as_py() or 0,
            "codes": _counts(failures["error_code"]),
        }

    def _read(self, unit_id: str, partition: Partition) -> pa.Table:
        table = read_part(Parts(self._output, self._run_id).uri(unit_id))
        low, high = partition.bounds()
        ids = table["asset_id"]
        return table.filter(pc.and_(pc.greater_equal(ids, low), pc.less(ids, high))).replace_schema_metadata(
            None
        )

    def _write(self, table_name: str, partition: Partition, rows: pa.Table, columns: pa.Schema) -> File:
        path = f"{table_name}/{self._run_id}/part-{partition.number:05d}.parquet"
        return _put(self._output, path, rows.cast(columns), self._metadata)


def _put(output: str, path: str, table: pa.Table, metadata: Mapping[str, str]) -> File:
    """Write a published file of rows sorted by asset_id."""
    data = parquet_bytes(table, {"captionmill.schema_version": SCHEMA_VERSION, **metadata})
    storage.put(storage.join(output, path), data)
    ids = table["asset_id"]
    first, last = (ids[0].as_py(), ids[-1].as_py()) if len(table) else (None, None)
    return File(path, len(table), len(data), hashlib.sha256(data).hexdigest(), first, last)


def parquet_bytes(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """A Parquet file of rows sorted by asset_id, with column descriptions and `metadata` in its footer."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(dict(metadata)), sink, **parquet_options(table.schema))
    return sink.getvalue()


def missing(output: str, plan: Plan) -> list[str]:
    """The ids of units that have no part. What the listing lacks is looked at by name: listings may lag behind."""
    there, parts = committed(output, plan.run_id, plan.unit_ids), Parts(output, plan.run_id)
    unlisted = [unit_id for unit_id in plan.unit_ids if unit_id not in there]
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda unit: storage.exists(parts.uri(unit)), unlisted)
        return [unit for unit, exists in zip(unlisted, found, strict=True) if not exists]


def publish(
    output: str, plan: Plan, done: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Check the compacted files against the plan, write removed assets and manifest, swap the snapshot, drop parts.

    `done` are the compactor's results, one per partition, in any order. Returns the snapshot. Raises IntegrityError,
    with the old snapshot in place, where the files do not hold every asset of the plan.
    """
    found = sum(d["assets"] for d in done)
    if found != plan.assets:
        raise IntegrityError(
            f"run {plan.run_id}: the unit parts hold {found} assets of {plan.assets} planned"
        )
    done = sorted(done, key=lambda d: str(d["captions"]["path"]))
    previous = snapshot(output)  # read before the look at the manifest: an earlier snapshot than this run's
    if not storage.exists(manifest_uri(output, plan.run_id)):  # else another driver was here a moment ago
        removed = _write_removed(output, plan.run_id, previous, done, metadata)
        new = _snapshot(plan, done, removed, previous)
        counts = {"units": len(plan.units), "cost": asdict(plan.cost)}
        manifest = {"snapshot": new, **counts, "metadata": dict(metadata)}
        storage.put(manifest_uri(output, plan.run_id), _json(manifest))
    return swap(output, plan.run_id, plan.unit_ids)


def swap(output: str, run_id: str, unit_ids: Sequence[str] = ()) -> dict[str, Any]:
    """Make the run, whose manifest exists, the published table, and drop its unit parts. Returns the snapshot.

    Parts of `unit_ids` are dropped whether or not they are listed.
    """
    new: dict[str, Any] = json.loads(storage.read(manifest_uri(output, run_id)))["snapshot"]
    if snapshot(output) != new:
        storage.put(storage.join(output, "snapshot.json"), _json(new))
    _clean(output, run_id, unit_ids)
    return new


def snapshot(output: str) -> dict[str, Any] | None:
    """The published table, or None where nothing is published yet."""
    try:
        loaded: dict[str, Any] = json.loads(storage.read(storage.join(output, "snapshot.json")))
    except storage.MissingError:
        return None
    return loaded


def _clean(output: str, run_id: str, unit_ids: Sequence[str]) -> None:
    """Remove the unit parts of a published run."""
    listed = {e.uri for e in storage.listing(units_uri(output, run_id))}
    named = {Parts(output, run_id).uri(unit_id) for unit_id in unit_ids}
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(storage.delete, listed | named))


def _write_removed(
    output: str,
    run_id: str,
    previous: Mapping[str, Any] | None,
    done: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, str],
) -> File:
    gone = (
        [_gone(output, previous, d, Partition(i, len(done))) for i, d in enumerate(done)] if previous else []
    )
    table = pa.Table.from_arrays([pa.chunked_array(gone, pa.string())], schema=REMOVED)
    return _put(output, f"removed/{run_id}.parquet", table, metadata)


def _gone(
    output: str, previous: Mapping[str, Any], done: Mapping[str, Any], partition: Partition
) -> pa.Array:
    """The ids of the previous snapshot in this partition's range that the partition does not have, sorted.

    A range at a time, so that what is held is one partition's ids and not all of the table's.
    """
    low, high = partition.bounds()
    before = [
        f
        for table in ("captions", "failures")
        for f in previous[table]["files"]
        if f["rows"] and f["min_asset_id"] < high and f["max_asset_id"] >= low
    ]
    ids = _asset_ids(output, before)
    ids = ids.filter(pc.and_(pc.greater_equal(ids, low), pc.less(ids, high)))
    kept = _asset_ids(output, [done["captions"], done["failures"]])
    return ids.filter(pc.invert(pc.is_in(ids, value_set=kept))).sort()


def _asset_ids(output: str, files: Sequence[Mapping[str, Any]]) -> pa.Array:
    def read(path: str) -> pa.Array:
        data = storage.read(storage.join(output, path))
        return pq.read_table(io.BytesIO(data), columns=["asset_id"])["asset_id"].combine_chunks()

    with ThreadPoolExecutor(READERS) as pool:
        arrays = list(pool.map(read, [f["path"] for f in files]))
    return pc.unique(pa.concat_arrays(arrays)) if arrays else pa.array([], pa.string())


def _snapshot(
    plan: Plan, done: Sequence[Mapping[str, Any]], removed: File, previous: Mapping[str, Any] | None
) -> dict[str, Any]:
    tables = {
        name: {"rows": sum(d[name]["rows"] for d in done), "files": [d[name] for d in done]}
        for name in ("captions", "failures")
    }
    codes: dict[str, int] = {}
    for d in done:
        for code, n in d["codes"].items():
            codes[code] = codes.get(code, 0) + n
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": plan.dataset,
        "run_id": plan.run_id,
        "previous_run_id": previous["run_id"] if previous else None,
        "recipe_ids": [plan.recipe_id],
        "published_at": datetime.now(UTC).isoformat(),
        "assets": plan.assets,
        "output_tokens": sum(d["output_tokens"] for d in done),
        "failures_by_code": dict(sorted(codes.items())),
        **tables,
        "removed": asdict(removed),
    }


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in column.value_counts().to_pylist()}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
