"""Our side: assets as a real shard, through index, preprocessor, replica and captioner; and the tables to print."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from actors.checkpoint import geometry
from actors.preprocessor import Preprocessor
from actors.replica import Replica
from actors.sandbox import Sandbox
from pipeline.anyres import Geometry
from pipeline.config import ImageConfig, InputConfig, ModelConfig, VideoConfig
from pipeline.index import scan
from pipeline.shards import list_shards
from pipeline.types import Cost, Media, Pixels, Prepared, Unit
from tests.checkpoints import Asked

NEW_TOKENS = 12
FRAMES = VideoConfig(frames=32)  # of shorter clips, all


def replica(folder: Path, dtype: str = "float32") -> Replica:
    """The checkpoint as a captioner loads it."""
    return Replica(ModelConfig(str(folder), dtype=dtype), str(folder), geometry(folder), NEW_TOKENS)


def prepared(asked: Sequence[Asked], tiles: Geometry, folder: Path) -> Prepared:
    """The assets as one work unit behind the preprocessor: written to a tar, indexed, read, decoded, cut."""
    tar = folder / "assets.tar"
    with tarfile.open(tar, "w") as archive:
        for name, data in _members(asked):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (shard,) = list_shards([str(tar)])
    with Sandbox(ImageConfig(), FRAMES) as sandbox:
        assets = list(scan(shard, InputConfig("conformance", (str(tar),)), sandbox.probes))
    with Preprocessor(ImageConfig(), FRAMES, tiles) as preprocessor:
        return preprocessor.prepare(Unit("unit", shard, 0, len(assets), Cost(0, 0, 0)), assets)


def _members(asked: Sequence[Asked]) -> Iterator[tuple[str, bytes]]:
    """Members of a shard, one key an asset, that decode to the very pixels."""
    for i, one in enumerate(asked):
        if one.media is Media.VIDEO:
            yield f"{i:04d}.mov", film(one.pictures)
        else:
            yield from ((f"{i:04d}.{n}.png", _png(pixels)) for n, pixels in enumerate(one.pictures))


def _png(pixels: Pixels) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def film(frames: Sequence[Pixels]) -> bytes:
    """A clip of 25 frames a second without loss: each frame is a PNG."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mov") as out:
        stream = out.add_stream("png", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return sink.getvalue()


def normalised(crops: Pixels, tiles: Geometry) -> npt.NDArray[np.float32]:
    """Our crops as the tower sees them: (n, 3, tile, tile)."""
    mean, std = np.asarray(tiles.mean, np.float32), np.asarray(tiles.std, np.float32)
    whole: npt.NDArray[np.float32] = (crops.astype(np.float32) / np.float32(255) - mean) / std
    return whole.transpose(0, 3, 1, 2)
