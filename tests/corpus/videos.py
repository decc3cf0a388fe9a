"""Bad clips: cut, damaged, mislabelled, lying, or no clips at all."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from tests.corpus.entries import CAPTIONED, HTML, Asset, Outcome, box, failed, picture
from tests.films import Film

SHORT = range(0, 480, 40)
MP4 = Film().data()
FRAGMENTED = Film(container_options={"movflags": "empty_moov+frag_keyframe"}).data()
TS = Film("mpegts").data()


def sound(form: str = "mp4", codec: str = "aac") -> bytes:
    """A clip without pictures."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=form) as out:
        stream = out.add_stream(codec, rate=44_100)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return sink.getvalue()


def _noise_for_packets() -> bytes:
    """Every packet is noise; the index says where each is."""
    data, noise = bytearray(MP4), np.random.default_rng(0)
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = noise.bytes(end - start)
    return bytes(data)


def _holes() -> bytes:
    data = bytearray(TS)
    for at in range(188 * 60 + 50, len(data), 188 * 40):
        data[at : at + 80] = bytes(80)
    return bytes(data)


def _ten_bits() -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        for i in range(10):
            pixels = np.full((48, 64, 3), i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    return sink.getvalue()


def _renamed(old: bytes, new: bytes, data: bytes = MP4) -> bytes:
    assert old in data
    return data.replace(old, new)


def _sizes_that_lie() -> bytes:
    """stsz: every packet has 2 GB."""
    data = bytearray(MP4)
    at = data.index(b"stsz") + 8
    data[at : at + 4] = struct.pack(">I", (1 << 31) - 1)
    return bytes(data)


def _table(kind: bytes, count: int) -> bytes:
    """A table of the index that announces so many entries."""
    data = bytearray(MP4)
    at = data.index(kind) + 8
    data[at : at + 4] = struct.pack(">I", count)
    return bytes(data)


def _years() -> bytes:
    """stts: each of 50 frames is shown for 2^31 ticks of 1/12800 s: 97 days, and the header says 2 s."""
    data = bytearray(MP4)
    at = data.index(b"stts") + 16
    data[at : at + 4] = struct.pack(">I", (1 << 31) - 1)
    return bytes(data)


def _width(width: int, height: int) -> bytes:
    """The container says so; the stream is 64 x 48."""
    data = bytearray(MP4)
    at = data.index(b"avc1") + 28
    data[at : at + 4] = struct.pack(">HH", width, height)
    return bytes(data)


def _bits(*codes: tuple[int, int] | int) -> bytes:
    """(value, width) in plain bits, or a number in Exp-Golomb code; then the stop bit."""
    text = ""
    for code in codes:
        if isinstance(code, tuple):
            text += format(code[0], f"0{code[1]}b")
        else:
            text += "0" * ((code + 1).bit_length() - 1) + format(code + 1, "b")
    text += "1"
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _giant_stream(side: int) -> bytes:
    """A raw stream in MPEG-TS whose own header says `side` x `side` pixels, in macroblocks of 16 (H.264, 7.3.2.1)."""
    blocks = side // 16 - 1
    setting = b"\x67" + _bits((66, 8), (0, 8), (62, 8), 0, 0, 2, 16, (0, 1), blocks, blocks, (1, 1), (1, 1),
                              (0, 1), (0, 1))  # fmt: skip
    data = Film(
        "h264", options={"preset": "ultrafast", "profile": "baseline", "bframes": "0"}, times_ms=SHORT
    ).data()
    units = data.split(b"\0\0\0\1")
    return _muxed(b"\0\0\0\1".join(setting if unit[:1] == b"\x67" else unit for unit in units))


def _muxed(stream: bytes) -> bytes:
    """An H.264 stream in MPEG-TS, as it is."""
    sink = io.BytesIO()
    good = Film("mpegts", options={"preset": "ultrafast", "profile": "baseline"}, times_ms=SHORT).data()
    with av.open(io.BytesIO(good)) as source, av.open(sink, "w", format="mpegts") as out:
        stream_out = out.add_stream_from_template(source.streams.video[0])
        packet = av.Packet(stream)
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream_out, 0, 0, True
        packet.time_base = Fraction(1, 90_000)
        out.mux(packet)
    return sink.getvalue()


def _cover_only() -> bytes:
    """Music with a picture of its record."""
    sink = io.BytesIO()
    with av.open(io.BytesIO(sound()), "r") as source, av.open(sink, "w", format="mp4") as out:
        audio = out.add_stream_from_template(source.streams.audio[0])
        cover = out.add_stream("mjpeg", rate=1, options={"strict": "unofficial"})
        assert isinstance(cover, av.VideoStream)
        cover.width, cover.height, cover.pix_fmt = 40, 30, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(picture(5, "JPEG"))
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        out.mux(packet)
        for heard in source.demux(source.streams.audio[0]):
            if heard.size:
                heard.stream = audio
                out.mux(heard)
    return sink.getvalue()


def _nested(depth: int, kind: bytes = b"moov") -> bytes:
    """Boxes in boxes in boxes."""
    head = b"".join(struct.pack(">I", 8 * (depth - i)) + kind for i in range(depth))
    return box(b"ftyp", b"isom\0\0\2\0isom") + head


def _gap() -> bytes:
    """An hour passes between two frames."""
    return Film(times_ms=[*range(0, 400, 40), *range(3_600_000, 3_600_400, 40)]).data()


def _animated(form: str) -> bytes:
    sink = io.BytesIO()
    frames = [Image.new("P", (16, 16), i) for i in range(3)]
    frames[0].save(sink, form, save_all=True, append_images=frames[1:])
    return sink.getvalue()


def _one(data: bytes, outcome: Outcome) -> Asset:
    return Asset((("mp4", data),), outcome)


def _refused(code: str, **files: bytes) -> dict[str, Asset]:
    return {name: _one(data, failed(code)) for name, data in files.items()}


def _taken(**files: bytes) -> dict[str, Asset]:
    return {name: _one(data, CAPTIONED) for name, data in files.items()}


def assets() -> Mapping[str, Asset]:
    """Each by its name, which is its key."""
    return {
        **_refused("empty_input", clip_of_zero_bytes=b""),
        **_refused(
            "unidentified",
            clip_html_page=HTML,
            clip_random_bytes=np.random.default_rng(1).bytes(5000),
            clip_of_zeros=bytes(5000),
            photo_named_mp4=picture(3, "JPEG"),
            gif_named_mp4=_animated("GIF"),
            ffconcat_script=b"ffconcat version 1.0\nfile '/etc/passwd'\n",
            hls_playlist=b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
            dash_manifest=b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>',
            session_description=b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            b"m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            subtitles=b"1\n00:00:00,000 --> 00:00:02,000\nhello\n",
        ),
        **_refused("no_video_stream", sound_only=sound(), sound_with_a_cover=_cover_only()),
        **_refused(
            "no_frames",
            header_without_frames=FRAGMENTED[: FRAGMENTED.index(b"moof") - 4],
            packets_of_2_gb=_sizes_that_lie(),
        ),
        **_refused("unsupported_format", codec_that_nobody_knows=_renamed(b"avc1", b"zzzz")),
        **_refused(
            "corrupt",
            index_is_missing=MP4[: MP4.index(b"moov") - 4],
            file_type_and_nothing_else=MP4[:32],
            packets_of_noise=_noise_for_packets(),
            boxes_in_boxes=_nested(20_000),
            matroska_of_rubbish=b"\x1aE\xdf\xa3" + b"\xff" * 500,
        ),
        **_refused(
            "truncated",
            fragments_cut=FRAGMENTED[: len(FRAGMENTED) * 2 // 3],
            matroska_cut=Film("matroska").data()[:3000],
            avi_cut=Film("avi", "mpeg4").data()[:6000],
            flash_cut=Film("flv", "flv").data()[:4000],
        ),
        **_refused("too_large", stream_of_256_megapixels=_giant_stream(16_000)),
        **_refused("too_large", table_of_4_billion_durations=_table(b"stts", (1 << 32) - 1)),
        **_taken(
            size_in_the_container_lies=_width(640, 480),
            holes_in_a_transport_stream=_holes(),
            transport_stream_cut=TS[: len(TS) * 2 // 3],
            hour_between_two_frames=_gap(),
            frames_for_years=_years(),
            frames_of_1600_megapixels_says_the_container=_width(40_000, 40_000),
            single_frame=Film(times_ms=[0]).data(),
            two_frames_at_once=Film("matroska", times_ms=[0, 0, 40, 40]).data(),
            uneven_frames=Film("matroska", "libvpx", times_ms=[0, 40, 50, 700, 710, 1900]).data(),
            begins_after_two_hours=Film("mpegts", start_ms=7_200_000).data(),
            turned_by_90_degrees=Film(rotation=90).data(),
            mirrored=Film(mirrored=True).data(),
            ten_bits_a_sample=_ten_bits(),
            matroska_named_mp4=Film("matroska", "libvpx").data(),
            junk_behind_the_clip=MP4 + HTML * 50,
        ),
    }
