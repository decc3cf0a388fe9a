"""From untrusted bytes to upright RGB frames with their times, or a `MediaError` that says why not.

Two passes over the bytes, neither of which seeks: one reads every packet's time (and decodes the first
frame, because only a decoded frame tells the true size and rotation), one decodes the groups of pictures
that hold a wanted frame and passes by the others. So a long clip costs its groups, not its length, and an
inexact seek cannot lie about time. Frames are chosen by time, never by index. Call these in a child process
(`actors.sandbox`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from pipeline.config import VideoConfig
from pipeline.demux import Decoder, Index, demux, open_container, orientation, survey, video_stream
from pipeline.errors import MediaError
from pipeline.types import Clip, Code

SLACK_S = 1e-6  # a frame that starts within a microsecond after the wanted time is on display


@dataclass(frozen=True, slots=True)
class _Target:
    """A frame to return: its place (pts, or place in display order) and the packet where decoding must
    begin."""

    place: int
    start: int


def probe(data: bytes, limits: VideoConfig) -> Clip:
    """Upright size (rotation applied), seconds, number of frames. Reads all packets, decodes one frame.

    Raises MediaError: EMPTY, UNIDENTIFIED (not one of `CONTAINERS`), NO_VIDEO_STREAM, UNSUPPORTED (no
    decoder), NO_FRAMES, TOO_LARGE (a frame over `limits.max_pixels`), TRUNCATED (the data ends well before
    the container's duration), CORRUPT.
    """
    return survey(data, limits).clip


def sample(data: bytes, limits: VideoConfig) -> tuple[list[Image.Image], tuple[float, ...]]:
    """`n_samples` upright RGB frames and their times in seconds from the clip's first frame. Raises as
    `probe`."""
    _, frames = watch(data, limits)
    pictures, times = [], []
    for picture, time in frames:
        pictures.append(picture)
        times.append(time)
    return pictures, tuple(times)


def watch(data: bytes, limits: VideoConfig) -> tuple[Clip, Iterator[tuple[Image.Image, float]]]:
    """As `probe` and `sample`, but frame by frame: one RGB frame is held at a time."""
    index = survey(data, limits)
    return index.clip, _frames(data, limits, index)


def n_samples(clip: Clip, limits: VideoConfig) -> int:
    """How many frames `sample` returns, from the index's facts alone."""
    return min(clip.n_frames, _slots(clip, limits))


def _slots(clip: Clip, limits: VideoConfig) -> int:
    if limits.fps == 0:
        return limits.frames
    return min(_ticks(clip, limits), limits.max_frames)


def _ticks(clip: Clip, limits: VideoConfig) -> int:
    """How often 1/fps begins within the clip, t = 0 included."""
    return max(1, math.ceil(clip.duration_s * limits.fps - SLACK_S))


def _wanted(index: Index, limits: VideoConfig) -> list[int]:
    """The chosen frames, ascending, as places in display order; a frame that stays long may be chosen
    repeatedly."""
    clip, slots = index.clip, _slots(index.clip, limits)
    if clip.n_frames <= slots:
        return list(range(clip.n_frames))
    if limits.fps > 0 and _ticks(clip, limits) <= limits.max_frames:
        at = np.arange(slots) / limits.fps
    else:
        at = (np.arange(slots) + 0.5) * clip.duration_s / slots
    places = np.searchsorted(index.times, at + SLACK_S, side="right") - 1
    return [max(int(place), 0) for place in places]


def _frames(data: bytes, limits: VideoConfig, index: Index) -> Iterator[tuple[Image.Image, float]]:
    """The second pass. A wanted frame that cannot be decoded is replaced by the last good one before it."""
    targets = deque(_target(index, place) for place in _wanted(index, limits))
    total, lost = len(targets), 0
    previous: tuple[VideoFrame, int] | None = None
    for place, frame in _placed(data, limits, index, targets):
        good = not frame.is_corrupt
        while targets and place >= targets[0].place:
            hit = place == targets[0].place and good
            chosen = (frame, place) if hit or previous is None else previous
            lost += not hit
            targets.popleft()
            yield _upright(chosen[0]), _time(index, chosen[1])
        previous = (frame, place) if good else previous
    lost += len(targets)
    if 2 * lost > total or previous is None:
        raise MediaError(Code.CORRUPT, f"{lost} of {total} frames cannot be decoded")
    for _ in targets:
        yield _upright(previous[0]), _time(index, previous[1])


def _target(index: Index, place: int) -> _Target:
    """Decoding starts at the key frame before the frame, or one earlier if the frame is shown before its
    key frame."""
    if not index.timed:
        return _Target(place, 0)
    packet = int(index.display[place])
    keys = np.flatnonzero(index.keys[: packet + 1])
    if len(keys) and index.pts[packet] < index.pts[keys[-1]]:
        keys = keys[:-1]
    return _Target(int(index.pts[packet]), int(keys[-1]) if len(keys) else 0)


def _placed(
    data: bytes, limits: VideoConfig, index: Index, targets: deque[_Target]
) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames in display order with their places; packets that no remaining target needs are passed
    by."""
    with open_container(data, limits) as container:
        decoder = Decoder(video_stream(container, limits), limits)
        feeding, shown = False, 0
        for i, packet in enumerate(demux(container, decoder.stream)):
            if not targets:
                return
            if not feeding and i >= targets[0].start:
                decoder.stream.codec_context.flush_buffers()
            feeding = i >= targets[0].start
            for frame in decoder.feed(packet) if feeding else ():
                yield (frame.pts or 0) if index.timed else shown, frame
                shown += 1
        for frame in decoder.feed(None) if feeding else ():
            yield (frame.pts or 0) if index.timed else shown, frame
            shown += 1


def _time(index: Index, place: int) -> float:
    """Seconds from the first frame of the frame at `place`."""
    at = int(np.searchsorted(index.pts[index.display], place)) if index.timed else place
    return float(index.times[min(at, len(index.times) - 1)])


def _upright(frame: VideoFrame) -> Image.Image:
    """RGB pixels as displayed."""
    try:
        pixels = frame.to_ndarray(format="rgb24", threads=1)
    except MemoryError:
        raise
    except av.FFmpegError as error:  # damaged headers name colour spaces that do not exist
        raise MediaError(Code.CORRUPT, f"a frame cannot be turned into RGB: {error.strerror}") from None
    across, down, swapped = orientation(frame)
    if swapped:
        pixels = pixels.transpose(1, 0, 2)
    return Image.fromarray(np.ascontiguousarray(pixels[::down, ::across]))
