"""A video container as untrusted bytes: opened under an allowlist, its packets indexed, its frames decoded.

`survey` is the first of two passes (`pipeline.video` makes the second): it reads every packet's time and
decodes one frame, because only a decoded frame tells the true size and rotation.
"""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import av.container
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config import VideoConfig
from pipeline.errors import MediaError
from pipeline.types import Clip, Code, Size

CONTAINERS = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf",
    "ogg",
)  # fmt: skip
# A script (ffconcat, SDP, HLS) named .mp4 would otherwise open local files and sockets.
OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}
MAGIC = (b"ftyp", b"moov", b"\x1aE\xdf\xa3", b"AVI ", b"FLV\x01", b"OggS")  # in the first 64 bytes
DECLARES = ("mov", "matroska", "avi", "flv", "asf")  # their headers hold the duration; others guess it
MAX_ERRORS = 64  # packets of one clip that may fail to decode before the clip counts as corrupt

Seconds = npt.NDArray[np.float64]

av.logging.set_level(None)  # FFmpeg's complaints about one clip are that clip's failure row, not log lines


@dataclass(frozen=True, slots=True)
class Index:
    """A clip's video packets in decode order: pts (stream time base), and which start a group of pictures.

    `display` lists, in display order, the decode indices of the packets that show a frame, and `times`
    their times in seconds from the first. `timed` says that a decoded frame's pts is that of its packet; it
    is not in AVI, and where pts are missing.
    """

    clip: Clip
    pts: npt.NDArray[np.int64]
    keys: npt.NDArray[np.bool_]
    display: npt.NDArray[np.int64]
    times: Seconds
    timed: bool


class _Packets:
    """What the first pass gathers; 18 bytes a packet, so that ten hours at 60 frames/s take 39 MB."""

    def __init__(self) -> None:
        self.pts, self.durations = array("q"), array("q")
        self.keys, self.shown = bytearray(), bytearray()
        self.complete = True  # every packet has a pts
        self.end_s = -math.inf  # the latest end in any stream, audio included
        self.first: VideoFrame | None = None

    def add(self, packet: av.Packet[Stream], shown: bool) -> None:
        self.complete = self.complete and packet.pts is not None
        time = packet.pts if packet.pts is not None else packet.dts
        self.pts.append(time if time is not None else self.pts[-1] + 1 if self.pts else 0)
        self.durations.append(packet.duration or 0)
        self.keys.append(packet.is_keyframe)
        self.shown.append(shown)


