"""Media bytes cannot make the decoder open a file or a socket: the kernel's log says what it was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors import checkpoint
from actors.sandbox import Sandbox
from pipeline.config import ImageConfig, VideoConfig
from pipeline.errors import MediaError
from pipeline.types import Code, Media
from tests import made
from tests.films import Film
from tests.pipeline.conftest import picture
from tests.security import watched
from tests.security.conftest import Listener
from tests.security.payloads import payloads

REFUSED = {Code.UNIDENTIFIED, Code.UNSUPPORTED, Code.CORRUPT, Code.TRUNCATED, Code.NO_VIDEO_STREAM}
GOOD = {Media.IMAGE: picture(40, 30), Media.VIDEO: Film(times_ms=range(0, 400, 40)).data()}


@dataclass(frozen=True, slots=True)
class Watch:
    """A sandbox whose child is under strace, and what its child has asked the kernel for."""

    sandbox: Sandbox
    log: Path

    def asked(self) -> list[str]:
        """Every call about a file, a socket or a process so far."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if not line.partition(" ")[2].lstrip().startswith(("---", "+++"))]

    def codes(self, data: bytes) -> set[Code | None]:
        """What becomes of the bytes, looked at and decoded, as an image and as a video."""
        return {self._code(media, data, view) for media in GOOD for view in (False, True)}

    def _code(self, media: Media, data: bytes, view: bool) -> Code | None:
        try:
            self.sandbox.view(media, [data]) if view else self.sandbox.probe(media, data)
        except MediaError as error:
            return error.code
        return None


@pytest.fixture
def watch(tmp_path: Path, strace: list[str]) -> Iterator[Watch]:
    """A child that has decoded before, so that its libraries are loaded."""
    log, geometry = tmp_path / "calls", checkpoint.geometry(made.checkpoint(tmp_path / "checkpoint"))
    program = (watched.__file__, str(log), *strace)
    with Sandbox(ImageConfig(), VideoConfig(frames=4), geometry, program=program) as sandbox:
        found = Watch(sandbox, log)
        for media, data in GOOD.items():
            sandbox.probe(media, data)
            sandbox.view(media, [data])
        found.codes(b"neither")
        yield found


def test_no_payload_opens_anything(watch: Watch, tmp_path: Path, listener: Listener) -> None:
    """The file that they name is a good clip beside them."""
    (tmp_path / "clip.mp4").write_bytes(GOOD[Media.VIDEO])
    attacks = payloads(str(tmp_path / "clip.mp4"), listener.port)
    before = len(watch.asked())

    codes = {name: watch.codes(data) for name, data in attacks.items()}

    assert {name: found for name, found in codes.items() if not found <= REFUSED} == {}
    assert watch.asked()[before:] == []
    assert not listener.heard()


def test_an_opened_file_and_a_connection_would_be_seen(
    watch: Watch, tmp_path: Path, listener: Listener
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    before = len(watch.asked())

    watch.codes(watched.SIGN + f"{tmp_path}/clip.mp4 {listener.port}".encode())

    seen = "\n".join(watch.asked()[before:])
    assert f'"{tmp_path}/clip.mp4"' in seen
    assert f"sin_port=htons({listener.port})" in seen
    assert listener.heard()
