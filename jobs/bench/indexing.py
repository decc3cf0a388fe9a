"""What it costs to index a tar of pictures, and whether the index has their sizes.

    python -m jobs.bench.indexing [--images N] [--rounds N] [--sizes N]

Pictures of 20 to 50 KB in a tar on the local disk: of ten, eight JPEG, one PNG, one WebP. Counted is the CPU time of
the pass, of its process and of the decoder's child, which both are there before. Its ceiling is what cannot be left
away: reading the same bytes and their sha256, in this process, in turns with the passes. Another tar has pictures that
all differ in size, some lying on their side by EXIF; what its index says is compared with what was written.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from rich.console import Console

from actors.indexer import Indexer
from actors.sandbox import Sandbox
from jobs.bench.cpu import counted
from pipeline import tar
from pipeline.config import ImageConfig, InputConfig, VideoConfig
from pipeline.index import read_index
from pipeline.shards import list_shards
from pipeline.types import Shard, Size

SEED = 0
MIX = ("JPEG",) * 8 + ("PNG", "WEBP")
SIDES = {"JPEG": (400, 300), "PNG": (120, 90), "WEBP": (400, 300)}  # pixels; noise does not pack
STEP = 16  # pixels between the sides of pictures that differ in size
EXTENSION = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
SIDEWAYS = 6  # EXIF: turn by a quarter to see it upright


@dataclass(frozen=True, slots=True)
class Pass:
    """CPU seconds of a pass over `images` pictures, `bytes` together, and of reading and digesting them."""

    images: int
    bytes: int
    pass_s: float
    ceiling_s: float

    @property
    def rate(self) -> float:
        """Images a second on one core."""
        return self.images / self.pass_s

    @property
    def share(self) -> float:
        """Of the rate that reading and digesting alone would have."""
        return self.ceiling_s / self.pass_s


def write(path: Path, pictures: Iterable[tuple[str, bytes]]) -> Shard:
    """A tar of pictures, (extension, bytes) each."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for number, (extension, data) in enumerate(pictures):
            member = tarfile.TarInfo(f"{number:08d}.{extension}")
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    (listed,) = list_shards([str(path)])
    return listed


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
    stored = [(1 + STEP * (i % across), 1 + STEP * (i // across)) for i in range(count)]
    turned = [i % 4 == 1 for i in range(count)]
    upright = [Size(*size[::-1]) if turn else Size(*size) for size, turn in zip(stored, turned, strict=True)]
    return upright, (_flat(i, size, turn) for i, (size, turn) in enumerate(zip(stored, turned, strict=True)))


def _flat(number: int, size: tuple[int, int], turned: bool) -> tuple[str, bytes]:
    kind = ("JPEG", "JPEG", "PNG", "WEBP")[number % 4]
    return EXTENSION[kind], _encoded(Image.new("RGB", size), kind, SIDEWAYS if turned else 1)


def _encoded(picture: Image.Image, kind: str, orientation: int) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(stream, kind, exif=exif)
    return stream.getvalue()


def measure(folder: Path, images: int, rounds: int) -> list[Pass]:
    """Passes over the same shard, each with a ceiling of its own."""
    shard = write(folder / "ordinary.tar", ordinary(images))
    with Sandbox(ImageConfig(), VideoConfig()) as sandbox:
        index(write(folder / "first.tar", ordinary(1)), sandbox, folder / "first")
        return [_pass(shard, images, sandbox, folder / f"{i}") for i in range(rounds)]


def _pass(shard: Shard, images: int, sandbox: Sandbox, output: Path) -> Pass:
    with counted() as spent:
        index(shard, sandbox, output)
    return Pass(images, shard.bytes, spent.total, digested_s(shard))


def index(shard: Shard, sandbox: Sandbox, output: Path) -> str:
    """The shard's index, as an indexer makes it."""
    return Indexer(str(output), InputConfig("bench", ("",)), lambda: sandbox.probes).index(shard)


def digested_s(shard: Shard) -> float:
    """CPU seconds to read every member and digest it."""
    begun = time.process_time()
    with open(shard.uri, "rb") as stream:
        for header in tar.members(stream):
            hashlib.sha256(stream.read(header.size)).digest()
    return time.process_time() - begun


def exact(folder: Path, count: int) -> int:
    """Of so many pictures of different sizes: how many have theirs in the index."""
    upright, pictures = different(count)
    shard = write(folder / "different.tar", pictures)
    with Sandbox(ImageConfig(), VideoConfig()) as sandbox:
        assets = read_index(index(shard, sandbox, folder / "different"), 0, count)
    return sum(asset.facts == (size,) for asset, size in zip(assets, upright, strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, default=10_000)
    given, console = parser.parse_args(), Console(soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        passes = measure(Path(folder), given.images, given.rounds)
        right = exact(Path(folder), given.sizes)
    rates, shares = sorted(p.rate for p in passes), sorted(p.share for p in passes)
    each = passes[0].bytes / given.images
    console.print(
        f"{given.images:,} pictures of {each:,.0f} bytes on the mean, local disk, seed {SEED}; "
        f"CPU time, medians of {given.rounds} rounds\n"
        f"{statistics.median(rates):,.0f} images/s on a core ({rates[0]:,.0f} to {rates[-1]:,.0f}), "
        f"{each * statistics.median(rates) / 1e6:,.0f} MB/s\n"
        f"{statistics.median(shares):.0%} of what reading and sha256 alone allow "
        f"({shares[0]:.0%} to {shares[-1]:.0%})\n"
        f"{right:,} of {given.sizes:,} different sizes are exact in the index"
    )


if __name__ == "__main__":
    main()
