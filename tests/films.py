"""Small real clips whose frames can be told apart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

QUICK = {"deadline": "realtime"}  # for libvpx
SILENT = {"x265-params": "log-level=none"}


@dataclass(frozen=True)
class Film:
    """A clip to be made: frame i is gray of 4 i, with a white square top left, shown from `times_ms[i]` on."""

    container: str = "mp4"
    codec: str = "libx264"
    times_ms: Sequence[int] = field(default_factory=lambda: range(0, 2000, 40))
    start_ms: int = 0
    rotation: int = 0
    mirrored: bool = False
    options: dict[str, str] = field(default_factory=lambda: {"preset": "ultrafast"})
    container_options: dict[str, str] = field(default_factory=dict)

    def frame(self, i: int) -> av.VideoFrame:
        pixels = np.full((48, 64, 3), i * 4 % 256, np.uint8)
        pixels[:24, :32] = 255
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.time_base = Fraction(1, 1000)
        frame.pts = self.start_ms + self.times_ms[i]
        return frame

    def data(self, target: io.BytesIO | str | None = None) -> bytes:
        sink = target or io.BytesIO()
        with av.open(sink, "w", format=self.container, options=self.container_options) as out:
            encoders = {"libx264": self.options, "libx265": SILENT, "libvpx": QUICK, "libvpx-vp9": QUICK}
            options = encoders.get(self.codec)
            stream = out.add_stream(self.codec, rate=25, options=options)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
            stream.bit_rate = 400_000
            stream.codec_context.max_b_frames = 2 if self.codec in ("libx264", "mpeg4") else 0
            if self.rotation or self.mirrored:
                stream.set_display_rotation(self.rotation, hflip=self.mirrored)
            for i in range(len(self.times_ms)):
                out.mux(stream.encode(self.frame(i)))
            out.mux(stream.encode(None))
        return sink.getvalue() if isinstance(sink, io.BytesIO) else Path(sink).read_bytes()


def number(picture: Image.Image) -> int:
    """Which frame this is."""
    return round(int(np.asarray(picture)[-8:, -8:].mean()) / 4)


def white_corner(picture: Image.Image) -> str:
    pixels = np.asarray(picture)
    corners = {"top left": pixels[4, 4], "top right": pixels[4, -4], "bottom left": pixels[-4, 4],
               "bottom right": pixels[-4, -4]}  # fmt: skip
    return max(corners, key=lambda name: int(corners[name].sum()))
