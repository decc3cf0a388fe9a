"""Small pictures of assets to look at, decoded like everything else from strangers: in a child process.

This module is also that child's program: `python -m actors.thumbnails`. Pixels come back raw; what a browser is given
is encoded here, outside, so that nothing the child wrote is handed on as a file.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from actors.sandbox import Asked, Sandbox
from actors.sandboxed import NOTHING, Answer, Settings, serve
from pipeline import image, video
from pipeline.config import ImageConfig, VideoConfig
from pipeline.errors import MediaError
from pipeline.types import Media, Pixels, Size

PROGRAM = ("-m", "actors.thumbnails")
SIDE = 320  # pixels of the longer side: 160 on a phone's screen
FRAME = 160
MOST = 8  # pictures of an asset of several
QUALITY = 60  # of WebP: some 8 kB for 320 x 240


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A WebP file, and the size of its picture; `at_s` is a frame's time in seconds from the clip's start."""

    data: bytes
    size: Size
    at_s: float | None


class Thumbnailer(Sandbox):
    """A sandbox that shrinks. For one thread; a context manager, or `close` it."""

    def __init__(self, video_config: VideoConfig, side: int = SIDE) -> None:
        # of a JPEG that is shrunk anyway, a quarter of the pixels is enough
        super().__init__(ImageConfig(decode="fast"), video_config, program=(*PROGRAM, str(side)))
        self._most = max(MOST, self._frames) * side * side * 3

    def __enter__(self) -> Thumbnailer:
        return self

    def thumbnails(self, media: Media, members: Sequence[bytes]) -> list[Thumbnail] | MediaError:
        """Of an image one, of several up to `MOST`, of a video its frames; or why there are none."""
        asked: Asked = (media, members)
        (outcome,) = self._call("thumbnail", [asked], [self._most], _read)
        return outcome


def _read(answer: Mapping[str, Any], pixels: Pixels) -> list[Thumbnail]:
    """The child's answer: sizes, times, and the pixels of all pictures one after another."""
    shapes = [(int(height), int(width), 3) for width, height in answer["shapes"]]
    times = [None if at is None else float(at) for at in answer["times"]]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    parts = np.split(pixels, ends[:-1]) if shapes else []
    return [
        Thumbnail(_webp(part.reshape(shape)), Size(shape[1], shape[0]), at)
        for part, shape, at in zip(parts, shapes, times, strict=True)
    ]


def _webp(pixels: Pixels) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "WEBP", quality=QUALITY, method=2)
    return sink.getvalue()


def answer(side: int, settings: Settings, op: str, media: Media, parts: list[bytes]) -> Answer:
    """In the child: the asset's pictures, shrunk to `side`, frames to `FRAME` at most."""
    if media is Media.VIDEO:
        _, frames = video.watch(parts[0], settings.video)
        shrunk: list[tuple[Pixels, float | None]] = [
            (_shrunk(picture, min(side, FRAME)), at) for picture, at in frames
        ]
    else:
        least = partial(_fitted, side=side)
        shrunk = [(_shrunk(image.draft(part, settings.image, least)[0], side), None) for part in parts[:MOST]]
    told = {"shapes": [pixels.shape[1::-1] for pixels, _ in shrunk], "times": [at for _, at in shrunk]}
    joined = np.concatenate([pixels.reshape(-1) for pixels, _ in shrunk]) if shrunk else NOTHING
    return told, joined


def _shrunk(picture: Image.Image, side: int) -> Pixels:
    size = _fitted(Size(*picture.size), side)
    return np.asarray(picture.resize((size.width, size.height), Image.Resampling.BILINEAR, reducing_gap=2.0))


def _fitted(size: Size, side: int) -> Size:
    scale = min(1.0, side / max(size.width, size.height))
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


if __name__ == "__main__":
    serve(partial(answer, int(sys.argv[1])))
