"""Inputs in small: pictures, tars, folders, and the probe that looks at them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import PIL
import pytest
from PIL import Image

from pipeline import storage
from pipeline.config import InputConfig
from pipeline.draft import Probe
from pipeline.errors import MediaError
from pipeline.types import Clip, Code, Media, Shard, ShardFormat, Size

Members = Iterable[tuple[str, bytes]]
WriteTar = Callable[[Members], Shard]


def picture(width: int = 8, height: int = 6, form: str = "JPEG", colour: int = 0) -> bytes:
    """The bytes of a small picture."""
    sink = io.BytesIO()
    Image.new("RGB", (width, height), (colour, 100, 200)).save(sink, form)
    return sink.getvalue()


def shard(path: Path, form: ShardFormat = ShardFormat.TAR) -> Shard:
    """A file as a listed shard."""
    entry = storage.info(str(path))
    return Shard(entry.uri, path.name, entry.etag, entry.size, form)


def tar_bytes(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar as Python writes it."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return sink.getvalue()


def look(media: Sequence[tuple[Media, bytes]]) -> list[Size | Clip | MediaError]:
    """A probe without a child process: Pillow for pictures; of a video, that its second word is ftyp."""
    return [_facts(kind, data) for kind, data in media]


def _facts(media: Media, data: bytes) -> Size | Clip | MediaError:
    if media is Media.VIDEO:
        if data[4:8] != b"ftyp":
            return MediaError(Code.NO_VIDEO_STREAM, "no ftyp")
        return Clip(Size(320, 240), 2.0, 50)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return Size(*image.size)
    except PIL.UnidentifiedImageError:
        return MediaError(Code.UNIDENTIFIED, "no picture")


@pytest.fixture
def probe() -> Probe:
    """What stands for the sandboxed probe."""
    return look


@pytest.fixture
def config() -> InputConfig:
    """Input settings with defaults."""
    return InputConfig(dataset="test", uris=("unused",))


@pytest.fixture
def write_tar(tmp_path: Path) -> WriteTar:
    """Writes a tar below the test's folder and returns it as a shard."""

    def write(members: Members) -> Shard:
        path = tmp_path / "000.tar"
        path.write_bytes(tar_bytes(members))
        return shard(path)

    return write


@pytest.fixture(params=["local", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new empty folder in each kind of store."""
    if request.param == "local":
        return str(tmp_path / "out")
    return str(request.getfixturevalue("s3")) if request.param == "s3" else f"memory://{tmp_path.name}"
