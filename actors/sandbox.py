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
from pipeline.draft import Probe
from pipeline.errors import MediaError, RunError
from pipeline.types import Clip, Code, Media, Pixels, Size

PROGRAM = ("-m", "actors.sandboxed")
START_S = 60.0  # for a child's imports; they take 0.4 s on a quiet machine
# A new child now and then bounds what decoders leak, for 0.005 ms an asset. 56,000 pictures in seven formats, a third
# of them cut short, left nothing behind; 2,500 clips 1 KB each.
MAX_SERVED = 100_000
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG")  # of the environment: what a Python may need to start

T = TypeVar("T")
Reader = Callable[[Mapping[str, Any], Pixels], T]
Asked = tuple[Media, Sequence[bytes]]  # one asset: its kind, and its media members


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
        """`probes` of one. Raises what is wrong with it."""
        (outcome,) = self.probes([(media, data)])
        if isinstance(outcome, MediaError):
            raise outcome
        return outcome

    def probes(self, media: Sequence[tuple[Media, bytes]]) -> list[Size | Clip | MediaError]:
        """The facts of images (`Media.IMAGE`) and clips (`Media.VIDEO`), as `pipeline.image` and `.video` have them.

        In the place of one that has none, why: the MediaError of those, or DECODER_CRASHED, DECODER_TIMEOUT, TOO_LARGE
        (for want of memory). Raises RunError where no child can be started.
        """

        def read(answer: Mapping[str, Any], _: Pixels) -> Size | Clip:
            facts = _facts(answer["facts"])
            return facts if isinstance(facts, Clip) else facts[0]

        return self._call("probe", [(kind, [data]) for kind, data in media], [0] * len(media), read)

    def view(self, media: Media, members: Sequence[bytes]) -> Seen:
        """`views` of one. Raises what is wrong with it."""
        (outcome,) = self.views([(media, members)])
        if isinstance(outcome, MediaError):
            raise outcome
        return outcome

    def views(self, assets: Sequence[Asked]) -> list[Seen | MediaError]:
        """Decode each asset's members and cut them into crops; in the place of one that fails, why, as in `probes`."""
        if self._geometry is None:
            raise ValueError("a sandbox without geometry can only probe")
        tile = self._geometry.tile
        most = [self._most_crops(self._geometry, *asset) * tile**2 * 3 for asset in assets]

        def read(answer: Mapping[str, Any], pixels: Pixels) -> Seen:
            rows, columns = map(int, answer["grid"])
            times = tuple(map(float, answer["pts"]))
            crops = pixels.reshape(-1, tile, tile, 3)
            return Seen(str(answer["sha256"]), _facts(answer["facts"]), (rows, columns), times, crops)

        return self._call("view", assets, most, read)

    def _most_crops(self, geometry: Geometry, media: Media, members: Sequence[bytes]) -> int:
        tiles = max(height * width for height, width in geometry.pinpoints) // geometry.tile**2
        pictures = self._frames if media is Media.VIDEO else len(members)
        return pictures * (1 + tiles if geometry.tiled(media) else 1)

    def _call(
        self, op: str, assets: Sequence[Asked], most: Sequence[int], read: Reader[T]
    ) -> list[T | MediaError]:
        """Ask the child of all at once; where it is lost over them, a fresh one of each alone: whose fault is it?

        All together have the deadline of one: who wants them together sees to it that they are small.
        """
        videos = any(media is Media.VIDEO for media, _ in assets)
        timeout_s = self._video.timeout_s if videos else self._image.timeout_s
        child = self._ready()
        proven = len(assets) == 1 and not child.served
        try:
            return child.ask(op, timeout_s, assets, most, read)
        except TimeoutError:
            fault = MediaError(Code.DECODER_TIMEOUT, f"decoding took longer than {timeout_s:g} s")
            proven = len(assets) == 1
        except _Lost as error:
            fault = MediaError(error.code, error.message)
        self.close()
        if proven:
            return [fault]
        alone = zip(assets, most, strict=True)
        return [one for asset, bound in alone for one in self._call(op, [asset], [bound], read)]

    def _ready(self) -> _Child:
        """The child, or a new one if there is none, or it has served long, or it has died in the meantime."""
        if self._child is not None and (self._child.served >= MAX_SERVED or self._child.has_ended()):
            self.close()
        if self._child is None:
            self._child = _Child(self._program, self._settings)
        return self._child


def prober(image: ImageConfig, video: VideoConfig) -> Probe:
    """`Sandbox.probes` of a sandbox of its own, for who needs headers only."""
    return Sandbox(image, video).probes


class _Lost(MediaError):
    """The child is of no use any more, and why."""


class _Child:
    """One child process: started, asked, ended. Counts the assets that it was asked of."""

    def __init__(self, program: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.served = 0
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

    def ask(
        self, op: str, timeout_s: float, assets: Sequence[Asked], most: Sequence[int], read: Reader[T]
    ) -> list[T | MediaError]:
        """What `read` makes of the answer about each asset, of at most so many bytes. Raises TimeoutError or _Lost."""
        self.served += len(assets)
        deadline = time.monotonic() + timeout_s
        asked = [(media, len(members)) for media, members in assets]
        request = {"op": op, "timeout_s": timeout_s, "assets": asked}
        try:
            wire.send(self._sock, request, [part for _, members in assets for part in members], deadline)
            reply, pixels = wire.receive(self._sock, lambda _: sum(most), deadline)
            if "exhausted" in reply:
                raise _Lost(Code(reply["code"]), str(reply["message"]))
            if any(len(own) > bound for own, bound in zip(pixels, most, strict=True)):
                raise ValueError("more pixels than the asset can have")
            answers = zip(reply["answers"], pixels, strict=True)
            return [_refusal(said) if "code" in said else read(said, own) for said, own in answers]
        except wire.WireError as error:
            raise _Lost(Code.DECODER_CRASHED, f"the decoder process: {error}{self._fate()}") from None
        except (LookupError, ValueError, TypeError):
            raise _Lost(Code.DECODER_CRASHED, "the decoder process answered nonsense") from None

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


def _refusal(said: Mapping[str, Any]) -> MediaError:
    return MediaError(Code(said["code"]), str(said["message"]))


def _facts(table: Any) -> tuple[Size, ...] | Clip:
    """From the child's JSON. Raises LookupError, ValueError or TypeError where it is something else."""
    if isinstance(table, list):
        return tuple(Size(int(size["width"]), int(size["height"])) for size in table)
    size = Size(int(table["size"]["width"]), int(table["size"]["height"]))
    return Clip(size, float(table["duration_s"]), int(table["n_frames"]))
