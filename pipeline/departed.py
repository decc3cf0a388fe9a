"""The removed assets of a run against the run before it: those that it had and this one has not."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.conservation import expected
from pipeline.findings import Finding, Kind, Step
from pipeline.publish import File, Partition
from pipeline.readback import UNREADABLE, rows_between
from pipeline.record import MISSHAPEN, TABLES, Record

IDS = 500_000  # of one range


def steps(record: Record, there: Collection[str]) -> Iterator[Step]:
    """A range of asset_id at a time. Nothing to compare with is nothing to find."""
    before = _before(record, there)
    if before is None or record.removed.path not in there:
        return
    n = max(1, -(-max(sum(file.rows for file in before), int(record.units[:, 2].sum())) // IDS))
    for i in range(n):
        yield Step(f"removed assets, part {i + 1} of {n}", _range(record, before, Partition(i, n)))


def _before(record: Record, there: Collection[str]) -> list[File] | None:
    """The files of the run before, if that run is still whole."""
    previous = record.snapshot["previous_run_id"]
    path = f"runs/{previous}/manifest.json"
    if previous is None or path not in there:
        return [] if previous is None else None
    try:
        told = json.loads(storage.read(storage.join(record.output, path)))["snapshot"]
        files = [File(**file) for table in TABLES for file in told[table]["files"]]
    except MISSHAPEN:
        return None
    return files if all(file.path in there for file in files) else None


def _range(record: Record, before: Sequence[File], partition: Partition) -> Iterator[Finding]:
    try:
        had, gone = (_ids(record.output, files, partition) for files in (before, [record.removed]))
    except UNREADABLE:
        return  # the step of the file itself says so
    has = expected(record, *partition.bounds())["asset_id"]
    path = record.removed.path
    left = had.filter(pc.invert(pc.is_in(had, value_set=has)))
    for asset_id in gone.filter(pc.invert(pc.is_in(gone, value_set=left))).to_pylist():
        yield Finding(
            Kind.CONSERVATION, path, "it is listed as removed, and did not leave the input", asset_id
        )
    for asset_id in left.filter(pc.invert(pc.is_in(left, value_set=gone))).to_pylist():
        yield Finding(Kind.CONSERVATION, path, "it left the input, and is not listed as removed", asset_id)


def _ids(output: str, files: Sequence[File], partition: Partition) -> pa.Array:
    low, high = partition.bounds()
    found = [rows["asset_id"] for f in files for rows in rows_between(output, f, ["asset_id"], low, high)]
    chunks = [chunk for column in found for chunk in column.chunks]
    return pc.unique(pa.concat_arrays(chunks)) if chunks else pa.array([], pa.string())
