"""Verify: whether a published table holds what it promises, from the output alone and in bounded memory.

`steps` compares files with the snapshot's digests, rows with the recipe, and both with plan and index. What only the
input and the model can tell, `pipeline.remake` compares.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import conservation, departed, local, storage
from pipeline.carry import REMOVED
from pipeline.columns import CAPTIONS, FAILURES
from pipeline.findings import Finding, Kind, Step
from pipeline.own_facts import OwnFacts
from pipeline.publish import File
from pipeline.readback import UNREADABLE, batches, opened, sha256
from pipeline.record import MISSHAPEN, Record
from pipeline.storage import Entry

SCHEMAS: Mapping[str, pa.Schema] = {"captions": CAPTIONS, "failures": FAILURES, "removed": REMOVED}

CHANGED = "changed since it was published"


@dataclass(slots=True)
class Sums:
    """What the snapshot counts, counted again."""

    rows: Counter[str] = field(default_factory=Counter)  # by table
    codes: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Checks:
    """What every published file is held against: what its footer must say, its rows' rules, and the sums."""

    footer: Mapping[str, str]
    rules: OwnFacts
    sums: Sums


def steps(record: Record) -> Iterator[Step]:
    """All checks, in the order in which they are done."""
    there = _there(record)
    sums = Sums()
    checks = Checks(record.footer, OwnFacts(record, _runs(there)), sums)
    yield Step("what lies in the output", _places(record, there))
    for table, files in (*record.files.items(), ("removed", (record.removed,))):
        for file in files:
            if file.path in there:
                yield Step(file.path, _file(table, file, checks, there[file.path]))
    yield Step("sums", _sums(record, sums))
    unplanned = conservation.index_problems(record, there)
    yield Step("index", iter(unplanned))
    if not unplanned:
        yield from conservation.steps(record, there)
        yield from departed.steps(record, there)


def _there(record: Record) -> dict[str, Entry]:
    """The output's objects by path. What the listing lacks is looked at by name: listings may lag behind."""
    there = {entry.name: entry for entry in storage.listing(record.output)}
    files = [file.path for files in record.files.values() for file in files]
    papers = {f"index/{name}" for name in record.indexes} | {work.path for work in record.work}
    for path in {*files, record.removed.path, *papers} - there.keys():
        with contextlib.suppress(storage.MissingError):
            there[path] = storage.info(storage.join(record.output, path))
    return there


def _places(record: Record, there: Mapping[str, Entry]) -> Iterator[Finding]:
    """Files that are missing, that nobody lists, or that a run left behind; runs that are not shown."""
    listed = {file.path for files in record.files.values() for file in files} | {record.removed.path}
    for path in sorted(listed - there.keys()):
        yield Finding(Kind.FILE, path, "it is gone, and the snapshot lists it")
    published = _runs(there)
    for path in sorted(there.keys() - listed):
        if path.startswith(tuple(f"{table}/{record.run_id}/" for table in record.files)):
            said = "the snapshot does not list it; a reader with a wildcard reads it too"
            yield Finding(Kind.FILE, path, said)
        elif path.startswith(tuple(f"runs/{run_id}/units/" for run_id in published)):
            yield Finding(Kind.LEFTOVER, path, "a unit part of a run that is published")
        elif path == storage.PROBE:
            yield Finding(Kind.LEFTOVER, path, "a probe of an earlier start")
    for path in () if "://" in record.output else local.unfinished(record.output):
        yield Finding(Kind.LEFTOVER, path, "a file that was being written when its writer died")
    for run_id in sorted(published - {record.run_id}):
        yield from _newer(record, run_id)


def _runs(there: Iterable[str]) -> set[str]:
    """Runs that have a manifest."""
    return {path.split("/")[1] for path in there if re.fullmatch("runs/[^/]+/manifest.json", path)}


def _newer(record: Record, run_id: str) -> Iterator[Finding]:
    """Whether another run was published after the one that the snapshot shows."""
    path = f"runs/{run_id}/manifest.json"
    try:
        manifest = json.loads(storage.read(storage.join(record.output, path)))
        when = datetime.fromisoformat(manifest["snapshot"]["published_at"])
        newer = when > datetime.fromisoformat(record.snapshot["published_at"])
    except MISSHAPEN:
        yield Finding(Kind.RECORD, path, "it is not what captionmill writes")
        return
    if newer:
        said = f"stale: it shows run {record.run_id}, and run {run_id} was published later, on {when:%Y-%m-%d %H:%M}"
        yield Finding(Kind.SNAPSHOT, "snapshot.json", said)