def open_container(data: bytes, limits: VideoConfig) -> av.container.InputContainer:
    """The container, to be closed by the caller. Raises MediaError: CORRUPT or UNIDENTIFIED."""
    options = OPTIONS | _codec_options(
        limits
    )  # FFmpeg decodes already here, in search of what headers leave open
    try:
        return av.open(io.BytesIO(data), mode="r", options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except av.FFmpegError as error:
        if any(magic in data[:64] for magic in MAGIC):
            raise MediaError(Code.CORRUPT, f"the container cannot be read: {error.strerror}") from None
        raise MediaError(Code.UNIDENTIFIED, "not a video container that is known here") from None


def video_stream(container: av.container.InputContainer, limits: VideoConfig) -> VideoStream:
    """The first video stream that is not cover art, ready to decode on this thread alone."""
    if not set(container.format.name.split(",")) <= set(CONTAINERS):
        raise MediaError(Code.UNIDENTIFIED, f"{container.format.name} is not a video container")
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(Code.NO_VIDEO_STREAM, "the container has no video stream")
    if streams[0].codec_context is None:
        raise MediaError(Code.UNSUPPORTED, "there is no decoder for the video stream")
    _check_pixels(streams[0].width, streams[0].height, limits)
    streams[0].thread_type = "SLICE"  # frame threads can hang a process that stops before the end (PyAV 1849)
    streams[0].codec_context.thread_count = 1
    streams[0].codec_context.options = _codec_options(limits)
    return streams[0]


def _codec_options(limits: VideoConfig) -> dict[str, str]:
    """FFmpeg's own limit, which holds before frames are allocated: 3 KB of H.264 else take 16 s and 3.7 GB.

    It is on coded sizes, which are rounded up to blocks of 64 x 64 at most: hence twice ours, and a little.
    """
    return {"max_pixels": str(2 * limits.max_pixels + (1 << 16))}


def _check_pixels(width: int, height: int, limits: VideoConfig) -> None:
    if width * height > limits.max_pixels:
        rule = f"[video] max_pixels = {limits.max_pixels}"
        raise MediaError(Code.TOO_LARGE, f"{width} x {height} pixels are more than {rule}")


def survey(data: bytes, limits: VideoConfig) -> Index:
    """The first pass."""
    if not data:
        raise MediaError(Code.EMPTY, "the file has no bytes")
    with open_container(data, limits) as container:
        stream = video_stream(container, limits)
        packets, decoder = _Packets(), Decoder(stream, limits)
        for packet in demux(container):
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None and packet.time_base is not None:
                packets.end_s = max(packets.end_s, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                packets.add(packet, _shows(packet, stream))
                if packets.first is None:
                    packets.first = next(iter(decoder.feed(packet)), None)
        if packets.first is None:
            packets.first = next(iter(decoder.feed(None)), None)
        return _index(container, stream, packets, decoder.errors)


def demux(container: av.container.InputContainer, *streams: VideoStream) -> Iterator[av.Packet[Stream]]:
    """Packets with data, until the file ends or cannot be read on (a hole is then noticed by its
    duration)."""
    try:
        yield from (packet for packet in container.demux(*streams) if packet.size)
    except MemoryError:
        raise
    except av.FFmpegError:
        return


def _shows(packet: av.Packet[Stream], stream: VideoStream) -> bool:
    """Whether a frame is displayed: not if an edit list cuts it or VP8 hides it (RFC 6386, 9.1: show_frame)."""
    if stream.codec_context.name in ("vp8", "libvpx"):
        return bool(memoryview(packet)[0] & 0x10)
    return not packet.is_discard


def _index(
    container: av.container.InputContainer, stream: VideoStream, packets: _Packets, errors: int
) -> Index:
    display = np.flatnonzero(np.frombuffer(bytes(packets.shown), np.bool_))
    if not len(display):
        raise MediaError(Code.NO_FRAMES, "the video stream has no frames")
    if packets.first is None:
        raise MediaError(Code.CORRUPT, f"no frame can be decoded; {errors} packets failed")
    timed = packets.complete and container.format.name != "avi"
    pts = np.frombuffer(packets.pts, np.int64)
    display = display[np.argsort(pts[display], kind="stable")]
    base = float(stream.time_base or 0) or 1 / float(stream.guessed_rate or 25)
    times = (pts[display] - pts[display[0]]) * base
    duration_s = float(times[-1]) + _last_s(times, packets.durations[int(display[-1])] * base, stream)
    _check_whole(container, packets.end_s, times)
    clip = Clip(upright_size(packets.first), duration_s, len(display))
    return Index(clip, pts, np.frombuffer(bytes(packets.keys), np.bool_), display, times, timed)


def _last_s(times: Seconds, declared_s: float, stream: VideoStream) -> float:
    """How long the last frame stays: as its packet says, else as most frames do, else by the frame rate."""
    if declared_s > 0:
        return declared_s
    return float(np.median(np.diff(times))) if len(times) > 1 else 1 / float(stream.guessed_rate or 25)


def _check_whole(container: av.container.InputContainer, end_s: float, times: Seconds) -> None:
    """TRUNCATED where every stream ends well before the declared duration.

    Well before: 5 % of it, at most 5 s, but at least 0.25 s and two of the clip's longest pauses between
    frames (a recording of a still screen has no frames to show for its last seconds).
    """
    if container.duration is None or container.format.name.split(",")[0] not in DECLARES:
        return
    declared_s = container.duration / av.time_base
    start_s = (container.start_time or 0) / av.time_base
    pause_s = float(np.max(np.diff(times))) if len(times) > 1 else 0.0
    missing_s = declared_s - (end_s - start_s)
    if missing_s > max(min(0.05 * declared_s, 5.0), 0.25, 2 * pause_s):
        raise MediaError(Code.TRUNCATED, f"the last {missing_s:.1f} s of {declared_s:.1f} s are missing")


class Decoder:
    """Decodes packets into good frames and bounds how often that may fail."""

    def __init__(self, stream: VideoStream, limits: VideoConfig) -> None:
        self.stream, self.limits, self.errors = stream, limits, 0

    def feed(self, packet: av.Packet[Stream] | None) -> list[VideoFrame]:
        """Frames that are now complete, in display order; None drains the decoder."""
        try:
            frames = self.stream.decode(packet)
        except MemoryError:
            raise
        except av.EOFError:
            return []
        except av.FFmpegError:
            self.errors += 1
            if self.errors > MAX_ERRORS:
                raise MediaError(Code.CORRUPT, f"more than {MAX_ERRORS} packets cannot be decoded") from None
            return []
        for frame in frames:
            _check_pixels(frame.width, frame.height, self.limits)
        return frames


def upright_size(frame: VideoFrame) -> Size:
    return Size(frame.height, frame.width) if orientation(frame)[2] else Size(frame.width, frame.height)


def orientation(frame: VideoFrame) -> tuple[int, int, bool]:
    """(horizontal step, vertical step, whether rows become columns first), from the nine-number display
    matrix.

    The matrix maps column p and row q of the stored frame to column a p + c q and row b p + d q of the
    displayed one, where a, b, c, d are its numbers 0, 1, 3, 4 (ISO/IEC 14496-12, 8.3.2). Angles between
    quarter turns, which no camera writes, go to the nearer one.
    """
    try:
        # PyAV declares a dictionary of one key here; it is a container of everything.
        matrix = bytes(cast(SideDataContainer, frame.side_data)[SideDataType.DISPLAYMATRIX])
    except KeyError:
        return 1, 1, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), (-1 if d < 0 else 1), False
    return (-1 if c < 0 else 1), (-1 if b < 0 else 1), True
