"""Faults of storage: small jobs with doubles on a store that fails, each compared with the job of a good day.

    python -m tests.faults.storage [--seed S] [--jobs N] [--stores moto ceph] [--kinds KIND...] [--ray]

Input and output are on the store, and every request goes through the proxy, with `--ray` also those of Ray's workers:
then the run is the real one, and takes ten times as long. A store that stays down is waited for six seconds, not a
minute. One line of JSON is printed for each job, at the end a table of the sums by kind of fault. The exit code is 1
where anything is lost, doubled, wrong or left over, or where a run must be started again that should not.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline import publish, retry, storage
from pipeline.errors import CaptionmillError
from tests.conftest import Store
from tests.faults.impatience import IMPATIENT
from tests.faults.proxy import KINDS, LISTS, Call, Conditions, Fault, Proxy, Schedule, nothing

SHARDS, EACH = 6, 40
JOB = """
[input]
dataset = "colours"
uris = ["{root}/in/{{000..{last:03d}}}.tar"]
root = "{root}/in"
[model]
path = "{checkpoint}"
threads = 1
[[prompt]]
id = "short"
text = "What is it?"
[[prompt]]
id = "long"
text = "Describe the image in detail."
[unit]
max_assets = 20
[output]
uri = "{output}"
[cluster]
gpus_per_replica = 0
preprocessors = 1
"""
ALONE, MIXED = 0.15, 0.1  # the share of requests that fail: of one kind, of all kinds
ALWAYS = 1 << 30
STARTS = 3
FOR_GOOD = {"503 for good": "503", "403 for good": "403", "gone for good": "reset_before"}
TRIALS = (*KINDS, "mixed", *FOR_GOOD)
BEHIND = Schedule(["list_misses"], 1.0, 0, ALWAYS)
Row = dict[str, Any]
Run = Callable[[str], object]  # brings a job file's output to its snapshot


@dataclass(frozen=True, slots=True)
class Result:
    """What a job under faults came to. `said` is the error of each start that failed."""

    store: str
    conditions: Conditions
    kind: str
    requests: int
    injected: int
    starts: int
    rows: int
    lost: int
    doubled: int
    wrong: int
    left_over: int
    said: tuple[str, ...]

    @property
    def good(self) -> bool:
        """The table of a good day and nothing else there, by one start unless the store stayed down."""
        harm = self.lost + self.doubled + self.wrong + self.left_over
        return not harm and self.starts == (2 if self.kind in FOR_GOOD else 1)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of a store behind the proxy, with the input in it."""

    name: str
    upstream: str
    proxy: Proxy
    root: str
    checkpoint: Path
    run: Run

    def undisturbed(self) -> list[Row]:
        """The table of a good day."""
        return rows(self._attempt("undisturbed", nothing, "kept")[0])

    @property
    def ways(self) -> tuple[Conditions, ...]:
        """What it makes of conditional writes; who checks signatures, which cover the header, does not ignore it."""
        return ("kept", "unknown", "ignored") if self.name == "moto" else ("kept", "unknown")

    def under(self, kind: str, number: int, conditions: Conditions, wanted: Sequence[Row]) -> Result:
        """A job under faults, and what came of it. `number` is the seed, and names the output."""
        output, said = self._attempt(f"{number:05d}", schedule(kind, number), conditions)
        requests, injected = self.proxy.seen, self.proxy.injected.total()
        self.proxy.schedule(nothing)
        found = rows(output) if len(said) < STARTS else []
        counts = (requests, injected, len(said) + 1, len(found), *compare(found, wanted), left_over(output))
        return Result(self.name, conditions, kind, *counts, tuple(said))

    def _attempt(self, name: str, fault: Fault, conditions: Conditions) -> tuple[str, list[str]]:
        """Run a job, again while it fails. A store that stayed down is back then, but its listings lag behind."""
        output, said = f"{self.root}/{name}", list[str]()
        self.proxy.forward_to(self.upstream, conditions)
        self.proxy.schedule(fault)
        values = {"root": self.root, "checkpoint": self.checkpoint, "output": output, "last": SHARDS - 1}
        while len(said) < STARTS:
            try:
                self.run(JOB.format(**values))
                break
            except CaptionmillError as error:
                said.append(f"{type(error).__name__}: {error}")
                self.proxy.fault = fault if isinstance(fault, Schedule) else BEHIND
        return output, said


def rows(output: str) -> list[Row]:
    """What is published, but for times."""
    told = publish.snapshot(output)
    assert told is not None
    files = [file["path"] for table in ("captions", "failures") for file in told[table]["files"]]
    tables = [pq.read_table(io.BytesIO(storage.read(storage.join(output, path)))) for path in files]
    return [row for table in tables for row in table.drop_columns("created_at").to_pylist()]


