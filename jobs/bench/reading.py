"""What it costs to read a tar of images, beside `ray.data.read_webdataset`.

All sides read the same shard in turns, and decode nothing: there `read_webdataset` on a cluster of one core, its blocks
left where they are, and its reader alone, without Ray's tasks; here what a preprocessor does, ranges of the shard by
its index. The pass that makes the index, once in a shard's life, reads and digests every byte and is shown by itself.
Counted is CPU time, of this process and all below it. A job's own images are copied to such a tar, so that all sides
can read them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data._internal.datasource.webdataset_datasource import WebDatasetDatasource

from jobs.bench.cpu import cpu_s
from jobs.bench.figure import Ceiling, Figure, Found, Versus
from jobs.bench.rounds import Rounds, rounds
from jobs.bench.subject import NOTHING, Options
from pipeline import index
from pipeline.config import InputConfig
from pipeline.read import read_assets
from pipeline.shards import list_shards
from pipeline.types import Asset, Media, Shard, Size

NAME = "reading"
BY_INDEX, INDEXING = "by the index", "making the index"
READER, WEBDATASET = "its reader alone", "ray.data.read_webdataset"
COMPARED = ((BY_INDEX, WEBDATASET), (BY_INDEX, READER), (INDEXING, WEBDATASET))
COUNT, SEED = 5_000, 0
INPUT = InputConfig("bench", ("",))


def measure(options: Options) -> Found:
    """CPU time per asset, on a shard of random bytes, or of the job's first single images."""
    count = options.assets or COUNT
    with tempfile.TemporaryDirectory() as folder, _one_core():
        path = Path(folder) / "shard.tar"
        sizes = write(path, _images(options, count))
        if not sizes:
            return Found(NAME, "nothing", notes=[NOTHING])
        own = dict.fromkeys((BY_INDEX, INDEXING, READER), time.process_time)  # Ray's processes idle meanwhile
        done = rounds(_sides(path), options.pairs, cpu_s, own)
    kind = "of the job" if options.subject.shards else f"of random bytes, seed {SEED}"
    mean = sum(sizes) / len(sizes)
    said = (
        f"a tar of {len(sizes):,} images {kind}, {mean:,.0f} bytes each, with sidecars, local disk, CPU time, "
        f"medians of {options.pairs} rounds"
    )
    cached = options.machine.cached_read
    return Found(NAME, said, [_figure(done, *pair, len(sizes), mean, cached) for pair in COMPARED])


def _figure(done: Rounds[None], side: str, peer: str, count: int, size: float, cached: float) -> Figure:
    each = done.seconds(side).scaled(1e6 / count)
    ceiling = Ceiling("read() of a cached file", cached, size / each.median * 1e6, "B")
    details = {"theirs, us": done.seconds(peer).median / count * 1e6}
    return Figure(side, each, "us of CPU an asset", Versus(peer, done.ratio(peer, side)), ceiling, details)


def _images(options: Options, count: int) -> Iterator[bytes]:
    if options.subject.shards:
        return (data for _, data in options.subject.images(count))
    dice = np.random.default_rng(SEED)
    return (dice.bytes(options.image_bytes) for _ in range(count))


def _sides(path: Path) -> dict[str, Callable[[], None]]:
    (shard,) = list_shards([str(path)])
    assets = indexed(shard)
    sides: dict[str, Callable[[], Iterable[Any]]] = {
        BY_INDEX: lambda: read_assets(shard, assets),
        INDEXING: lambda: indexed(shard),
        READER: lambda: reader(path),
        WEBDATASET: lambda: theirs(path),
    }
    return {name: partial(_through, side) for name, side in sides.items()}


def _through(side: Callable[[], Iterable[Any]]) -> None:
    deque(side(), maxlen=0)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """A Ray cluster of one core, unless there is one."""
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def write(path: Path, images: Iterable[bytes]) -> list[int]:
    """A tar of one key for each image with a sidecar of text; returns the images' sizes in bytes."""
    sizes = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, data in enumerate(images):
            for name, held in ((f"{i:08d}.jpg", data), (f"{i:08d}.txt", b"a title")):
                member = tarfile.TarInfo(name)
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
            sizes.append(len(data))
    return sizes


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
