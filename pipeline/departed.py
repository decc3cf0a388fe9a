"""The removed rows of a run against the table before it: those that it had and this one has not."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence

from pipeline import storage
from pipeline.conservation import expected
from pipeline.findings import Finding, Kind, Step
from pipeline.publish import File, Partition
from pipeline.readback import UNREADABLE, rows_between
from pipeline.record import MISSHAPEN, TABLES, Record
from pipeline.types import Media

ROWS = 500_000  # of one range
Files = Mapping[str, Sequence[File]]
Key = tuple[str, str | None]


def steps(record: Record, there: Collection[str]) -> Iterator[Step]:
    """A range of asset_id at a time. Nothing to compare with is nothing to find."""
    before = _before(record, there)
    listed = [record.removed, *(file for files in record.files.values() for file in files)]
    if before is None or any(file.path not in there for file in listed):
        return
    rows = sum(f.rows for files in (before, record.files) for table in TABLES for f in files[table])
    n = max(1, -(-rows // ROWS))
    for i in range(n):
        yield Step(f"removed rows, part {i + 1} of {n}", _range(record, before, Partition(i, n)))


def _before(record: Record, there: Collection[str]) -> Files | None:
    """The files of the run before, if that run is still whole."""
    path = f"runs/{record.base}/manifest.json"
    if record.base is None:
        return dict.fromkeys(TABLES, ())
    if path not in there:
        return None
    try:
        told = json.loads(storage.read(storage.join(record.output, path)))["snapshot"]
        files = {table: tuple(File(**file) for file in told[table]["files"]) for table in TABLES}
    except MISSHAPEN:
        return None
    return files if all(file.path in there for some in files.values() for file in some) else None


def _range(record: Record, before: Files, partition: Partition) -> Iterator[Finding]:
    try:
        had, has = (
            {table: _keys(record.output, files[table], partition) for table in TABLES}
            for files in (before, record.files)
        )
        gone = _keys(record.output, [record.removed], partition)
    except UNREADABLE:
        return  # the step of the file itself says so
    media = _media(record, partition)
    due = {kind: {p.id for p in record.prompts if p.asked(kind)} for kind in Media}
    lost = {key for key in had["failures"] if key[0] not in media}
    for key in had["captions"] - has["captions"]:
        kind, failures = media.get(key[0]), {key, (key[0], None)} & has["failures"]
        if kind is None or failures or key[1] not in due[Media(kind)]:
            lost.add(key)
    for key in sorted(gone - lost, key=str):
        yield _finding(record, "it is listed as removed, and was not there before, or still is", key)
    for key in sorted(lost - gone, key=str):
        yield _finding(record, "it is not there any more, and not listed as removed", key)


def _finding(record: Record, said: str, key: Key) -> Finding:
    return Finding(Kind.CONSERVATION, record.removed.path, said, *key)


def _media(record: Record, partition: Partition) -> dict[str, str | None]:
    """The kind of each asset of the input."""
    rows = expected(record, *partition.bounds())
    return dict(zip(rows["asset_id"].to_pylist(), rows["media"].to_pylist(), strict=True))


def _keys(output: str, files: Sequence[File], partition: Partition) -> set[Key]:
    low, high = partition.bounds()
    return {
        (row["asset_id"], row["prompt_id"])
        for file in files
        for rows in rows_between(output, file, ["asset_id", "prompt_id"], low, high)
        for row in rows.to_pylist()
    }
