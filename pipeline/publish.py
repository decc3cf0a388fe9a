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

from pipeline import messages, storage, unit_records
from pipeline.carry import REMOVED, Carry, Rows
from pipeline.columns import CAPTIONS, FAILURES, PART, SCHEMA_VERSION, between, parquet_options, split_part
from pipeline.commit import Parts, committed, manifest_uri, read_part, units_uri
from pipeline.errors import IntegrityError, OvertakenError
from pipeline.plan import Carried, Plan

ROWS_PER_FILE = 500_000  # about 150 MB of zstd Parquet: what indexes like to load, and a gigabyte in memory
READERS = 8


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a partition: counts and files for the snapshot, and what the table before had and lacks now."""

    told: Mapping[str, Any]
    removed: pa.Table


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
        self,
        output: str,
        run_id: str,
        unit_ids: Sequence[str],
        metadata: Mapping[str, str],
        carried: Carried | None = None,
    ) -> None:
        self._output, self._run_id = output, run_id
        self._unit_ids = tuple(unit_ids)
        self._metadata = metadata
        self._carried = carried

    def __call__(self, table: pa.Table) -> pa.Table:
        """A one-row table (number, of) in, one row {done, removed} out (see `done`)."""
        row = table.to_pylist()[0]
        found = self.compact(Partition(row["number"], row["of"]))
        return pa.table({"done": [json.dumps(found.told)], "removed": [messages.ipc(found.removed)]})

    def compact(self, partition: Partition) -> Done:
        """Write captions and failures of the partition, with what the run takes over.

        With the first goes what the units took, from the footers of their parts. Raises IntegrityError where an asset
        and prompt occur twice.
        """
        low, high = partition.bounds()
        carry = Carry(self._output, self._run_id, self._carried) if self._carried else None
        originals = carry.originals(low, high) if carry else pa.array([], pa.string())
        with ThreadPoolExecutor(READERS) as pool:
            read = list(pool.map(lambda unit_id: self._read(unit_id, low, high, originals), self._unit_ids))
        if partition.number == 0:
            records = [own for table in read for own in unit_records.found(table.schema.metadata)]
            unit_records.write(self._output, self._run_id, records, _footer(self._metadata))
        made = pa.concat_tables(t.replace_schema_metadata(None) for t in (*read, PART.empty_table()))
        whole = carry.rows(made, low, high) if carry else Rows(made, REMOVED.empty_table())
        return Done(self._written(partition, whole.table), whole.removed)

    def _written(self, partition: Partition, part: pa.Table) -> dict[str, Any]:
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
            "recipes": sorted(pc.unique(part["recipe_id"]).to_pylist()),
            "new": pc.sum(pc.equal(part["run_id"], self._run_id)).as_py() or 0,
        }

    def _read(self, unit_id: str, low: str, high: str, originals: pa.Array) -> pa.Table:
        table = read_part(Parts(self._output, self._run_id).uri(unit_id))
        inside = pc.or_(between(table["asset_id"], low, high), pc.is_in(table["asset_id"], originals))
        return table.filter(inside)

    def _write(self, table_name: str, partition: Partition, rows: pa.Table, columns: pa.Schema) -> File:
        path = f"{table_name}/{self._run_id}/part-{partition.number:05d}.parquet"
        return _put(self._output, path, rows.cast(columns), self._metadata)


def _put(output: str, path: str, table: pa.Table, metadata: Mapping[str, str]) -> File:
    """Write a published file of rows sorted by asset_id."""
    data = parquet_bytes(table, _footer(metadata))
    storage.put(storage.join(output, path), data)
    ids = table["asset_id"]
    first, last = (ids[0].as_py(), ids[-1].as_py()) if len(table) else (None, None)
    return File(path, len(table), len(data), hashlib.sha256(data).hexdigest(), first, last)


def _footer(metadata: Mapping[str, str]) -> dict[str, str]:
    return {"captionmill.schema_version": SCHEMA_VERSION, **metadata}


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


def publish(output: str, plan: Plan, done: Sequence[Done], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Check the compacted files against the plan, write removed assets and manifest, swap the snapshot, drop parts.

    `done` are the compactor's results, one per partition, in any order. Returns the snapshot. Raises IntegrityError,
    with the old snapshot in place, where the files do not hold every asset of the plan, and OvertakenError where
    another table was published since the plan was made.
    """
    found = sum(d.told["assets"] for d in done)
    if found != plan.assets:
        raise IntegrityError(
            f"run {plan.run_id}: the unit parts hold {found} assets of {plan.assets} planned"
        )
    done = sorted(done, key=lambda d: str(d.told["captions"]["path"]))
    previous = snapshot(output)  # read before the look at the manifest: an earlier snapshot than this run's
    if not storage.exists(manifest_uri(output, plan.run_id)):  # else another driver was here a moment ago
        _check_base(output, plan, previous)
        removed = _write_removed(output, plan.run_id, done, metadata)
        new = _snapshot(plan, [d.told for d in done], removed)
        counts = {"units": len(plan.units), "cost": asdict(plan.cost)}
        manifest = {"snapshot": new, **counts, "metadata": dict(metadata)}
        storage.put(manifest_uri(output, plan.run_id), _json(manifest))
    return follow(output, plan)


def follow(output: str, plan: Plan) -> dict[str, Any]:
    """Swap to the plan's run, whose manifest exists. OvertakenError where a later run's table is published already."""
    published(output, plan)
    return swap(output, plan.run_id, plan.unit_ids)


def published(output: str, plan: Plan) -> bool:
    """Whether another driver has published this very run. OvertakenError where one has published another run."""
    now = snapshot(output)
    if now and now["run_id"] == plan.run_id:
        return True
    _check_base(output, plan, now)
    return False


def _check_base(output: str, plan: Plan, now: Mapping[str, Any] | None) -> None:
    if (now["run_id"] if now else None) != plan.base:
        raise OvertakenError(
            f"another run published its table in {storage.redact(output)} since this one was planned; start again, "
            "and give jobs that differ in more than their input an output each"
        )


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


def _write_removed(output: str, run_id: str, done: Sequence[Done], metadata: Mapping[str, str]) -> File:
    order = [("asset_id", "ascending"), ("prompt_id", "ascending")]
    rows = pa.concat_tables([REMOVED.empty_table(), *(d.removed for d in done)]).sort_by(order)
    return _put(output, f"removed/{run_id}.parquet", rows.cast(REMOVED), metadata)


def done(row: Mapping[str, Any]) -> Done:
    """What is in a row that a compactor returned."""
    return Done(json.loads(row["done"]), messages.from_ipc(row["removed"]))


def _snapshot(plan: Plan, done: Sequence[Mapping[str, Any]], removed: File) -> dict[str, Any]:
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
        "job_id": plan.job_id,
        "previous_run_id": plan.base,
        "recipe_ids": [plan.recipe_id, *sorted({r for d in done for r in d["recipes"]} - {plan.recipe_id})],
        "published_at": datetime.now(UTC).isoformat(),
        "assets": plan.assets,
        "output_tokens": sum(d["output_tokens"] for d in done),
        "failures_by_code": dict(sorted(codes.items())),
        "new_rows": sum(d["new"] for d in done),
        "copies": plan.carried.copies if plan.carried else 0,
        **tables,
        "removed": asdict(removed),
    }


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in column.value_counts().to_pylist()}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
