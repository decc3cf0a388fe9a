"""How fast units are planned from a ready index.

Index files of 10,000 rows on the local disk, single images whose sizes all differ, under LLaVA-OneVision's 36 grids, or
a job's first assets, over and over, under its own: read, priced and cut into units as a run does.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from jobs.bench.figure import Ceiling, Figure, Found
from jobs.bench.rounds import rounds
from jobs.bench.subject import Options
from pipeline import planner, schema
from pipeline.anyres import Geometry
from pipeline.pricing import Pricer, priced
from pipeline.types import Asset, Media, Member, Shard, ShardFormat, Size, Unit

NAME = "planning"
COUNT, EACH, SEED = 500_000, 10_000, 0
SIDES = (64, 4_000)  # pixels
GEOMETRY = Geometry.from_checkpoint({"model_type": "llava_onevision"}, {}, None)


def assets(number: int) -> Iterator[Asset]:
    """The rows of one index."""
    sizes = np.random.default_rng([SEED, number]).integers(*SIDES, (EACH, 2)).tolist()
    for i, (width, height) in enumerate(sizes):
        name = f"{number:08d}-{i:08d}"
        member = Member(f"{name}.jpg", 512 * i, 20_000)
        digest = f"{number:08x}{i:08x}{0:048x}"
        yield Asset(digest[:32], name, Media.IMAGE, (member,), digest, 20_000, {}, (Size(width, height),))


def write(folder: Path, count: int, own: Sequence[Asset]) -> tuple[list[Shard], list[str]]:
    """Index files of `count` shards, of a job's `own` assets where there are some; returns shards and addresses."""
    shards = [Shard(f"{n}.tar", f"{n}.tar", "", 0, ShardFormat.TAR) for n in range(count)]
    uris = [str(folder / f"{n}.parquet") for n in range(count)]
    for number, uri in enumerate(uris):
        sink = io.BytesIO()
        rows = list(islice(cycle(own), EACH)) if own else list(assets(number))
        pq.write_table(schema.assets_to_table(rows), sink, compression="zstd")
        Path(uri).write_bytes(sink.getvalue())
    return shards, uris


def measure(options: Options) -> Found:
    """Assets a second, by the wall clock."""
    subject = options.subject
    own = [asset for _, found in subject.shards for asset in found]
    price = Pricer(subject.tiles if own else GEOMETRY, subject.video)
    count = -(-(options.assets or COUNT) // EACH)
    with tempfile.TemporaryDirectory() as folder:
        shards, uris = write(Path(folder), count, own)
        size = sum(Path(uri).stat().st_size for uri in uris)
        many = "each" if own else "once"  # a job's first assets, over and over, would all be copies

        def plan() -> tuple[Unit, ...]:
            found = priced(shards, uris, price)
            return planner.compose(found, subject.prompts, subject.unit, duplicates=many).units

        done = rounds({NAME: plan}, options.pairs)
    units = done.made[NAME]
    assets_ = sum(unit.count for unit in units)
    ceiling = Ceiling(
        "read() of a cached file", options.machine.cached_read, size / done.seconds(NAME).median, "B"
    )
    kind = f"the job's first {len(own):,} assets over and over" if own else f"sizes all differ, seed {SEED}"
    said = f"{assets_:,} assets in {len(units):,} units, {kind}, medians of {options.pairs} rounds"
    figure = Figure("units from a ready index", done.rate(NAME, assets_), "assets/s", None, ceiling)
    return Found(NAME, said, [figure])
