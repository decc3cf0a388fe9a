"""Bad input, first layer, through the whole pipeline in one job: each a row with its own code, its neighbours well."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from tests import made
from tests.double import caption_with_doubles, said
from tests.films import Film

pytestmark = pytest.mark.slow

JOB = """
[input]
dataset = "bad"
uris = ["{folder}/*.tar", "{folder}/*.parquet"]
key_column = "id"
max_member_bytes = 1_000_000
[model]
path = "{folder}/checkpoint"
[[prompt]]
id = "plain"
text = "What is it?"
[[prompt]]
id = "titled"
text = "Is it {{title|a thing}} or {{subtitle}}?"
[video]
frames = 4
[output]
uri = "{folder}/out"
[cluster]
replicas = 1
gpus_per_replica = 0
"""
PAGE = b"<!DOCTYPE html><html><title>404 Not Found</title></html>"
Outcome = set[tuple[str | None, str]]  # under which prompt (None: all of them), and a code or "caption"

GOOD: Outcome = {("plain", "caption"), ("titled", "caption")}
NO_SUBTITLE: Outcome = {("plain", "caption"), ("titled", "missing_field")}


def failed(code: str) -> Outcome:
    """One failure for all prompts."""
    return {(None, code)}


def picture(colour: int, form: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """A small picture."""
    sink = io.BytesIO()
    Image.new("RGB", size, (colour, 100, 200)).save(sink, form)
    return sink.getvalue()


def bomb() -> bytes:
    """A PNG of 60 bytes that says it has 200 million pixels."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
        )

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def sound() -> bytes:
    """An MP4 without pictures."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=44_100)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return sink.getvalue()


def no_frames() -> bytes:
    """An MP4 that announces a video and ends before its first frame."""
    data = Film(container_options={"movflags": "empty_moov+frag_keyframe"}).data()
    return data[: data.index(b"moof") - 4]


def tar(*members: tuple[str, bytes]) -> bytes:
    """A tar shard."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as out:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def parquet(**columns: list[Any]) -> bytes:
    """A Parquet shard."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def good(number: int) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """Members of a good asset with the field that one prompt asks for."""
    return (f"good{number}.png", picture(number)), (f"good{number}.json", b'{"subtitle": "none"}')


def shards() -> Mapping[str, bytes]:
    """The input."""
    return {
        "media.tar": tar(
            *good(1),
            ("zero.jpg", b""),
            ("cut.jpg", picture(2, "JPEG", (400, 300))[:-500]),
            ("page.jpg", PAGE),
            *good(2),
            ("bomb.png", bomb()),
            ("vector.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
            ("heavy.png", bytes(1_000_001)),
            ("sound.mp4", sound()),
            ("noframes.mp4", no_frames()),
            ("pagefilm.mp4", PAGE),
            *good(3),
            ("twice.jpg", picture(3, "JPEG")),
            ("twice.jpg", picture(4, "JPEG")),
            ("sidecar.json", b"{}"),
            ("both.jpg", picture(5, "JPEG")),
            ("both.mp4", Film().data()),
            ("plain.png", picture(6)),
            ("clip.mp4", Film().data()),
            ("clip.json", b'{"subtitle": "none"}'),
            *good(4),
        ),
        "truncated.tar": tar(*good(1), *good(2), ("last.png", picture(7) + bytes(40_000)))[:-30_000],
        "empty.tar": b"",
        "garbage.tar": np.random.default_rng(0).bytes(5000),
        "page.tar": PAGE,
        "end.tar": bytes(10_240),
        "rows.parquet": parquet(
            id=["a", None, "b", "b", "c"],
            image=[picture(8), picture(9), picture(10), picture(11), None],
            subtitle=["x"] * 5,
        ),
        "nocolumn.parquet": parquet(id=["a"], picture=[picture(12)]),
        "nokey.parquet": parquet(name=["a"], image=[picture(12)]),
        "garbage.parquet": b"PAR1" + bytes(100) + b"PAR1",
    }


EXPECTED: Mapping[str, Mapping[str, Outcome]] = {
    "media.tar": {
        "good1": GOOD,
        "zero": failed("empty_input"),
        "cut": failed("truncated"),
        "page": failed("unidentified"),
        "good2": GOOD,
        "bomb": failed("too_large"),
        "vector": failed("unsupported_format"),
        "heavy": failed("too_large"),
        "sound": failed("no_video_stream"),
        "noframes": failed("no_frames"),
        "pagefilm": failed("unidentified"),
        "good3": GOOD,
        "twice": failed("duplicate_member"),
        "sidecar": failed("no_media"),
        "both": failed("mixed_media"),
        "plain": NO_SUBTITLE,
        "clip": GOOD,
        "good4": GOOD,
    },
    "truncated.tar": {
        "good1": GOOD,
        "good2": GOOD,
        "last": failed("truncated"),
        "": failed("shard_truncated"),
    },
    "empty.tar": {"": failed("shard_empty")},
    "garbage.tar": {"": failed("shard_unreadable")},
    "page.tar": {"": failed("shard_unreadable")},
    "end.tar": {"": failed("shard_empty")},
    "rows.parquet": {
        "a": GOOD,
        "row:1": failed("bad_key"),
        "b": failed("duplicate_key"),
        "c": failed("empty_input"),
    },
    "nocolumn.parquet": {"": failed("missing_column")},
    "nokey.parquet": {"": failed("missing_column")},
    "garbage.parquet": {"": failed("shard_unreadable")},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> list[dict[str, Any]]:
    """The published rows of both tables."""
    folder = tmp_path_factory.mktemp("bad")
    for name, data in shards().items():
        (folder / name).write_bytes(data)
    made.checkpoint(folder / "checkpoint")
    told = caption_with_doubles(JOB.format(folder=folder), Console(stderr=True))
    files = [folder / "out" / f["path"] for table in ("captions", "failures") for f in told[table]["files"]]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def outcomes(rows: list[dict[str, Any]], shard: str) -> dict[str, Outcome]:
    """What became of each key of a shard."""
    found: dict[str, Outcome] = {}
    for row in rows:
        if row["shard"] == shard:
            found.setdefault(row["key"], set()).add((row["prompt_id"], row.get("error_code", "caption")))
    return found


@pytest.mark.parametrize("shard", EXPECTED)
def test_every_key_of_a_shard_has_its_own_outcome(rows: list[dict[str, Any]], shard: str) -> None:
    assert outcomes(rows, shard) == EXPECTED[shard]


def test_there_are_no_rows_but_these(rows: list[dict[str, Any]]) -> None:
    answers = [(r["shard"], r["key"], r["prompt_id"]) for r in rows]

    assert len(answers) == len(set(answers))
    assert len(answers) == sum(len(outcome) for shard in EXPECTED.values() for outcome in shard.values())


def test_a_broken_shard_is_one_row_without_media_or_digest(rows: list[dict[str, Any]]) -> None:
    whole = [r for r in rows if r["key"] == ""]

    assert {(r["media"], r["content_sha256"], r["stage"]) for r in whole} == {(None, None, "index")}
    assert len(whole) == 8


def test_neighbours_of_bad_input_are_captioned_from_their_own_bytes(rows: list[dict[str, Any]]) -> None:
    captions = {
        (r["shard"], r["key"]): r["caption"] for r in rows if r.get("prompt_id") == "plain" and "caption" in r
    }

    for number in range(1, 5):
        data, colour = picture(number), (number, 100, 200)
        assert captions["media.tar", f"good{number}"] == said(
            hashlib.sha256(data).hexdigest(), "plain", colour
        )


def test_messages_are_one_short_line_without_addresses(rows: list[dict[str, Any]]) -> None:
    messages = [r["error_message"] for r in rows if "error_message" in r]

    assert all(m and len(m) <= 300 and len(m.splitlines()) == 1 for m in messages)
    assert [m for m in messages if "://" in m or "/tmp" in m] == []
