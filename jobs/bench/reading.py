"""What it costs to read a tar of images, beside `ray.data.read_webdataset`.

    python -m jobs.bench.reading [--assets N] [--bytes N] [--pairs N]

Both sides read the same shard from the local disk, in turns, and decode nothing: there `read_webdataset` on a cluster
of one core, its blocks left where they are, and its reader alone, without Ray's tasks; here what a preprocessor does,
ranges of the shard by its index. The pass that makes the index, once in a shard's life, reads and digests every byte
and is shown by itself. Printed are medians of CPU time per asset, of this process and all below it, and of the ratios
of pairs with their spread.
"""

from __future__ import annotations

import argparse
import io
import logging
import statistics
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data._internal.datasource.webdataset_datasource import WebDatasetDatasource
from rich.console import Console

from jobs.bench.cpu import counted
from pipeline import index
from pipeline.config import InputConfig
from pipeline.read import read_assets
from pipeline.shards import list_shards
from pipeline.types import Asset, Media, Shard, Size

SEED = 0
INPUT = InputConfig("bench", ("",))


def write(path: Path, count: int, size: int) -> None:
    """A tar of `count` keys, an image of `size` random bytes and a sidecar of text each."""
    dice = np.random.default_rng(SEED)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(count):
            for name, data in ((f"{i:08d}.jpg", dice.bytes(size)), (f"{i:08d}.txt", b"a title")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def indexed(shard: Shard) -> list[Asset]:
    """The shard's index rows, without a look at any header."""
    return list(index.scan(shard, INPUT, _size))


def _size(media: Sequence[tuple[Media, bytes]]) -> list[Size]:
    return [Size(1, 1)] * len(media)


def theirs(path: Path) -> Iterator[Any]:
    """The references of the blocks that Ray Data makes of the shard."""
    yield from ray.data.read_webdataset(str(path), decoder=None).iter_internal_ref_bundles()


def reader(path: Path) -> Iterator[Any]:
    """The blocks, as a task of Ray Data makes them."""
    source = WebDatasetDatasource(str(path), decoder=None)
    with pa.OSFile(str(path)) as stream:
        yield from source._read_stream(stream, str(path))


def timed(side: Callable[[], Iterator[Any]]) -> float:
    """Seconds of CPU to run through it."""
    with counted() as spent:
        deque(side(), maxlen=0)
    return spent.total


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--assets", type=int, default=5_000)
    parser.add_argument("--bytes", type=int, default=20_000, help="of one image")
    parser.add_argument("--pairs", type=int, default=5)
    given, console = parser.parse_args(), Console(soft_wrap=True)
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.tar"
        write(path, given.assets, given.bytes)
        (shard,) = list_shards([str(path)])
        assets = indexed(shard)
        sides: dict[str, Callable[[], Iterator[Any]]] = {
            "here, by the index": lambda: iter(read_assets(shard, assets)),
            "here, making the index": lambda: iter(indexed(shard)),
            "its reader alone": lambda: reader(path),
            "ray.data.read_webdataset": lambda: theirs(path),
        }
        rounds = [{name: timed(side) for name, side in sides.items()} for _ in range(1 + given.pairs)][1:]
    console.print(
        f"{given.assets:,} images of {given.bytes:,} bytes with a sidecar each, local disk, seed {SEED}; "
        f"medians of {given.pairs} rounds; ratio: CPU time of the last to this"
    )
    *_, last = sides
    for name in sides:
        each = statistics.median(r[name] for r in rounds) / given.assets * 1e6
        ratios = sorted(r[last] / r[name] for r in rounds)
        spread = f"{statistics.median(ratios):6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        console.print(f"{name:26}{each:8.1f} us an asset {spread}")


if __name__ == "__main__":
    main()
