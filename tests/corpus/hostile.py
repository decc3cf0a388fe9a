"""A decoder process that really crashes, hangs and eats memory when a picture asks for it; else the real one.

Run as a program, this file is the sandbox's child. The pictures are good PNGs with a comment, so that the index calls
them good and only decoding shows what they are.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Mapping

from PIL import PngImagePlugin

from actors import sandboxed
from actors.preprocessor import Preprocessor
from actors.sandbox import Sandbox
from pipeline.anyres import Geometry
from pipeline.commit import Parts
from pipeline.config import ImageConfig, VideoConfig
from pipeline.types import Media
from tests.corpus.entries import Asset, failed, picture

SIGN = b"captionmill does: "


def _hang() -> None:
    """In native code that no Python signal handler interrupts."""
    libc = ctypes.CDLL(None)
    while True:
        libc.sleep(3600)


def _eat() -> None:
    """Pages that are really touched, until there are no more."""
    held = []
    while True:
        held.append(b"\1" * (256 << 20))


ACTS: Mapping[str, tuple[Callable[[], object], str]] = {
    "reads_address_0": (lambda: ctypes.string_at(0), "decoder_crashed"),
    "aborts": (os.abort, "decoder_crashed"),
    "is_killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "decoder_crashed"),
    "exits": (lambda: os._exit(0), "decoder_crashed"),
    "stops": (lambda: os.kill(os.getpid(), signal.SIGSTOP), "decoder_timeout"),
    "hangs": (_hang, "decoder_timeout"),
    "eats_memory": (_eat, "too_large"),
}


def assets() -> Mapping[str, Asset]:
    """One for each act."""
    return {
        f"decoder_{name}": Asset((("png", _asking(name)),), failed(code)) for name, (_, code) in ACTS.items()
    }


def _asking(name: str) -> bytes:
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Comment", SIGN.decode() + name)
    return picture(77, pnginfo=comment)


def obey(settings: sandboxed.Settings, op: str, media: Media, parts: list[bytes]) -> sandboxed.Answer:
    """Do what a picture asks for, when it is decoded."""
    _, sign, rest = parts[0].partition(SIGN)
    if sign and op == "view":
        act = next(act for name, (act, _) in ACTS.items() if rest.startswith(name.encode()))
        act()
    return sandboxed.answer(settings, op, media, parts)


class Obedient(Preprocessor):
    """The real preprocessor with this decoder."""

    def __init__(
        self, image: ImageConfig, video: VideoConfig, geometry: Geometry, parts: Parts | None = None
    ) -> None:
        super().__init__(image, video, geometry, parts)
        self._sandbox = Sandbox(image, video, geometry, memory_bytes=1 << 30, program=(__file__,))


if __name__ == "__main__":
    sandboxed.serve(obey)
