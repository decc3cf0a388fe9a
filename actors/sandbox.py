"""Decodes untrusted bytes in a child process with a deadline, so that one bad asset costs one failure row.

The child (`actors.sandboxed`) is started by `subprocess`, never forked, in an environment without credentials. It
answers in JSON and raw bytes that are checked here. When it crashes, hangs or runs out of memory it is ended, and the
next call starts another. A child that has decoded other assets may have been harmed by one of them: a crash or a lack
of memory is an asset's fault only in a fresh child, so it gets one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from actors import wire
from pipeline.anyres import Geometry
from pipeline.config import GIB, ImageConfig, VideoConfig
from pipeline.errors import MediaError, RunError
from pipeline.types import Clip, Code, Media, Pixels, Size

PROGRAM = ("-m", "actors.sandboxed")
START_S = 60.0  # for a child's imports; they take 0.4 s on a quiet machine
MAX_CALLS = 5_000  # a new child now and then bounds what decoders leak, for 0.1 ms a call
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG")  # of the environment: what a Python may need to start

T = TypeVar("T")
Reader = Callable[[Mapping[str, Any], list[Pixels]], T]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was decoded: digest of those very bytes (as `Asset.sha256`), facts as `Asset.facts`, and pixels.

    `crops` is uint8 (n, tile, tile, 3); `grid` and `frame_pts_s` are as in `View`.
    """

    sha256: str
    facts: tuple[Size, ...] | Clip
    grid: tuple[int, int]
    frame_pts_s: tuple[float, ...]
    crops: Pixels


