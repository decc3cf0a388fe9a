"""`captionmill export`: hands a published table, or what changed in it since a run, to others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
from rich.console import Console

from jobs.export import huggingface, lance, lines, sidecars
from jobs.export.folder import Folder
from jobs.export.lines import Write
from pipeline import delta as deltas
from pipeline import storage
from pipeline.delta import Delta
from pipeline.errors import ConfigError

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Format:
    """Writes a delta by `put`ting files, whose names `mine` matches, and returns how many."""

    write: Callable[[Delta, Write], int]
    mine: str


def _jsonl(delta: Delta, put: Write) -> int:
    return lines.parts(lines.jsonl(delta), "part-{:05d}.jsonl", lines.JSONL_BYTES, put)


def _bulk(delta: Delta, put: Write) -> int:
    put("mapping.json", lines.mapping())
    return 1 + lines.parts(lines.bulk(delta), "part-{:05d}.ndjson", lines.BULK_BYTES, put)


FOLDERS = {
    "jsonl": Format(_jsonl, r"part-\d{5}\.jsonl"),
    "opensearch": Format(_bulk, r"part-\d{5}\.ndjson|mapping\.json"),
    "webdataset": Format(sidecars.write, r"[^/]+/.+\.tar"),
    "huggingface": Format(
        huggingface.write, r"README\.md|data/(?:captions|failures)-\d{5}-of-\d{5}\.parquet"
    ),
}
LANCEDB = "lancedb"
STREAMS = {"jsonl": lines.jsonl, "opensearch": lines.bulk}  # these may also go to standard output
DELTAS = (*STREAMS, LANCEDB)  # these can say what is to be deleted


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line: `since` is the run that `destination`'s reader is at."""

    output: str
    to: str
    destination: str
    since: str | None
    replace: bool


@dataclass(frozen=True)
class _Counted(Delta):
    """A delta that counts the rows that are read of it."""

    counts: Counter[str] = field(default_factory=Counter)

    def removed(self) -> Iterator[pa.RecordBatch]:
        return self._counted("removed", super().removed())

    def captions(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return self._counted("captions", super().captions(columns))

    def _counted(self, name: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.counts[name] += len(batch)
            yield batch


def export(asked: Asked, console: Console, stdout: BinaryIO) -> None:
    """Do what is asked, and say what was done and how to go on from there."""
    began = time.monotonic()
    _check(asked)
    delta = _delta(asked)
    if asked.to == LANCEDB:
        lance.write(delta, asked.destination)
        written = f"table {lance.TABLE!r} of"
    elif asked.destination == STDOUT:
        stdout.writelines(STREAMS[asked.to](delta))
        written = "to"
    else:
        written = _folder(delta, asked)
    _tell(delta, asked, f"{written} {_shown(asked.destination)}: {time.monotonic() - began:.1f} s", console)


def _check(asked: Asked) -> None:
    """ConfigError where the format cannot do what is asked."""
    problems = []
    if asked.since and asked.to not in DELTAS:
        problems.append(f"--since: {asked.to} has no way to say what was removed; export all of it")
    if asked.destination == STDOUT and asked.to not in STREAMS:
        problems.append(f"--to {asked.to} needs a place to write to; {' and '.join(STREAMS)} can go to -")
    if asked.destination != STDOUT and _inside(asked):
        problems.append(f"{_shown(asked.destination)} is in the output itself; name a place of its own")
    if problems:
        raise ConfigError(problems)


def _inside(asked: Asked) -> bool:
    place, output = storage.absolute(asked.destination), storage.absolute(asked.output)
    return f"{place}/".startswith(f"{output}/")


def _delta(asked: Asked) -> _Counted:
    found = deltas.since(asked.output, asked.since) if asked.since else deltas.whole(asked.output)
    if found is None:
        said = f"--since: run {asked.since} is not among the runs that led to the published one, or what one of them"
        raise ConfigError(
            [f"{said} left is gone; export all of it, without --since, and make the index anew"]
        )
    return _Counted(found.output, found.snapshot, found.earlier, found.steps)


def _folder(delta: _Counted, asked: Asked) -> str:
    """Write the files. Returns how many, in words."""
    told = {"format": asked.to, "run_id": delta.run_id, "since": asked.since}
    form = FOLDERS[asked.to]
    folder = Folder(asked.destination, told, form.mine)
    if not folder.begin(replace=asked.replace):
        return "nothing: it is there already, whole, in"
    files = form.write(delta, folder.put)
    folder.finish(_counts(delta))
    return f"{files:,} files in"


def _counts(delta: _Counted) -> dict[str, int]:
    if delta.steps is None:
        return {"captions": delta.snapshot["captions"]["rows"], "removed": 0}
    return {name: delta.counts[name] for name in ("captions", "removed")}


def _tell(delta: _Counted, asked: Asked, written: str, console: Console) -> None:
    counts = _counts(delta)
    removed = f", {counts['removed']:,} to delete" if delta.steps is not None else ""
    console.print(f"{counts['captions']:,} captions{removed}; {written}", markup=False)
    if asked.to in DELTAS:
        console.print(
            f"This is run {delta.run_id}. What changes after it: the same with --since {delta.run_id}"
        )


def _shown(destination: str) -> str:
    return "standard output" if destination == STDOUT else storage.redact(destination)