def compare(found: Sequence[Row], wanted: Sequence[Row]) -> tuple[int, int, int]:
    """Rows that are lost, there more than once, or other than they should be."""
    there = {(row["asset_id"], row["prompt_id"]): row for row in found}
    due = {(row["asset_id"], row["prompt_id"]): row for row in wanted}
    wrong = sum(row != due.get(name) for name, row in there.items())
    return len(due.keys() - there.keys()), len(found) - len(there), wrong


def left_over(output: str) -> int:
    """Objects that are no published table, plan, recipe or index."""
    kept = ("captions/", "failures/", "removed/", "recipes/", "index/", "snapshot.json")
    names = [entry.name for entry in storage.listing(output) if not entry.name.startswith(kept)]
    return sum(
        name.rpartition("/")[2] not in ("plan.json", "manifest.json", "units.parquet") for name in names
    )


def schedule(kind: str, seed: int) -> Fault:
    """One of `TRIALS`: a kind alone, all of them mixed, or a store that goes down in the middle and stays down."""
    if kind in FOR_GOOD:
        return for_good(FOR_GOOD[kind], 20 + 37 * seed % 180)
    if kind in LISTS:  # there are few listings
        return Schedule([kind], 1.0, seed, 2 if kind == "list_500" else ALWAYS)
    return Schedule(KINDS, MIXED, seed) if kind == "mixed" else Schedule([kind], ALONE, seed)


def for_good(kind: str, after: int) -> Fault:
    """A store that is well for some requests and then never again."""
    count = itertools.count()

    def fault(call: Call) -> str:
        return kind if next(count) >= after else ""

    return fault


def fill(root: str) -> None:
    """Write the shards: small pictures of different colours and sizes, and in every shard two that are none."""
    for shard in range(SHARDS):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for place in range(EACH):
                data = {7: b"", 23: b"no picture"}.get(place, picture(shard * EACH + place))
                entry = tarfile.TarInfo(f"{place:05d}.png")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        storage.put(f"{root}/in/{shard:03d}.tar", sink.getvalue())


def picture(number: int) -> bytes:
    """A small picture of its own colour and size."""
    sink, colour = io.BytesIO(), (number % 256, number // 256, 77)
    Image.new("RGB", (16 + number % 25, 16 + number % 15), colour).save(sink, "PNG")
    return sink.getvalue()


@contextmanager
def behind(proxy: Proxy, stores: Mapping[str, Store], checkpoint: Path, run: Run) -> Iterator[list[Place]]:
    """A place on each store. Meanwhile this process's environment leads to the proxy, with the last store's keys."""
    keys = {name: value for store in stores.values() for name, value in store.environment.items()}
    with (
        Store({**keys, "AWS_ENDPOINT_URL": proxy.url}, "s3:/").entered() as unique,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(retry, "PATIENT", IMPATIENT)
        folder, places = unique.rpartition("/")[2], []
        for name, store in stores.items():
            upstream = store.environment["AWS_ENDPOINT_URL"]
            proxy.forward_to(upstream)
            places.append(Place(name, upstream, proxy, f"{store.root}/{folder}", checkpoint, run))
            fill(places[-1].root)
        yield places


def results(places: Sequence[Place], kinds: Sequence[str], seed: int, jobs: int) -> Iterator[Result]:
    """So many jobs; in as many rounds as there are such pairs, every kind meets every store in all its ways."""
    wanted = places[0].undisturbed()
    pairs = [(place, conditions) for place in places for conditions in place.ways]
    for number in range(jobs):
        turn, kind = divmod(number, len(kinds))
        place, conditions = pairs[(turn + kind) % len(pairs)]
        yield place.under(kinds[kind], seed * 1000 + number, conditions, wanted)


def shown(done: Sequence[Result]) -> Table:
    """The sums by kind."""
    columns = ("requests", "injected", "starts", "rows", "lost", "doubled", "wrong", "left_over")
    table = Table("fault", "jobs", *(name.replace("_", " ") for name in columns))
    for kind in dict.fromkeys(result.kind for result in done):
        of_kind = [result for result in done if result.kind == kind]
        sums = [sum(getattr(result, name) for result in of_kind) for name in columns]
        table.add_row(kind, str(len(of_kind)), *(f"{n:,}" for n in sums))
    return table


def main() -> None:
    """The command."""
    from tests.faults import servers  # which imports this module

    parser = argparse.ArgumentParser(
        description="Small jobs on a store that fails, compared with a good day's."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=5 * len(TRIALS))
    parser.add_argument("--stores", nargs="+", choices=servers.STORES, default=list(servers.STORES))
    parser.add_argument("--kinds", nargs="+", choices=TRIALS, default=TRIALS)
    parser.add_argument("--ray", action="store_true", help="the real run, on a Ray cluster of its own")
    asked = parser.parse_args()
    done = []
    with servers.places(asked.stores, asked.ray) as places:
        for result in results(places, asked.kinds, asked.seed, asked.jobs):
            done.append(result)
            print(json.dumps(asdict(result)), flush=True)
    Console(width=120).print(shown(done))
    sys.exit(not all(result.good for result in done))


if __name__ == "__main__":
    main()