def _file(table: str, file: File, checks: Checks, entry: Entry) -> Iterator[Finding]:
    """A published file against the snapshot: its bytes, its footer, its rows."""
    if entry.size != file.bytes:
        yield Finding(
            Kind.FILE, file.path, f"{CHANGED}: {entry.size:,} bytes, the snapshot says {file.bytes:,}"
        )
    elif (found := sha256(entry.uri, entry.size)) != file.sha256:
        yield Finding(Kind.FILE, file.path, f"{CHANGED}: its sha256 is {found}")
    try:
        with opened(entry.uri) as parquet:
            yield from _footer(checks.footer, table, file, parquet)
            if parquet.schema_arrow.equals(SCHEMAS[table]):
                yield from _rows(checks, table, file, parquet)
    except UNREADABLE as error:
        yield Finding(Kind.FILE, file.path, f"it cannot be read: {type(error).__name__}: {str(error)[:200]}")


def _footer(footer: Mapping[str, str], table: str, file: File, parquet: pq.ParquetFile) -> Iterator[Finding]:
    schema = parquet.schema_arrow
    if not schema.equals(SCHEMAS[table]):
        ours, theirs = ({f.name: f.type for f in s} for s in (SCHEMAS[table], schema))
        different = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        yield Finding(Kind.SCHEMA, file.path, f"its columns are not those of {table}: {', '.join(different)}")
    told = {
        name.decode(): value.decode("utf-8", "replace") for name, value in (schema.metadata or {}).items()
    }
    for name, value in footer.items():
        if told.get(name) != value:
            yield Finding(
                Kind.SCHEMA, file.path, f"its footer says {name} = {told.get(name)!r}, expected {value!r}"
            )
    if parquet.metadata.num_rows != file.rows:
        said = f"{parquet.metadata.num_rows:,} rows, the snapshot says {file.rows:,}"
        yield Finding(Kind.FILE, file.path, said)


def _rows(checks: Checks, table: str, file: File, parquet: pq.ParquetFile) -> Iterator[Finding]:
    last: str | None = None
    for first, rows in batches(parquet):
        ids = rows["asset_id"].to_pylist()
        if last is None and ids[0] != file.min_asset_id:
            yield Finding(
                Kind.FILE, file.path, f"it begins at {ids[0]}, the snapshot says {file.min_asset_id}"
            )
        yield from _order(file.path, first, [last, *ids])
        last = ids[-1]
        if table != "removed":
            _count(table, rows, checks.sums)
            yield from checks.rules.findings(table, file.path, first, rows)
    if last != file.max_asset_id:
        yield Finding(Kind.FILE, file.path, f"it ends at {last}, the snapshot says {file.max_asset_id}")


def _order(path: str, first: int, ids: list[str | None]) -> Iterator[Finding]:
    """`ids` begins with the one before row `first`, if there is one."""
    for number, (one, other) in enumerate(pairwise(ids), first):
        if one is not None and other is not None and one > other:
            yield Finding(Kind.SCHEMA, f"{path} row {number}", "not in order of asset_id", other)
            return


def _count(table: str, rows: pa.Table, sums: Sums) -> None:
    sums.rows[table] += len(rows)
    if table == "failures":
        sums.codes.update(rows["error_code"].to_pylist())
    else:
        sums.output_tokens += pc.sum(rows["n_output_tokens"]).as_py() or 0


def _sums(record: Record, sums: Sums) -> Iterator[Finding]:
    told = record.snapshot
    pairs: dict[str, tuple[object, object]] = {
        f"rows of {table}": (told[table]["rows"], sums.rows[table]) for table in record.files
    }
    pairs |= {
        "output_tokens": (told["output_tokens"], sums.output_tokens),
        "failures_by_code": (told["failures_by_code"], dict(sorted(sums.codes.items()))),
    }
    for name, (said, found) in pairs.items():
        if said != found:
            yield Finding(Kind.SNAPSHOT, "snapshot.json", f"{name}: it says {said}, the files hold {found}")