class Sandbox:
    """A decoder that may be handed anything. For one thread; a context manager, or `close` it.

    Without `geometry` it can only probe. `memory_bytes` bounds the child's address space. `program` is what Python
    runs as the child; tests pass one that misbehaves.
    """

    def __init__(
        self,
        image: ImageConfig,
        video: VideoConfig,
        geometry: Geometry | None = None,
        *,
        memory_bytes: int = 4 * GIB,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._image, self._video, self._geometry = image, video, geometry
        self._settings = {
            "image": asdict(image),
            "video": asdict(video),
            "geometry": geometry and asdict(geometry),
            "memory_bytes": memory_bytes,
        }
        self._frames = max(video.frames, video.max_frames)
        self._program = tuple(program)
        self._child: _Child | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one. A later call starts another."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def probe(self, media: Media, data: bytes) -> Size | Clip:
        """The facts of one image (`Media.IMAGE`) or clip (`Media.VIDEO`), as `pipeline.image` and `.video` have them.

        Raises MediaError as they do, and DECODER_CRASHED, DECODER_TIMEOUT, TOO_LARGE (for want of memory). RunError
        where no child can be started.
        """

        def read(answer: Mapping[str, Any], _: list[Pixels]) -> Size | Clip:
            facts = _facts(answer["facts"])
            return facts if isinstance(facts, Clip) else facts[0]

        return self._call({"op": "probe", "media": media}, [data], 0, read)

    def view(self, media: Media, members: Sequence[bytes]) -> Seen:
        """Decode an asset's members and cut them into crops. Raises as `probe` does."""
        if self._geometry is None:
            raise ValueError("a sandbox without geometry can only probe")
        tile = self._geometry.tile
        tiles = max(height * width for height, width in self._geometry.pinpoints) // tile**2
        pictures = self._frames if media is Media.VIDEO else len(members)
        most = pictures * (1 + tiles if self._geometry.tiled(media) else 1)

        def read(answer: Mapping[str, Any], parts: list[Pixels]) -> Seen:
            rows, columns = map(int, answer["grid"])
            times = tuple(map(float, answer["pts"]))
            crops = parts[0].reshape(-1, tile, tile, 3)
            return Seen(str(answer["sha256"]), _facts(answer["facts"]), (rows, columns), times, crops)

        return self._call({"op": "view", "media": media}, members, most * tile**2 * 3, read)

    def _call(self, request: Mapping[str, Any], members: Sequence[bytes], most: int, read: Reader[T]) -> T:
        """Ask the child, and once more a fresh one where the fault may be an earlier asset's."""
        timeout_s = self._video.timeout_s if request["media"] is Media.VIDEO else self._image.timeout_s
        child = self._ready()
        try:
            return child.ask({**request, "timeout_s": timeout_s}, members, most, read)
        except TimeoutError:
            self.close()
            raise MediaError(Code.DECODER_TIMEOUT, f"decoding took longer than {timeout_s:g} s") from None
        except _Lost as error:
            self.close()
            if child.calls == 1:
                raise MediaError(error.code, error.message) from None
            return self._call(request, members, most, read)

    def _ready(self) -> _Child:
        """The child, or a new one if there is none, or it has served long, or it has died in the meantime."""
        if self._child is not None and (self._child.calls >= MAX_CALLS or self._child.has_ended()):
            self.close()
        if self._child is None:
            self._child = _Child(self._program, self._settings)
        return self._child


def prober(image: ImageConfig, video: VideoConfig) -> Callable[[Media, bytes], Size | Clip]:
    """`Sandbox.probe` of a sandbox of its own, for who needs headers only."""
    return Sandbox(image, video).probe


class _Lost(MediaError):
    """The child is of no use any more, and why."""


class _Child:
    """One child process: started, asked, ended. Counts its calls."""

    def __init__(self, program: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.calls = 0
        self._sock, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *program],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
                process_group=0,  # Ctrl-C is for the parent; here it would look like a crash
            )
        try:
            deadline = time.monotonic() + START_S
            wire.send(self._sock, settings, deadline=deadline)
            wire.receive(self._sock, lambda _: 0, deadline)
        except (TimeoutError, wire.WireError) as error:
            reason = self._complaint() or repr(error)
            raise RunError(f"the decoder process does not start: {reason}") from None
        finally:
            assert self._process.stderr is not None
            self._process.stderr.close()

    def ask(self, request: Mapping[str, Any], members: Sequence[bytes], most: int, read: Reader[T]) -> T:
        """What `read` makes of the answer to `request`. Raises MediaError, TimeoutError, or _Lost."""
        self.calls += 1
        deadline = time.monotonic() + float(request["timeout_s"])
        try:
            wire.send(self._sock, request, members, deadline)
            answer, parts = wire.receive(self._sock, lambda _: most, deadline)
            if "code" not in answer:
                return read(answer, parts)
            code, message, exhausted = Code(answer["code"]), str(answer["message"]), "exhausted" in answer
        except wire.WireError as error:
            raise _Lost(Code.DECODER_CRASHED, f"the decoder process: {error}{self._fate()}") from None
        except (LookupError, ValueError, TypeError):
            raise _Lost(Code.DECODER_CRASHED, "the decoder process answered nonsense") from None
        raise _Lost(code, message) if exhausted else MediaError(code, message)

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Kill the process and wait for it."""
        self._sock.close()
        self._process.kill()
        self._process.wait()

    def _fate(self) -> str:
        """How the process ended, in words; "" if it has not."""
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return ""
        return f" ({signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"

    def _complaint(self) -> str:
        """The last line that a child wrote which did not start."""
        self.end()
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


def _environment() -> dict[str, str]:
    """What the child sees: our module path, one thread, and no credentials."""
    path = [str(Path(__file__).resolve().parents[1]), *(os.path.abspath(entry) for entry in sys.path)]
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(path), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _facts(table: Any) -> tuple[Size, ...] | Clip:
    """From the child's JSON. Raises LookupError, ValueError or TypeError where it is something else."""
    if isinstance(table, list):
        return tuple(Size(int(size["width"]), int(size["height"])) for size in table)
    size = Size(int(table["size"]["width"]), int(table["size"]["height"]))
    return Clip(size, float(table["duration_s"]), int(table["n_frames"]))
