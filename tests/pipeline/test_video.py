"""Sampling clips by time: containers, rotation, variable rates, damage, and what must never be opened."""

from __future__ import annotations

import io
import socket
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline import video
from pipeline.config import VideoConfig
from pipeline.errors import MediaError
from pipeline.types import Clip, Code, Size
from tests.films import Film, number, white_corner

LIMITS = VideoConfig()
CONTAINERS = [
    ("mp4", "libx264"),
    ("mp4", "mpeg4"),
    ("matroska", "libx264"),
    ("webm", "libvpx"),
    ("webm", "libvpx-vp9"),
    ("avi", "mpeg4"),
    ("avi", "libx264"),
    ("mpegts", "libx264"),
    ("mpeg", "mpeg2video"),
    ("flv", "libx264"),
    ("asf", "mpeg4"),
]


MP4 = Film().data()


def refusal(data: bytes, limits: VideoConfig = LIMITS) -> MediaError:
    with pytest.raises(MediaError) as probed:
        video.probe(data, limits)
    with pytest.raises(MediaError) as sampled:
        video.sample(data, limits)
    assert probed.value.code is sampled.value.code
    return sampled.value


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_every_container_gives_frames_by_time(container: str, codec: str) -> None:
    data = Film(container, codec).data()
    clip = video.probe(data, LIMITS)
    pictures, times = video.sample(data, LIMITS)
    centres = (np.arange(16) + 0.5) * 2 / 16

    assert (clip.size, clip.n_frames) == (Size(64, 48), 50)
    assert clip.duration_s == pytest.approx(2.0, abs=0.005)
    exact_s = 0.045 if container == "mpeg" else 0.005  # not every packet of a program stream has its time
    assert times == pytest.approx(np.floor(centres / 0.04) * 0.04, abs=exact_s)
    assert [number(picture) for picture in pictures] == pytest.approx(np.floor(centres / 0.04), abs=1)
    assert len(pictures) == video.n_samples(clip, LIMITS)


@pytest.mark.parametrize("n", [1, 10, 16])
def test_a_short_clip_gives_every_frame(n: int) -> None:
    pictures, times = video.sample(Film(times_ms=range(0, 40 * n, 40)).data(), LIMITS)

    assert [number(picture) for picture in pictures] == list(range(n))
    assert times == pytest.approx(np.arange(n) * 0.04)


def test_times_count_from_the_clips_start() -> None:
    data = Film("mpegts", start_ms=7_200_000).data()

    assert video.sample(data, replace(LIMITS, frames=2))[1] == pytest.approx([0.48, 1.48])
    assert video.probe(data, LIMITS).duration_s == pytest.approx(2.0)


def test_a_variable_rate_is_sampled_by_time_not_by_index() -> None:
    times_ms = [*range(0, 400, 40), *range(4000, 5000, 120)]
    data = Film(times_ms=times_ms).data()

    assert video.sample(data, replace(LIMITS, frames=3))[1] == pytest.approx([0.36, 0.36, 4.12])


def test_frames_a_second_begin_at_zero() -> None:
    limits = VideoConfig(fps=2.0)

    assert video.sample(MP4, limits)[1] == pytest.approx([0.0, 0.48, 1.0, 1.48])
    assert video.n_samples(video.probe(MP4, limits), limits) == 4


def test_too_many_frames_a_second_are_spread_evenly() -> None:
    limits = VideoConfig(fps=20.0, max_frames=10)

    assert video.sample(MP4, limits)[1] == video.sample(MP4, VideoConfig(frames=10))[1]


@pytest.mark.parametrize("limits", [VideoConfig(frames=n) for n in (1, 7, 50, 99)] + [
    VideoConfig(fps=fps, max_frames=n) for fps in (0.1, 0.5, 3.0, 24.9, 25.0, 60.0) for n in (1, 8, 64)
])  # fmt: skip
def test_the_number_of_frames_is_known_before_decoding(limits: VideoConfig) -> None:
    for film in (Film(), Film(times_ms=[0, 40, 3000, 9000]), Film("webm", "libvpx", range(0, 330, 33))):
        data = film.data()
        pictures, times = video.sample(data, limits)

        assert len(pictures) == len(times) == video.n_samples(video.probe(data, limits), limits)


@pytest.mark.parametrize(
    ("rotation", "mirrored", "corner"),
    [
        (90, False, "bottom left"),
        (180, False, "bottom right"),
        (270, False, "top right"),
        (0, True, "top right"),
    ],
)
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_rotation_is_applied(container: str, rotation: int, mirrored: bool, corner: str) -> None:
    """PyAV's angles are counter-clockwise."""
    data = Film(container, rotation=rotation, mirrored=mirrored).data()
    picture = video.sample(data, LIMITS)[0][0]

    assert white_corner(picture) == corner
    assert Size(*picture.size) == video.probe(data, LIMITS).size


def test_hidden_reference_frames_of_vp8_are_not_counted() -> None:
    """Bit 4 of a VP8 frame's first byte says whether it is shown (RFC 6386, 9.1)."""
    data = Film("webm", "libvpx").data()
    with av.open(io.BytesIO(data), "r") as container:
        packet = bytes([packet for packet in container.demux(video=0) if packet.size][20])
    hidden = data.replace(packet, bytes([packet[0] & ~0x10]) + packet[1:])
    limits = VideoConfig(frames=99)

    assert video.probe(hidden, limits).n_frames == 49
    assert len(video.sample(hidden, limits)[0]) == 49


