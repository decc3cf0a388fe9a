"""Bounds: going on with a run of 10,000,000 assets, from the first look at its input until what is left is known.

    python -m tests.bounds.resume --assets 10000000 [--side 768] [--at URI | --ceph]

The output is one that a run leaves behind: its plan, cut by the real code from the costs of assets of side x side
pixels, and an object for each unit under the name that a committer gives it. Going on reads nothing else, so shards
and parts are empty here, and there are no indexes: whoever opened one would fail. What is left is then found in a new
process, as `captionmill run` finds it: with all units done, and with all but 100. Printed: seconds after the imports,
and the most memory that the process ever had. Ray is imported there, and not started.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import astuple
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import numpy as np

from jobs import indexing, run
from jobs.preflight import check
from pipeline import config, fit, storage, units
from pipeline.anyres import Geometry
from pipeline.commit import committed, units_uri
from pipeline.papers import plan_uri
from pipeline.plan import Plan
from pipeline.types import Media, Size, Unit

ROOT = Path(__file__).parents[2]
EACH = 1_000  # assets a shard
LEFT = 100  # units
SECONDS, MB = 5.0, 300  # the bounds
WRITERS = 32
GEOMETRY = Geometry.from_checkpoint({"model_type": "llava_onevision"}, {}, None)


def build(at: str, folder: Path, assets: int, side: int) -> tuple[str, list[str]]:
    """Write shards, plan and parts of a run below `at`; returns its job file and the addresses of its parts.

    The checkpoint is put into `folder`.
    """
    from tests import made  # imports tokenizers, which a driver does without

    job_file = made.job(f"{at}/in/*.tar", made.checkpoint(folder / "checkpoint"), f"{at}/out")
    _write(storage.join(at, "in", f"{i:06d}.tar") for i in range(assets // EACH))
    plan = planned(job_file, side)
    output = storage.join(at, "out")
    storage.put(plan_uri(output, plan.run_id), plan.to_json().encode())
    parts = [storage.join(units_uri(output, plan.run_id), f"{u.unit_id}.parquet") for u in plan.units]
    _write(parts)
    return job_file, parts


def planned(job_file: str, side: int) -> Plan:
    """The plan as a run first makes it, but for the costs, which no index tells."""
    ready = check(config.read(job_file))
    cost = GEOMETRY.cost(Media.IMAGE, [Size(side, side)], 0)
    costs = np.tile(np.array(astuple(cost), np.int64), (EACH, 1))
    limits = ready.job.unit
    found = [u for i, s in enumerate(ready.shards) for u in units.split(s, i, costs, limits)]
    ids = ready.run_id, ready.recipe.recipe_id, ready.job.input.dataset
    needs = fit.needs(ready.footprint, ready.job.model, ready.job.generation.max_new_tokens)
    indexes = tuple(indexing.addresses(ready.job, ready.shards))
    return Plan(*ids, ready.shards, indexes, tuple(found), EACH * len(ready.shards), 0, needs, ready.job_id)


def _write(uris: Iterable[str]) -> None:
    """Empty objects."""
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda uri: storage.put(uri, b""), uris):
            pass


def todo(job_file: str) -> list[Unit]:
    """The units that are left, as `jobs.run` finds them. There must be a plan: there is nothing to make one from."""
    ready = check(config.read(job_file))
    plan = run._earlier(ready)
    if plan is None:
        sys.exit(f"there is no plan of run {ready.run_id}: the code changed since it was written")
    have = committed(ready.job.output.uri, plan.run_id, plan.unit_ids)
    return units.longest_first([u for u in plan.units if u.unit_id not in have], SystemRandom())


def measured(job_file: str) -> dict[str, Any]:
    """What `todo` takes of this process: seconds, and MB at most before and after it."""
    before, begun = _peak_mb(), time.monotonic()
    left = todo(job_file)
    return {
        "seconds": time.monotonic() - begun,
        "imports_mb": before,
        "peak_mb": _peak_mb(),
        "left": sorted(unit.unit_id for unit in left),
    }


def _peak_mb() -> int:
    """Of this process since its exec; ru_maxrss would begin with that of whoever started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 // 10**6


def _apart(job_file: Path) -> dict[str, Any]:
    """`measured` in a new process."""
    command = [sys.executable, "-m", "tests.bounds.resume", "--job", str(job_file)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _bench(at: str, folder: Path, assets: int, side: int) -> bool:
    """Build, measure and print; whether all is within the bounds."""
    begun = time.monotonic()
    text, parts = build(at, folder, assets, side)
    (job_file := folder / "job.toml").write_text(text)
    print(f"{assets:,} assets in {assets // EACH:,} shards, {len(parts):,} units done", end=", ")
    print(f"written in {time.monotonic() - begun:.0f} s")
    print(f"{'left':>6} {'seconds':>8} {'MB of imports':>14} {'more':>5} {'peak':>5}")
    lost = Random(0).sample(parts, min(LEFT, len(parts)))
    good = True
    for gone in ([], lost):
        for uri in gone:
            storage.delete(uri)
        found = _apart(job_file)
        expected = sorted(uri.rpartition("/")[2].removesuffix(".parquet") for uri in gone)
        if found["left"] != expected:
            sys.exit(f"{len(found['left'])} units are left and not the {len(expected)} without a part")
        imports, peak = found["imports_mb"], found["peak_mb"]
        print(f"{len(gone):>6} {found['seconds']:8.2f} {imports:>14} {peak - imports:>5} {peak:>5}")
        good &= found["seconds"] <= SECONDS and peak <= MB
    print(f"bounds: {SECONDS:g} s and {MB} MB: {'kept' if good else 'NOT kept'}")
    return good


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, default=10_000_000)
    parser.add_argument("--side", type=int, default=384, help="pixels; 384: 256 assets a unit, 768: 121")
    parser.add_argument(
        "--at", default="", help="an empty place for shards and output; default: a temporary folder"
    )
    parser.add_argument("--ceph", action="store_true", help="build on a Ceph gateway that is started for it")
    parser.add_argument("--job", type=Path, help="measure this job's resume in this process, and print JSON")
    given = parser.parse_args()
    if given.job:
        print(json.dumps(measured(given.job.read_text())))
        return
    with tempfile.TemporaryDirectory() as folder, _gateway() if given.ceph else nullcontext(folder) as place:
        sys.exit(not _bench(given.at or place, Path(folder), given.assets, given.side))


@contextmanager
def _gateway() -> Iterator[str]:
    """An empty place on a Ceph gateway, which this process and its children find."""
    from tests.faults.servers import ceph  # imports much, and what is measured is a child

    with ceph() as store, store.entered() as place:
        yield place


if __name__ == "__main__":
    _main()
