"""What it costs to make crops of a JPEG, beside transformers' processor of the same family.

Both sides decode the same bytes with Pillow and resize on one thread, in turns in one process: here to uint8 crops, as
the preprocessor's child does, there to `pixel_values` in float32 (`LlavaOnevisionImageProcessorPil`). The pictures are
noise of all scales, as photographs are, at JPEG quality 90, or a job's own. Then the same for `[image] decode = "fast"`
against the exact decode, in sizes where it applies, under a cap of crops where it needs one.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from transformers import LlavaNextImageProcessorPil, LlavaOnevisionImageProcessorPil

from jobs.bench.figure import Ceiling, Details, Figure, Found, Spread, Versus
from jobs.bench.rounds import rounds
from jobs.bench.subject import CAPPED, NOTHING, Options, Subject
from pipeline import image
from pipeline.anyres import Geometry
from pipeline.config import ImageConfig
from pipeline.types import Media, Pixels

NAME = "preprocessing"
HERE, PEER = "here", "transformers, PIL"
FAST, EXACT = "fast", "the exact decode"
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


def measure(options: Options) -> Found:
    """CPU time of each picture, and the geometric mean of all."""
    own = options.subject if options.subject.shards else None
    peer = Peer(own)
    figures = [_figure(options, peer, name, data) for name, data in _pictures(own, options.pictures)]
    kind = "the job's first images" if own else f"JPEG quality {QUALITY}, seed {SEED}"
    said = f"{kind}, encoded bytes to crops, one thread, medians of {options.pairs} rounds"
    notes = [f"{PEER}: {CAPPED}"] if own and own.image.max_crops else []
    drafts = [] if own else [_draft(options.pairs, *size, most) for size, most in DRAFTS]
    return Found(NAME, said, [*figures, *_mean(figures), *drafts], notes if figures else [NOTHING])


def _figure(options: Options, peer: Peer, name: str, data: bytes) -> Figure:
    """One picture. CPU time: nothing here waits, and other processes shall not count."""
    subject = options.subject
    tiles = subject.tiles if subject.shards else GEOMETRY
    sides: dict[str, Callable[[], np.ndarray]] = {
        HERE: lambda: ours(data, tiles, subject.image),
        PEER: lambda: peer(data),
    }
    done = rounds(sides, options.pairs, time.process_time)
    crops, pixels, took = done.made[HERE], done.made[PEER], done.seconds(HERE)
    moved = _moved(data, crops) / took.median
    ceiling = Ceiling("memory, one core", options.machine.memory_one_core, moved, "B")
    details: Details = {
        "theirs, ms": done.seconds(PEER).median * 1e3,
        "crops": len(crops),
        "bytes": f"1/{pixels.nbytes / crops.nbytes:.3g}",
        "same crops": "yes" if same(crops, pixels, tiles) else "NO",
    }
    versus = Versus(PEER, done.ratio(PEER, HERE))
    return Figure(name, took.scaled(1e3), "ms of CPU", versus, ceiling, details)


def _draft(pairs: int, width: int, height: int, most: int) -> Figure:
    """A picture that is decoded at a part of its size."""
    data, tiles = photograph(width, height), GEOMETRY.capped(most)
    sides = {FAST: partial(ours, data, tiles, ImageConfig(decode="fast")), EXACT: partial(ours, data, tiles)}
    done = rounds(sides, pairs, time.process_time)
    fast, exact = done.made[FAST], done.made[EXACT]
    details: Details = {
        "max_crops": most,
        "crops": len(fast),
        "mean difference of 255": float(np.abs(fast.astype(int) - exact).mean()),
    }
    name, took = f"{width} x {height}, fast", done.seconds(FAST).scaled(1e3)
    return Figure(name, took, "ms of CPU", Versus(EXACT, done.ratio(EXACT, FAST)), details=details)


def photograph(width: int, height: int) -> bytes:
    """A JPEG whose detail is spread over all scales, as a photograph's is."""
    dice, picture = np.random.default_rng([SEED, width, height]), np.zeros((height, width, 3))
    for side in (4, 16, 64, 256, 1024):
        noise = dice.integers(0, 256, (min(side, height), min(side, width), 3), np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    Image.fromarray((picture / 5).astype(np.uint8)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def ours(data: bytes, tiles: Geometry = GEOMETRY, config: ImageConfig | None = None) -> Pixels:
    """uint8 (crops, tile, tile, 3), decoded as `config` says."""
    picture, size = image.draft(data, config or ImageConfig(), partial(tiles.least, Media.IMAGE))
    return tiles.cut(picture, Media.IMAGE, size)


class Peer:
    """transformers' processor, with the settings of a job's checkpoint, else of the published ones: its defaults."""

    def __init__(self, own: Subject | None = None) -> None:
        self._processor: Any = LlavaOnevisionImageProcessorPil()
        if own:
            kind = LlavaOnevisionImageProcessorPil if own.tiles.videos else LlavaNextImageProcessorPil
            self._processor = kind.from_pretrained(own.folder)

    def __call__(self, data: bytes) -> np.ndarray:
        """float32 (crops, 3, tile, tile)."""
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        pixels: np.ndarray = self._processor(picture, return_tensors="np")["pixel_values"][0]
        return pixels


def same(crops: Pixels, pixels: np.ndarray, tiles: Geometry = GEOMETRY) -> bool:
    """Whether the peer's values, their normalisation undone, are the crops."""
    mean, std = (np.array(colours)[:, None, None] for colours in (tiles.mean, tiles.std))
    values = (pixels * std + mean) * 255
    return np.array_equal(np.rint(values).astype(np.uint8).transpose(0, 2, 3, 1), crops)


def _pictures(own: Subject | None, count: int) -> Iterator[tuple[str, bytes]]:
    """Sizes and encoded bytes: of the eight, or of a job's first single images."""
    if own:
        for one in own.pictures(count):
            yield f"{one.picture.width} x {one.picture.height}", one.data
    else:
        for width, height in SIZES:
            yield f"{width} x {height}", photograph(width, height)


def _moved(data: bytes, crops: Pixels) -> int:
    """Bytes that must be read or written at least once: the file, the picture, the crops."""
    with Image.open(io.BytesIO(data)) as picture:
        return len(data) + 3 * picture.width * picture.height + crops.nbytes


def _mean(figures: Sequence[Figure]) -> Iterator[Figure]:
    """Geometric means, with the spread of the medians."""
    ratios = [figure.versus.ratio.median for figure in figures if figure.versus]
    if ratios:
        mean = Spread(statistics.geometric_mean(ratios), min(ratios), max(ratios))
        took = [figure.value.median for figure in figures]
        value = Spread(statistics.geometric_mean(took), min(took), max(took))
        yield Figure("all, geometric mean", value, "ms of CPU", Versus(PEER, mean))
