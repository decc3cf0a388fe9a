"""What it costs to make crops of a JPEG, beside transformers' processor for LLaVA-OneVision.

    python -m jobs.bench.preprocessing [--pairs N]

Both sides decode the same bytes with Pillow and resize on one thread, in turns in one process: here to uint8 crops, as
the preprocessor's child does, there to `pixel_values` in float32 (`LlavaOnevisionImageProcessorPil`). The pictures are
noise of all scales, as photographs are, at JPEG quality 90. Printed are medians of the ratios of pairs, with their
spread, milliseconds, and whether the crops are the same to the bit. Then the same for `[image] decode = "fast"`, under
a cap of crops where it needs one, beside the exact decode and the processor that has only those grids.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from transformers import LlavaOnevisionImageProcessorPil

from pipeline import image
from pipeline.anyres import Geometry
from pipeline.config import ImageConfig
from pipeline.types import Media, Pixels

SIZES = [
    (384, 384),
    (512, 512),
    (640, 480),
    (1024, 768),
    (1024, 1024),
    (1920, 1080),
    (3000, 2000),
    (4000, 3000),
]
SEED, QUALITY = 0, 90
DRAFTS = [((3000, 2000), 10), ((4000, 3000), 10), ((6000, 4000), 0)]  # sizes and [image] max_crops
GEOMETRY = Geometry.from_checkpoint({"model_type": "llava_onevision"}, {}, None)


def photograph(width: int, height: int) -> bytes:
    """A JPEG whose detail is spread over all scales, as a photograph's is."""
    dice, picture = np.random.default_rng([SEED, width, height]), np.zeros((height, width, 3))
    for side in (4, 16, 64, 256, 1024):
        noise = dice.integers(0, 256, (min(side, height), min(side, width), 3), np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    Image.fromarray((picture / 5).astype(np.uint8)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def ours(data: bytes, geometry: Geometry = GEOMETRY) -> Pixels:
    """uint8 (crops, tile, tile, 3)."""
    return geometry.cut(image.decode(data, ImageConfig()), Media.IMAGE)


def drafted(data: bytes, geometry: Geometry) -> Pixels:
    """The same by the fast decode."""
    picture, size = image.draft(data, ImageConfig(), partial(geometry.least, Media.IMAGE))
    return geometry.cut(picture, Media.IMAGE, size)


class Peer:
    """transformers' processor, with the settings of the published checkpoints, which are its defaults, but the
    grids."""

    def __init__(self, geometry: Geometry = GEOMETRY) -> None:
        grids = [list(pinpoint) for pinpoint in geometry.pinpoints]
        self._processor: Any = LlavaOnevisionImageProcessorPil(image_grid_pinpoints=grids)

    def __call__(self, data: bytes) -> np.ndarray:
        """float32 (crops, 3, tile, tile)."""
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        pixels: np.ndarray = self._processor(picture, return_tensors="np")["pixel_values"][0]
        return pixels


def timed(side: Callable[[bytes], Any], data: bytes) -> float:
    """Seconds of CPU: nothing here waits, and other processes shall not count."""
    begun = time.process_time()
    side(data)
    return time.process_time() - begun


def same(crops: Pixels, pixels: np.ndarray) -> bool:
    """Whether the peer's values, their normalisation undone, are the crops."""
    mean, std = (np.array(colours)[:, None, None] for colours in (GEOMETRY.mean, GEOMETRY.std))
    values = (pixels * std + mean) * 255
    return np.array_equal(np.rint(values).astype(np.uint8).transpose(0, 2, 3, 1), crops)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    pairs, console = parser.parse_args().pairs, Console(soft_wrap=True)
    console.print(f"JPEG quality {QUALITY}, seed {SEED}, one thread, CPU time, medians of {pairs} pairs")
    _exact(pairs, console)
    _fast(pairs, console)


def _exact(pairs: int, console: Console) -> None:
    """Every size, as it is decoded by default."""
    console.print("       size  crops  here, ms  there, ms  ratio          bytes  same crops")
    peer, medians = Peer(), []
    for width, height in SIZES:
        data = photograph(width, height)
        crops, pixels = ours(data), peer(data)  # warm up
        rounds = [(timed(ours, data), timed(peer, data)) for _ in range(pairs)]
        ratios = sorted(there / here for here, there in rounds)
        medians.append(statistics.median(ratios))
        here, there = (statistics.median(side) * 1e3 for side in zip(*rounds, strict=True))
        console.print(
            f"{width:>4} x {height:<4}{len(crops):7}{here:10.1f}{there:11.1f}{medians[-1]:7.2f} "
            f"({ratios[0]:.2f}-{ratios[-1]:.2f}) {pixels.nbytes / crops.nbytes:.2f}"
            f"  {'yes' if same(crops, pixels) else 'NO'}"
        )
    console.print(f"geometric mean {statistics.geometric_mean(medians):.2f}, least {min(medians):.2f}\n")


def _fast(pairs: int, console: Console) -> None:
    """Pictures that are decoded at a part of their size."""
    console.print('[image] decode = "fast"', markup=False)
    console.print(
        "       size  max_crops  crops  fast, ms  against exact  against there  mean difference of 255"
    )
    for (width, height), most in DRAFTS:
        data, geometry = photograph(width, height), GEOMETRY.capped(most)
        fast, exact = partial(drafted, geometry=geometry), partial(ours, geometry=geometry)
        peer = Peer(geometry)
        crops, whole, _ = fast(data), exact(data), peer(data)  # warm up
        rounds = [(timed(fast, data), timed(exact, data), timed(peer, data)) for _ in range(pairs)]
        against = [statistics.median(round_[i] / round_[0] for round_ in rounds) for i in (1, 2)]
        here = statistics.median(own for own, *_ in rounds) * 1e3
        difference = np.abs(crops.astype(int) - whole).mean()
        console.print(
            f"{width:>4} x {height:<4}{most:11}{len(crops):7}{here:10.1f}{against[0]:15.2f}{against[1]:15.2f}"
            f"{difference:24.2f}"
        )


if __name__ == "__main__":
    main()
