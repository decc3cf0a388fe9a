"""What it costs to index a tar of pictures, and whether the index has their sizes.

Pictures of 20 to 50 KB in a tar on the local disk, of ten eight JPEG, one PNG, one WebP; or a job's own. Counted is the
CPU time of the pass, of its process and of the decoder's child, which both are there before. Its ceiling is what cannot
be left away: reading the same bytes and their sha256, in this process, in turns with the passes. Another tar has
pictures that all differ in size, some lying on their side by EXIF; what its index says is compared with what was
written.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from actors.indexer import Indexer
from actors.sandbox import Sandbox
from jobs.bench.cpu import cpu_s
from jobs.bench.figure import Ceiling, Figure, Found
from jobs.bench.rounds import rounds
from jobs.bench.subject import NOTHING, Options
from pipeline import tar
from pipeline.config import ImageConfig, InputConfig, VideoConfig
from pipeline.index import read_index
from pipeline.shards import list_shards
from pipeline.types import Shard, Size

NAME = "index"
PASS, CEILING = "the pass", "reading and sha256 alone"
COUNT, SIZES, SEED = 5_000, 10_000, 0
MIX = ("JPEG",) * 8 + ("PNG", "WEBP")
SIDES = {"JPEG": (400, 300), "PNG": (120, 90), "WEBP": (400, 300)}  # pixels; noise does not pack
STEP = 16  # pixels between the sides of pictures that differ in size
EXTENSION = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
SIDEWAYS = 6  # EXIF: turn by a quarter to see it upright


def write(path: Path, pictures: Iterable[tuple[str, bytes]]) -> tuple[Shard, int]:
    """A tar of pictures, (extension, bytes) each; returns it and their number."""
    count = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for count, (extension, data) in enumerate(pictures, 1):
            member = tarfile.TarInfo(f"{count:08d}.{extension}")
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    (listed,) = list_shards([str(path)])
    return listed, count


def ordinary(count: int) -> Iterable[tuple[str, bytes]]:
    """Pictures of noise of two scales."""
    dice = np.random.default_rng(SEED)
    for number in range(count):
        kind = MIX[number % len(MIX)]
        coarse, fine = (dice.integers(0, 256, (side, side, 3), np.uint8) for side in (12, 96))
        one, other = (Image.fromarray(noise).resize(SIDES[kind]) for noise in (coarse, fine))
        yield EXTENSION[kind], _encoded(Image.blend(one, other, 0.4), kind, 1)


def different(count: int) -> tuple[list[Size], Iterable[tuple[str, bytes]]]:
    """Upright sizes that are all different, up to 1,600 pixels a side, and pictures that have them."""
    across = int(count**0.5)
    upright = [Size(1 + STEP * (i % across), 1 + STEP * (i // across)) for i in range(count)]
    return upright, (_flat(i, size, turned=i % 4 == 1) for i, size in enumerate(upright))


def _flat(number: int, upright: Size, *, turned: bool) -> tuple[str, bytes]:
    kind = ("JPEG", "JPEG", "PNG", "WEBP")[number % 4]
    size = (upright.height, upright.width) if turned else (upright.width, upright.height)
    return EXTENSION[kind], _encoded(Image.new("RGB", size), kind, SIDEWAYS if turned else 1)


def _encoded(picture: Image.Image, kind: str, orientation: int) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(stream, kind, exif=exif)
    return stream.getvalue()


def measure(options: Options) -> Found:
    """Images a second on one core; without a job also how many of 10,000 sizes are right."""
    subject = options.subject
    own = (("jpg", data) for _, data in subject.images(options.assets or COUNT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard, count = write(
            folder / "shard.tar", own if subject.shards else ordinary(options.assets or COUNT)
        )
        if not count:
            return Found(NAME, "nothing", notes=[NOTHING])
        figure = _figure(options, shard, count, folder)
        right = (
            "" if subject.shards else f"{exact(folder, SIZES):,} of {SIZES:,} different sizes are exact in it"
        )
    kind = "of the job" if subject.shards else f"seed {SEED}"
    said = (
        f"a tar of {count:,} pictures, {kind}, {shard.bytes / count:,.0f} bytes each, local disk, CPU time, medians of "
        f"{options.pairs} rounds"
    )
    return Found(NAME, said, [figure], [right] if right else [])


def _figure(options: Options, shard: Shard, count: int, folder: Path) -> Figure:
    with Sandbox(options.subject.image, options.subject.video) as sandbox:
        sides: dict[str, Callable[[], object]] = {
            PASS: partial(index, shard, sandbox, folder),
            CEILING: partial(digested, shard),
        }
        done = rounds(sides, options.pairs, cpu_s)
    rate = done.rate(PASS, count)
    ceiling = Ceiling(CEILING, done.rate(CEILING, count).median, rate.median, "images")
    return Figure("the pass that makes it", rate, "images/s on one core", None, ceiling)


def index(shard: Shard, sandbox: Sandbox, folder: Path) -> str:
    """The shard's index, as an indexer makes it, each time in another place: it makes none twice."""
    output = tempfile.mkdtemp(dir=folder)
    return Indexer(output, InputConfig("bench", ("",)), lambda: sandbox.probes).index(shard)


def digested(shard: Shard) -> None:
    """Read every member and digest it."""
    with open(shard.uri, "rb") as stream:
        for header in tar.members(stream):
            hashlib.sha256(stream.read(header.size)).digest()


def exact(folder: Path, count: int) -> int:
    """Of so many pictures of different sizes: how many have theirs in the index."""
    upright, pictures = different(count)
    shard, _ = write(folder / "different.tar", pictures)
    with Sandbox(ImageConfig(), VideoConfig()) as sandbox:
        assets = read_index(index(shard, sandbox, folder), 0, count)
    return sum(asset.facts == (size,) for asset, size in zip(assets, upright, strict=True))
