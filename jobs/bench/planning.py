"""How fast units are planned from a ready index.

    python -m jobs.bench.planning [--assets N] [--rounds N]

Index files of 10,000 rows on the local disk, single images whose sizes all differ, under LLaVA-OneVision's 36 grids:
read, priced and cut into units as a run does. Printed are assets a second, by wall clock and by CPU time, medians.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from pipeline import plan, schema
from pipeline.anyres import Geometry
from pipeline.config import UnitConfig, VideoConfig
from pipeline.types import Asset, Media, Member, Shard, ShardFormat, Size

EACH, SEED = 10_000, 0
SIDES = (64, 4_000)  # pixels
GEOMETRY = Geometry.from_checkpoint({"model_type": "llava_onevision"}, {}, None)


def assets(number: int) -> Iterator[Asset]:
    """The rows of one index."""
    sizes = np.random.default_rng([SEED, number]).integers(*SIDES, (EACH, 2)).tolist()
    for i, (width, height) in enumerate(sizes):
        name = f"{number:08d}-{i:08d}"
        member = Member(f"{name}.jpg", 512 * i, 20_000)
        digest = f"{number:032x}{i:032x}"
        yield Asset(digest[32:], name, Media.IMAGE, (member,), digest, 20_000, {}, (Size(width, height),))


def write(folder: Path, count: int) -> tuple[list[Shard], list[str]]:
    """Index files of `count` shards; returns shards and addresses."""
    shards = [Shard(f"{n}.tar", f"{n}.tar", "", 0, ShardFormat.TAR) for n in range(count)]
    uris = [str(folder / f"{n}.parquet") for n in range(count)]
    for number, uri in enumerate(uris):
        sink = io.BytesIO()
        pq.write_table(schema.assets_to_table(list(assets(number))), sink, compression="zstd")
        Path(uri).write_bytes(sink.getvalue())
    return shards, uris


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--assets", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    given, wall, cpu = parser.parse_args(), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        shards, uris = write(Path(folder), -(-given.assets // EACH))
        for _ in range(given.rounds):
            begun = time.perf_counter(), time.process_time()
            price = plan.Pricer(GEOMETRY, VideoConfig())
            units, count, _ = plan.units_of(shards, uris, UnitConfig(), price)
            wall.append(count / (time.perf_counter() - begun[0]))
            cpu.append(count / (time.process_time() - begun[1]))
    Console(soft_wrap=True).print(
        f"{count:,} assets in {len(units):,} units, seed {SEED}: {statistics.median(wall):,.0f} assets/s, "
        f"{statistics.median(cpu):,.0f} per second of CPU; medians of {given.rounds} rounds"
    )


if __name__ == "__main__":
    main()
