"""What several prompts about one asset cost beside one prompt, and beside as many separate runs.

    python -m jobs.bench.prompts CHECKPOINT [--prompts N] [--new-tokens N] [--pairs N] [--dtype NAME] [--threads N]
        [--compare NAME ...]

Pictures of random pixels in eight fixed sizes; every caption has exactly as many new tokens as asked for. What is
compared runs in turns in one process; printed are medians of ratios, with their spread and both sides' seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from actors.checkpoint import geometry
from actors.replica import Replica
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import Media, Request, Sample, Size, Turn, View

SIZES = [(640, 480), (480, 640), (300, 300), (500, 375), (384, 384), (800, 600), (256, 256), (1024, 512)]
QUESTIONS = ("Describe the image in detail.", "Give the image a title.", "How many objects are in it?")
SEED = 0


def samples(tiles: Geometry) -> list[Sample]:
    """The pictures as the preprocessor hands them on."""
    dice, found = np.random.default_rng(SEED), []
    for i, (width, height) in enumerate(SIZES):
        picture = Image.fromarray(dice.integers(0, 256, (height, width, 3), np.uint8))
        crops, size = tiles.cut(picture, Media.IMAGE), Size(width, height)
        view = View(i, Media.IMAGE, f"{i:064x}", (size,), tiles.grid(size), len(crops), ())
        found.append(Sample(view, crops))
    return found


class Sides:
    """The ways of asking that are compared; each call takes seconds and captions every sample once per prompt."""

    def __init__(self, replica: Replica, pictures: Sequence[Sample], prompts: int, new_tokens: int) -> None:
        asked = [PromptConfig(q, (Turn("user", q),)) for q in (QUESTIONS * prompts)[:prompts]]
        self._replica = replica
        self._requests = [[replica.encode(one, prompt, {}) for prompt in asked] for one in pictures]
        self._settings = GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens)

    def one(self) -> float:
        """One prompt, asset by asset."""
        return self._seconds([own[:1] for own in self._requests])

    def together(self) -> float:
        """All prompts, asset by asset."""
        return self._seconds(self._requests)

    def apart(self) -> float:
        """All prompts, each in a run of its own."""
        return sum(self._seconds([[own[i]] for own in self._requests]) for i in range(len(self._requests[0])))

    def one_batch(self) -> float:
        """One prompt, all assets in one batch."""
        return self._seconds([[own[0] for own in self._requests]])

    def together_batch(self) -> float:
        """All prompts, all assets in one batch."""
        return self._seconds([[request for own in self._requests for request in own]])

    def _seconds(self, batches: Sequence[Sequence[Request]]) -> float:
        begun = time.perf_counter()
        for batch in batches:
            list(self._replica.generate(batch, self._settings))
        return time.perf_counter() - begun


COMPARED = {
    "together / one": (Sides.together, Sides.one),
    "apart / one": (Sides.apart, Sides.one),
    "together / one, all assets in a batch": (Sides.together_batch, Sides.one_batch),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compare", nargs="+", choices=COMPARED, default=list(COMPARED))
    given = parser.parse_args()
    model = ModelConfig(str(given.checkpoint), dtype=given.dtype, threads=given.threads)
    tiles, console = geometry(given.checkpoint), Console(soft_wrap=True)
    replica = Replica(model, str(given.checkpoint), tiles, given.new_tokens)
    sides = Sides(replica, samples(tiles), given.prompts, given.new_tokens)
    console.print(
        f"{given.prompts} prompts, {len(SIZES)} pictures, {given.new_tokens} new tokens each, {given.dtype}, "
        f"{torch.get_num_threads()} threads, seed {SEED}; medians of {given.pairs} pairs"
    )
    for name in given.compare:
        many, one = COMPARED[name]
        many(sides)  # warm up
        pairs = [(many(sides), one(sides)) for _ in range(given.pairs)]
        ratios = [a / b for a, b in pairs]
        seconds = " and ".join(f"{statistics.median(side):.2f} s" for side in zip(*pairs, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        console.print(f"{name}: {statistics.median(ratios):.2f} ({spread}; {seconds})")


if __name__ == "__main__":
    main()
