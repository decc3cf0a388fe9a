"""The sandbox's child: reads requests from its standard input (a socket), decodes, answers. Trusts nobody's bytes.

It limits itself before it opens anything: address space, no files written, no core dumps, and for each request an
alarm that ends it even if its parent is gone. It ends when the socket does.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np

from actors import wire
from pipeline import image, naming, video
from pipeline.anyres import Geometry
from pipeline.config import ImageConfig, VideoConfig
from pipeline.errors import MediaError
from pipeline.types import Clip, Code, Media, Pixels, Size

GRACE_S = 5.0  # the parent's deadline comes first; this one is for a child without a parent

View = tuple[dict[str, Any], Pixels]
Answer = tuple[dict[str, Any], Pixels]
Handler = Callable[["Settings", str, Media, list[bytes]], Answer]
NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parent sends first."""

    image: ImageConfig
    video: VideoConfig
    geometry: Geometry | None
    memory_bytes: int

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> Settings:
        """From the first message's header."""
        geometry = header["geometry"]
        return cls(
            ImageConfig(**header["image"]),
            VideoConfig(**header["video"]),
            geometry and Geometry(**{name: _frozen(value) for name, value in geometry.items()}),
            header["memory_bytes"],
        )


def answer(settings: Settings, op: str, media: Media, parts: list[bytes]) -> Answer:
    """What is asked of one asset, whose media are `parts`: `op` is probe or view."""
    if op == "probe":
        is_video = media is Media.VIDEO
        look = video.probe(parts[0], settings.video) if is_video else image.probe(parts[0], settings.image)
        return {"facts": _facts(look)}, NOTHING
    assert settings.geometry is not None
    view = _view_video if media is Media.VIDEO else _view_images
    header, crops = view(settings, settings.geometry, media, parts)
    return {**header, "sha256": naming.digest(tuple(parts))}, crops.reshape(-1)


def _view_images(settings: Settings, geometry: Geometry, media: Media, parts: Sequence[bytes]) -> View:
    sizes, crops = [], []
    for part in parts:
        picture, size = image.draft(part, settings.image, partial(geometry.least, media))
        sizes.append(size)
        crops.append(geometry.cut(picture, media, size))
    grid = geometry.grid(sizes[0]) if media is Media.IMAGE else (0, 0)
    return {"facts": [asdict(size) for size in sizes], "grid": grid, "pts": []}, _joined(crops)


def _view_video(settings: Settings, geometry: Geometry, media: Media, parts: Sequence[bytes]) -> View:
    clip, frames = video.watch(parts[0], settings.video)
    crops, times = [], []
    for picture, time in frames:
        crops.append(geometry.cut(picture, media))
        times.append(time)
    return {"facts": _facts(clip), "grid": (0, 0), "pts": times}, _joined(crops)


def _joined(crops: Sequence[Pixels]) -> Pixels:
    """One array of them all; the array itself where it is one, as 31 crops are 14 MB to copy."""
    return crops[0] if len(crops) == 1 else np.concatenate(crops)


def _facts(look: Size | Clip) -> Any:
    """As JSON: a list of sizes, or a clip."""
    return asdict(look) if isinstance(look, Clip) else [asdict(look)]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def serve(handler: Handler = answer) -> None:
    """Answer requests until the parent closes the socket. A lack of memory is answered, and then ends the child."""
    sock = socket.socket(fileno=os.dup(0))
    settings = Settings.read(wire.receive(sock, lambda _: 0)[0])
    if settings.geometry:
        import_module("pipeline.resample")  # now, as it keeps what it compiles in a file
    _limit(settings.memory_bytes)
    wire.send(sock, {"ready": True})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # FFmpeg and libtiff talk; from here on nobody listens
    while True:
        try:
            request, parts = wire.receive(sock, lambda header: sum(header["sizes"]))
        except wire.WireError:
            return
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + GRACE_S)
        try:
            answers = list(_answers(handler, settings, request, parts))
        except MemoryError:
            message = f"decoding needs more than {settings.memory_bytes >> 20} MiB"
            wire.send(sock, {"code": Code.TOO_LARGE, "message": message, "exhausted": True})
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        wire.send(sock, {"answers": [said for said, _ in answers]}, [crops.data for _, crops in answers])


def _answers(
    handler: Handler, settings: Settings, request: Mapping[str, Any], parts: list[Pixels]
) -> Iterator[Answer]:
    """Of each asset of the request: the handler's answer, or code and message of why there is none."""
    left = iter(parts)
    for media, count in request["assets"]:
        own = [part.tobytes() for part in islice(left, count)]
        try:
            yield handler(settings, request["op"], Media(media), own)
        except MediaError as error:
            yield {"code": error.code, "message": error.message}, NOTHING


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    serve()
