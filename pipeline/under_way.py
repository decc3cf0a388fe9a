"""How far the runs of an output are, from the output alone: its listing, its plans, and the footers of unit parts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import publish, storage, unit_records, units
from pipeline.columns import SCHEMA_VERSION
from pipeline.errors import IntegrityError
from pipeline.papers import plan_uri
from pipeline.plan import MISSHAPEN
from pipeline.pricing import READERS
from pipeline.storage import Entry

RUN = re.compile(r"(?P<run>[A-Za-z0-9_-]{1,64})/(?P<what>plan\.json|manifest\.json|units/.+\.parquet)")
FOOTERS = 400  # that are read: 30 ms each on S3, 16 at once; of more parts, as many spread evenly
TAIL = 1 << 16  # bytes at the end of a part; a footer has some 20 KB
RECENT = 64  # commits that a rate is taken from
PAUSE_S = 600.0  # without a commit between two: the run was stopped meanwhile, or a unit is very long
PATIENCE, LEAST_S = (
    5.0,
    120.0,
)  # a run has stalled after so many times its longest recent wait, and so long at least


@dataclass(frozen=True, slots=True)
class Done:
    """So much of how much."""

    done: int
    planned: int


@dataclass(frozen=True)
class UnderWay:
    """A run that has a plan and is not published. Times are seconds since 1970 by the store's clock.

    `counted` of the units that are done had their footers read; captions, tokens and failures are of these. `rate` is
    planned visual tokens a second over recent commits, None where there are fewer than two. `files` are published
    files that are there already, of those that come last.
    """

    run_id: str
    planned_s: float
    units: Done
    assets: Done
    visual_tokens: Done
    counted: int
    captions: int
    output_tokens: int
    failures_by_code: Mapping[str, int]
    last_commit_s: float | None
    rate: float | None
    longest_wait_s: float
    files: int

    @property
    def seconds_left(self) -> float | None:
        """From the cost that remains; None while there is no rate."""
        left = self.visual_tokens.planned - self.visual_tokens.done
        return left / self.rate if self.rate else None

    def stalled(self, now_s: float) -> bool:
        """Whether no unit was committed for much longer than before, though some are left."""
        since = now_s - (self.last_commit_s or self.planned_s)
        return self.units.done < self.units.planned and since > max(LEAST_S, PATIENCE * self.longest_wait_s)


@dataclass(frozen=True, slots=True)
class Indexing:
    """Shards that were indexed after the last plan was made, and when the last of them was, seconds since 1970."""

    shards: int
    last_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """What an output says of itself. `snapshot` is None where nothing is published."""

    snapshot: Mapping[str, Any] | None
    runs: tuple[UnderWay, ...]
    indexing: Indexing | None


def look(output: str, footers: int = FOOTERS) -> Found:
    """Look at the output: its listings, its plans, and at most so many footers of a run.

    IntegrityError where a plan is damaged.
    """
    snapshot = publish.snapshot(output)
    runs: dict[str, dict[str, Entry]] = {}
    for entry in storage.listing(storage.join(output, "runs")):
        if named := RUN.fullmatch(entry.name):
            runs.setdefault(named["run"], {})[named["what"]] = entry
    planned = {run: there for run, there in runs.items() if "plan.json" in there}
    under_way = [run for run, there in planned.items() if "manifest.json" not in there]
    found = [_under_way(output, run, planned[run], footers) for run in under_way]
    latest = max((there["plan.json"].modified_s for there in planned.values()), default=0.0)
    return Found(snapshot, tuple(sorted(found, key=lambda s: -s.planned_s)), _indexing(output, latest))


def _indexing(output: str, planned_s: float) -> Indexing | None:
    new = [e for e in storage.listing(storage.join(output, "index")) if e.modified_s > planned_s]
    return Indexing(len(new), max(e.modified_s for e in new)) if new else None


def _under_way(output: str, run_id: str, there: Mapping[str, Entry], footers: int) -> UnderWay:
    rows, ids = _plan(output, run_id)
    places = {f"units/{unit_id}.parquet": i for i, unit_id in enumerate(ids)}
    parts = sorted((there[name] for name in there.keys() & places.keys()), key=lambda e: e.modified_s)
    which = np.array([places[RUN.fullmatch(part.name)["what"]] for part in parts], np.int64)  # type: ignore[index]
    sums, done = rows.sum(axis=0), rows[which].sum(axis=0)
    rate, wait = _rate(parts, rows[which, 3])
    records = _records(parts, footers)
    codes = Counter[str]()
    for record in records:
        codes.update(record["failures_by_code"])
    return UnderWay(
        run_id=run_id,
        planned_s=there["plan.json"].modified_s,
        units=Done(len(parts), len(rows)),
        assets=Done(int(done[2]), int(sums[2])),
        visual_tokens=Done(int(done[3]), int(sums[3])),
        counted=len(records),
        captions=sum(record["captions"] for record in records),
        output_tokens=sum(record["output_tokens"] for record in records),
        failures_by_code=dict(codes),
        last_commit_s=parts[-1].modified_s if parts else None,
        rate=rate,
        longest_wait_s=wait,
        files=len(storage.listing(storage.join(output, "captions", run_id))),
    )


def _plan(output: str, run_id: str) -> tuple[np.ndarray, list[str]]:
    """The units of a run's plan, int64 (n, 6) as `Plan.to_json` has them, and their ids."""
    try:
        told = json.loads(storage.read(plan_uri(output, run_id)))
        if told["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {told['schema_version']!r}")
        rows = np.array(told["units"], np.int64).reshape(-1, 6)
        return rows, [units.name(*row) for row in rows[:, :3].tolist()]
    except MISSHAPEN as error:
        said = f"runs/{run_id}/plan.json is not what captionmill writes ({type(error).__name__}: {str(error)[:200]})"
        raise IntegrityError(said) from error


def _rate(parts: Sequence[Entry], costs: np.ndarray) -> tuple[float | None, float]:
    """Cost a second over the commits since the last pause, at most `RECENT`, and the longest wait between two.

    `parts` are in the order of their commits, `costs` theirs.
    """
    recent = parts[-RECENT:]
    waits = [after.modified_s - before.modified_s for before, after in pairwise(recent)]
    since = max((i + 1 for i, wait in enumerate(waits) if wait > PAUSE_S), default=0)
    waits, spent = waits[since:], costs[len(parts) - len(waits[since:]) :].sum()
    whole = sum(waits)
    return (float(spent) / whole if whole > 0 and spent else None), max(waits, default=0.0)


def _records(parts: Sequence[Entry], footers: int) -> list[dict[str, Any]]:
    """What the units of these parts took, of so many of them, spread evenly, where there are more."""
    chosen = [parts[i] for i in sorted({i * len(parts) // footers for i in range(footers)})] if parts else []
    with ThreadPoolExecutor(READERS) as pool:
        return [record for found in pool.map(lambda e: list(_record(e)), chosen) for record in found]


def _record(part: Entry) -> Iterator[dict[str, Any]]:
    """None where the part is gone by now, for its run is published, or is no whole part, which publishing says."""
    try:
        with storage.open_read(part.uri, part.size, TAIL) as stream, pq.ParquetFile(stream) as file:
            yield from unit_records.found(file.metadata.metadata or {})
    except (storage.MissingError, pa.ArrowException):
        return
