"""Bounds: the same job once more, over 1,000,000 assets of 1,000 shards, and what planning takes when a shard is new.

    python -m tests.bounds.second --assets 1000000

Shards are empty files of names; their indexes are written as the indexer writes them, and the plan is the real one. The
published table is a snapshot without rows: whoever finds that a job is published, or plans the next run, reads none of
them. Printed: seconds of `captionmill run` and `captionmill plan`, each a process of its own with its imports.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import indexing
from jobs.preflight import check
from jobs.run import compose, write_plan
from pipeline import publish, storage
from pipeline.config import read
from pipeline.naming import asset_id
from pipeline.recipe import recipe_uri
from pipeline.schema import ASSETS
from tests import made

ROOT = Path(__file__).parents[2]
EACH = 1_000  # assets a shard
SECONDS = 10.0  # the bound of the second run


def write(folder: Path, first: int, stop: int) -> None:
    """Shards of these numbers, which nobody reads."""
    (folder / "in").mkdir(exist_ok=True)
    for number in range(first, stop):
        (folder / "in" / f"{number:06d}.tar").write_bytes(b"")


def index(job_file: str, number: int) -> None:
    """Write the indexes of shards that have none, from shard `number` on."""
    ready = check(read(job_file))
    uris = indexing.addresses(ready.job, ready.shards)
    for n, (shard, uri) in enumerate(zip(ready.shards[number:], uris[number:], strict=True), number):
        keys = [f"{i:06d}" for i in range(EACH)]
        columns = {
            "asset_id": [asset_id(ready.job.input.dataset, shard.path, key) for key in keys],
            "key": keys,
            "media": ["image"] * EACH,
            "member_names": [[f"{key}.jpg"] for key in keys],
            "member_offsets": [[512 * i] for i in range(EACH)],
            "member_sizes": [[20_000]] * EACH,
            "sha256": [hashlib.sha256(f"{n}/{key}".encode()).hexdigest() for key in keys],
            "bytes": [20_000] * EACH,
            "text": ["{}"] * EACH,
            "widths": [[640]] * EACH,
            "heights": [[480]] * EACH,
        }
        nothing = {
            name: pa.nulls(EACH, ASSETS.field(name).type) for name in ASSETS.names if name not in columns
        }
        sink = io.BytesIO()
        pq.write_table(pa.table({**columns, **nothing}, schema=ASSETS), sink, compression="zstd")
        storage.put(uri, sink.getvalue())


def publish_all(job_file: str) -> None:
    """Plan what is indexed, and publish it without its rows."""
    ready = check(read(job_file))
    output, recipe = ready.job.output.uri, ready.recipe
    storage.put(recipe_uri(output, recipe.recipe_id), recipe.to_json().encode())
    plan = write_plan(ready, compose(ready, indexing.addresses(ready.job, ready.shards)))
    empty = publish.Compactor(output, plan.run_id, (), {}).compact(publish.Partition(0, 1))
    publish.publish(output, replace(plan, units=(), assets=0), [empty], {})


def timed(command: Sequence[str], job_file: Path) -> tuple[float, str]:
    """Seconds of a command of captionmill, and what it said."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *command, str(job_file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return time.monotonic() - begun, done.stdout + done.stderr


def build(folder: Path, shards: int) -> Path:
    """Write shards, their indexes and the published output below the folder. Returns the job file."""
    write(folder, 0, shards)
    job_file = folder / "job.toml"
    job_file.write_text(
        made.job(f"{folder}/in/*.tar", made.checkpoint(folder / "checkpoint"), f"{folder}/out")
    )
    index(job_file.read_text(), 0)
    publish_all(job_file.read_text())
    return job_file


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, default=1_000_000)
    shards = parser.parse_args().assets // EACH
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job_file = build(folder, shards)
        second, said = timed(["run"], job_file)
        if "Nothing to do" not in said:
            sys.exit(f"the second run did something: {said}")
        print(f"{shards * EACH:,} assets in {shards:,} shards: the second run took {second:.1f} s")
        write(folder, shards, shards + 1)
        index(job_file.read_text(), shards)
        planned, said = timed(["plan"], job_file)
        print(f"a shard more: planning took {planned:.1f} s")
        print(next(line for line in said.splitlines() if line.startswith("After what is published")))
        print(f"bound: {SECONDS:g} s: {'kept' if second <= SECONDS else 'NOT kept'}")
        sys.exit(second > SECONDS)


if __name__ == "__main__":
    _main()
