"""Does the demo see mistakes? `python -m jobs.demo.sensitivity` makes typical ones on purpose and counts what is left.

Held-out scenes go through the geometry, the captioner and the replica of the product, once as they are and once with
each mistake. A pipeline that makes one of them shows it in the demo's accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from actors import checkpoint
from actors.captioner import Captioner
from actors.decoding import Decoder
from actors.replica import Replica, load
from actors.slots import Pass
from jobs.demo.scenes import KINDS, PROMPTS, Kind, Scene, scene
from jobs.demo.shards import SEED
from jobs.preflight import DEMO
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import (
    Asset,
    Caption,
    Cost,
    Media,
    Preparation,
    Prepared,
    Sample,
    Shard,
    ShardFormat,
    Size,
    Turn,
    Unit,
    View,
)

SCENES = 200
ASKED = "describe"  # the prompt whose answer hangs on every place and every order
SHARD = Shard("memory", "memory", "", 0, ShardFormat.TAR)
Mistake = Callable[[Sample], Sample]


class Uncounted(Decoder):
    """A decoder that counts places through all prompts of a pass: only the first prompt's are its own."""

    def _positions(self, this: Pass) -> Sequence[int]:
        return range(len(super()._positions(this)))


def sample(geometry: Geometry, position: int, pictures: Sequence[np.ndarray], kind: Kind) -> Sample:
    """Upright uint8 pictures as the preprocessor would have made them."""
    images = [Image.fromarray(picture) for picture in pictures]
    media, sizes = Media(kind), tuple(Size(*image.size) for image in images)
    crops = np.concatenate([geometry.cut(image, media) for image in images])
    grid = geometry.grid(sizes[0]) if media is Media.IMAGE else (0, 0)
    times = tuple[float, ...]()
    if media is Media.VIDEO:
        sizes, times = sizes[:1], tuple(0.25 * i for i in range(len(images)))
    return Sample(View(position, media, f"{position:064x}", sizes, grid, len(crops), times), crops)


def turned(one: Scene) -> Scene:
    """The scene as a camera held sideways stores it, its EXIF orientation lost."""
    return replace(one, pictures=tuple(np.ascontiguousarray(np.rot90(p)) for p in one.pictures))


def reordered(order: Callable[[int], Sequence[int]], one: Sample) -> Sample:
    """The sample with its crops in another order."""
    return replace(one, crops=one.crops[list(order(len(one.crops)))])


REVERSED: Mistake = partial(reordered, lambda n: range(n - 1, -1, -1))
TILES_REVERSED: Mistake = partial(reordered, lambda n: [0, *range(n - 1, 0, -1)])
BASE_LAST: Mistake = partial(reordered, lambda n: [*range(1, n), 0])


def accuracy(
    captioner: Captioner, geometry: Geometry, scenes: Sequence[Scene], mistake: Mistake | None = None
) -> float:
    """Share of scenes whose caption equals the truth."""
    samples = [sample(geometry, i, one.pictures, one.kind) for i, one in enumerate(scenes)]
    samples = [mistake(one) for one in samples] if mistake else samples
    assets = tuple(Asset("", str(i), None, (), "", 0, {}, ()) for i in range(len(samples)))
    unit = Unit("0", SHARD, 0, len(samples), Cost(0, 0, 0))
    answers = captioner.caption(Prepared(unit, assets, tuple(samples), (), Preparation(0, 0.0))).answers
    said = [a.outcome.text if isinstance(a.outcome, Caption) else "" for a in answers]
    return sum(text == one.truth[ASKED] for text, one in zip(said, scenes, strict=True)) / len(scenes)


def measure(scenes: int = SCENES) -> Mapping[str, tuple[float, float]]:
    """For each mistake, the accuracy without and with it, on `scenes` held-out scenes that it can touch."""
    geometry = checkpoint.geometry(DEMO)
    right, wrong = _captioner(geometry), _captioner(geometry, Uncounted)
    held_out = {kind: [scene(kind, SEED + i) for i in range(scenes)] for kind in KINDS}
    tiled = [scene("image", SEED + i, grid=(2 + i % 2, 2 + i // 2 % 2)) for i in range(scenes)]
    mixed = [one for trio in zip(*held_out.values(), strict=True) for one in trio][:scenes]

    def both(those: Sequence[Scene], mistake: Mistake) -> tuple[float, float]:
        return accuracy(right, geometry, those), accuracy(right, geometry, those, mistake)

    upright = accuracy(right, geometry, held_out["image"])
    return {
        "tiles in reverse order": both(tiled, TILES_REVERSED),
        "base crop last": both(tiled, BASE_LAST),
        "positions counted through the pass": (
            accuracy(right, geometry, mixed),
            accuracy(wrong, geometry, mixed),
        ),
        "EXIF orientation ignored": (
            upright,
            accuracy(right, geometry, [turned(s) for s in held_out["image"]]),
        ),
        "images in reverse order": both(held_out["images"], REVERSED),
        "frames in reverse order": both(held_out["video"], REVERSED),
    }


def _captioner(geometry: Geometry, decoder: type[Decoder] = Decoder) -> Captioner:
    settings = GenerationConfig(max_new_tokens=32)
    model = ModelConfig(path=str(DEMO), dtype="float32")

    def replica() -> Replica:
        return load(model, geometry, settings.max_new_tokens, 0.0, decoder)

    return Captioner(replica, [PromptConfig(ASKED, (Turn("user", PROMPTS[ASKED]),))], settings)


def main() -> None:
    """Print the table."""
    table = Table(
        title=f'"{ASKED}", share of right captions on {SCENES} held-out scenes', title_justify="left"
    )
    for name in ("mistake", "without", "with"):
        table.add_column(name, justify="left" if name == "mistake" else "right")
    for name, (before, after) in measure().items():
        table.add_row(name, f"{before:.1%}", f"{after:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