def test_open_groups_of_pictures_give_the_same_frames() -> None:
    data = Film(options={"x264-params": "open-gop=1:keyint=12:bframes=3"}).data()

    assert [number(p) for p in video.sample(data, VideoConfig(frames=49))[0]] == pytest.approx(
        np.floor((np.arange(49) + 0.5) * 50 / 49), abs=1
    )


def test_sampling_a_few_frames_passes_by_the_other_groups() -> None:
    """Frames taken from a long clip are those that decoding all of it gives."""
    data = Film(times_ms=range(0, 20_000, 40)).data()
    few, times = video.sample(data, VideoConfig(frames=3))
    everything, _ = video.sample(data, VideoConfig(frames=500))

    for picture, time in zip(few, times, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(everything[round(time / 0.04)]))


def test_truncation_is_noticed_from_the_missing_time(tmp_path: Path) -> None:
    film = Film(container_options={"movflags": "faststart"}, times_ms=range(0, 8000, 40))
    data = film.data(str(tmp_path / "film.mp4"))
    error = refusal(data[: len(data) * 7 // 10])

    assert error.code is Code.TRUNCATED
    assert "8.0 s" in error.message


@pytest.mark.parametrize("container", ["matroska", "flv"])
def test_half_a_stream_is_truncated(container: str) -> None:
    data = Film(container).data()

    assert refusal(data[: len(data) // 2]).code is Code.TRUNCATED


def test_a_container_that_declares_no_duration_is_taken_as_it_is() -> None:
    data = Film("mpegts").data()
    clip = video.probe(data[: len(data) * 6 // 10], LIMITS)

    assert 15 < clip.n_frames < 50
    assert len(video.sample(data[: len(data) * 6 // 10], LIMITS)[0]) == 16


def test_damaged_packets_are_passed_by() -> None:
    data = bytearray(Film("mpegts").data())
    for at in range(188 * 60 + 50, len(data), 188 * 40):
        data[at : at + 80] = bytes(80)

    assert len(video.sample(bytes(data), LIMITS)[0]) == 16


def test_a_clip_without_a_decodable_frame_is_corrupt() -> None:
    data = bytearray(MP4)
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = np.random.default_rng(0).integers(0, 256, end - start, np.uint8).tobytes()

    assert refusal(bytes(data)).code is Code.CORRUPT


def test_sound_alone_has_no_video_stream() -> None:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=44_100)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))

    assert refusal(sink.getvalue()).code is Code.NO_VIDEO_STREAM


def test_no_packets_are_no_frames() -> None:
    options = {"movflags": "empty_moov+frag_keyframe"}
    data = Film(container_options=options).data()

    assert refusal(data[: data.index(b"moof") - 4]).code in (Code.NO_FRAMES, Code.NO_VIDEO_STREAM)


def test_large_frames_are_refused() -> None:
    error = refusal(MP4, VideoConfig(max_pixels=64 * 48 - 1))

    assert error.code is Code.TOO_LARGE
    assert "64 x 48" in error.message


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", Code.EMPTY),
        (b"<html>404</html>", Code.UNIDENTIFIED),
        (bytes(1000), Code.UNIDENTIFIED),
        (MP4[: len(MP4) // 3], Code.CORRUPT),  # its index stands at the end
    ],
)
def test_other_bytes_are_refused(data: bytes, code: Code) -> None:
    assert refusal(data).code is code


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP"])
def test_an_image_named_as_a_video_is_refused(format: str) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (64, 48)).save(sink, format)

    assert refusal(sink.getvalue()).code is Code.UNIDENTIFIED


def test_scripts_that_name_files_open_none(tmp_path: Path) -> None:
    """The file that they name is a good clip: if it were opened, there would be frames."""
    (tmp_path / "clip.mp4").write_bytes(MP4)
    concat = f"ffconcat version 1.0\nfile '{tmp_path}/clip.mp4'\n".encode()
    hls = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{tmp_path}/clip.mp4\n#EXT-X-ENDLIST\n".encode()
    )

    assert refusal(concat).code is Code.UNIDENTIFIED
    assert refusal(hls).code is Code.UNIDENTIFIED


def test_a_session_description_opens_no_socket() -> None:
    """An RTP port that FFmpeg had opened could not be bound here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sdp = (
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n".encode()
    )

    assert refusal(sdp + b"a=rtpmap:96 H264/90000\n").code is Code.UNIDENTIFIED


def test_colours_keep_their_matrix() -> None:
    """BT.709 green decoded as BT.601 would be off by some 20 of 255."""
    green = np.zeros((48, 64, 3), np.uint8)
    green[..., 1] = 200
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = 1
        frame = av.VideoFrame.from_ndarray(green, format="rgb24")
        out.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        out.mux(stream.encode(None))
    picture = np.asarray(video.sample(sink.getvalue(), LIMITS)[0][0]).reshape(-1, 3).mean(0)

    assert picture == pytest.approx([0, 200, 0], abs=4)


def test_a_clip_is_watched_frame_by_frame() -> None:
    clip, frames = video.watch(MP4, LIMITS)
    picture, time = next(iter(frames))

    assert clip == Clip(Size(64, 48), 2.0, 50)
    assert picture.mode == "RGB"
    assert time == pytest.approx(0.04)
