"""What is captioned in a benchmark: pictures, what is asked about them, and how long the answers are."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from actors.captioner import Generator
from jobs.bench.subject import Options
from pipeline.anyres import Geometry
from pipeline.config import PromptConfig
from pipeline.types import Media, Request, Sample, Size, View

SIZES = [(640, 480), (480, 640), (300, 300), (500, 375), (384, 384), (800, 600), (256, 256), (1024, 512)]
SEED = 0
MEDIAN, SIGMA, MOST = 110, 0.45, 256  # of natural output lengths, which are log-normal


@dataclass(frozen=True, slots=True)
class Work:
    """Decoded pictures, each with its text fields, and the prompts that each of them is asked."""

    pictures: Sequence[Image.Image]
    fields: Sequence[Mapping[str, str]]
    prompts: Sequence[PromptConfig]
    tiles: Geometry

    @property
    def count(self) -> int:
        """Captions."""
        return len(self.pictures) * len(self.prompts)

    def requests(self, generator: Generator) -> list[Request]:
        """From pixels to crops and token ids: every picture under every prompt, those of a picture side by side."""
        samples = [self._sample(number) for number in range(len(self.pictures))]
        return [
            generator.encode(sample, prompt, fields)
            for sample, fields in zip(samples, self.fields, strict=True)
            for prompt in self.prompts
        ]

    def _sample(self, number: int) -> Sample:
        picture = self.pictures[number]
        crops, size = self.tiles.cut(picture, Media.IMAGE), Size(*picture.size)
        view = View(number, Media.IMAGE, f"{number:064x}", (size,), self.tiles.grid(size), len(crops), ())
        return Sample(view, crops)


def work(options: Options, pictures: int, prompts: int) -> Work:
    """The job's first single images, else pictures of random pixels in the eight sizes by turns, under its prompts."""
    subject = options.subject
    asked = (subject.prompts * prompts)[:prompts]
    if subject.shards:
        own = list(subject.pictures(pictures)) if asked else []
        return Work([p.picture for p in own], [p.asset.text for p in own], asked, subject.tiles)
    dice = np.random.default_rng(SEED)
    sizes = [SIZES[i % len(SIZES)] for i in range(pictures)]
    drawn = [Image.fromarray(dice.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]
    return Work(drawn, [{}] * pictures, asked, subject.tiles)


def described(options: Options, todo: Work) -> str:
    """Pictures, model and machine of a measurement, in words."""
    subject, machine = options.subject, options.machine
    kind = "the job's first" if subject.shards else f"random, seed {SEED},"
    sizes = " ".join(dict.fromkeys(f"{picture.width}x{picture.height}" for picture in todo.pictures))
    return (
        f"{len(todo.pictures)} pictures ({kind} {sizes}), {subject.folder.name}, {subject.model.dtype}, "
        f"{machine.threads} threads"
    )


def natural(count: int) -> list[int]:
    """Output lengths as captions have them."""
    dice = random.Random(SEED)
    return [drawn(dice, MOST) for _ in range(count)]


def drawn(dice: random.Random, most: int) -> int:
    """One of them, of `most` tokens at most."""
    return max(1, min(most, round(dice.lognormvariate(math.log(MEDIAN), SIGMA))))


def png(picture: Image.Image) -> bytes:
    """The same pixels in a file."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
