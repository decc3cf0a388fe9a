"""The header reader, beside Python's own."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import MediaError
from pipeline.tar import Header, members
from pipeline.types import Code
from tests.pipeline.conftest import tar_bytes

LONG = "a" * 90 + "/" + "b" * 120 + "/" + "c" * 90 + ".jpg"
NAMES = ["a.jpg", "dir.v1/b.jpg", LONG, "ünïcode/猫.png", "d" * 120 + "/e.txt", "empty.json"]
CONTENT = [(name, b"" if name.startswith("empty") else name.encode() * 100) for name in NAMES]


def read(data: bytes) -> list[tuple[Header, bytes]]:
    """Each regular member and its bytes."""
    stream = io.BytesIO(data)
    return [(header, stream.read(header.size)) for header in members(stream) if header.regular]


def until_broken(data: bytes) -> tuple[list[Header], MediaError]:
    """The members before the error, and the error."""
    found: list[Header] = []
    with pytest.raises(MediaError) as caught:
        found.extend(members(io.BytesIO(data)))
    return found, caught.value


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_agrees_with_tarfile(form: int) -> None:
    short = [pair for pair in CONTENT if form != tarfile.USTAR_FORMAT or len(pair[0]) < 130]
    data = tar_bytes(short, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]

    assert [(h.name, h.offset, h.size) for h, _ in read(data)] == expected
    assert [content for _, content in read(data)] == [content for _, content in short]


@pytest.mark.parametrize("form", ["gnu", "ustar", "posix", "v7"])
def test_agrees_with_gnu_tar(tmp_path: Path, form: str) -> None:
    for i in range(30):
        folder = tmp_path / "in" / f"d{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(os.urandom(i * 100))
    (tmp_path / "in" / "link.jpg").symlink_to("d0/0.jpg")
    subprocess.run(
        ["tar", f"--format={form}", "-cf", tmp_path / "x.tar", "-C", tmp_path / "in", "."], check=True
    )
    with tarfile.open(tmp_path / "x.tar") as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]

    assert [(h.name, h.offset, h.size) for h, _ in read((tmp_path / "x.tar").read_bytes())] == expected


def test_data_that_is_not_read_is_skipped() -> None:
    assert [h.name for h in members(io.BytesIO(tar_bytes(CONTENT)))] == NAMES


def test_links_and_folders_are_not_regular() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            header = tarfile.TarInfo("a.jpg")
            header.type, header.linkname = kind, "/etc/passwd"
            tar.addfile(header)
        tar.addfile(tarfile.TarInfo("b.jpg"))

    assert [h.name for h, _ in read(sink.getvalue())] == ["b.jpg"]


def test_sparse_members_are_skipped(tmp_path: Path) -> None:
    with open(tmp_path / "holes.mp4", "wb") as file:
        for i in range(40):
            file.seek(i * 100_000)
            file.write(b"x")
    (tmp_path / "z.jpg").write_bytes(b"last")
    command = ["tar", "-S", "--format=gnu", "-cf", "x.tar", "holes.mp4", "z.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)

    assert [content for _, content in read((tmp_path / "x.tar").read_bytes())] == [b"last"]


def test_names_that_are_not_utf8_become_escapes() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("caf\xe9.jpg"))

    assert [h.name for h, _ in read(sink.getvalue())] == [r"caf\xe9.jpg"]


def test_base_256_sizes() -> None:
    data = bytearray(tar_bytes([("a.jpg", b"12345")], tarfile.USTAR_FORMAT))
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")

    assert [content for _, content in read(_sealed(data))] == [b"12345"]


def test_global_pax_headers_hold_for_all_that_follow() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", pax_headers={"path": "same.jpg"}) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
        tar.addfile(tarfile.TarInfo("b.jpg"))

    assert [h.name for h, _ in read(sink.getvalue())] == ["same.jpg", "same.jpg"]


def test_an_archive_without_members_is_whole() -> None:
    assert read(tar_bytes([])) == []


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", Code.SHARD_EMPTY, "no bytes"),
        (b"<html>" * 500, Code.SHARD_UNREADABLE, "not a tar"),
        (b"short", Code.SHARD_UNREADABLE, "not a tar"),
        (b"\x1f\x8b" + bytes(2000), Code.SHARD_UNREADABLE, "gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(2000), Code.SHARD_UNREADABLE, "zstd"),
    ],
)
def test_what_is_no_tar_says_so(data: bytes, code: Code, words: str) -> None:
    found, error = until_broken(data)

    assert (found, error.code) == ([], code)
    assert words in error.message


def test_a_cut_in_the_data_marks_the_last_member() -> None:
    data = tar_bytes(CONTENT, tarfile.GNU_FORMAT)

    found, error = until_broken(data[:700])

    assert [(h.name, h.complete) for h in found] == [("a.jpg", False)]
    assert error.code is Code.SHARD_TRUNCATED


@pytest.mark.parametrize(
    "cut", [lambda offset: offset, lambda offset: offset + 100], ids=["boundary", "header"]
)
def test_a_cut_between_members_is_noticed(cut: Callable[[int], int]) -> None:
    data = tar_bytes([("a.jpg", b"x" * 512), ("b.jpg", b"y" * 512)], tarfile.GNU_FORMAT)

    found, error = until_broken(data[: cut(1024)])

    assert [(h.name, h.complete) for h in found] == [("a.jpg", True)]
    assert error.code is Code.SHARD_TRUNCATED


def test_garbage_after_good_members() -> None:
    data = tar_bytes([("a.jpg", b"x" * 512)], tarfile.GNU_FORMAT)

    found, error = until_broken(data[:1024] + b"garbage!" * 200)

    assert ([h.name for h in found], error.code) == (["a.jpg"], Code.SHARD_UNREADABLE)
    assert "byte 1024" in error.message


def test_a_second_archive_behind_the_first_is_not_lost_in_silence() -> None:
    one = tar_bytes([("a.jpg", b"x")])

    found, error = until_broken(one + one)

    assert ([h.name for h in found], error.code) == (["a.jpg"], Code.SHARD_UNREADABLE)


@pytest.mark.parametrize("size", [1 << 40, 1 << 80])
def test_an_absurd_size_allocates_nothing(size: int) -> None:
    data = bytearray(tar_bytes([("a.jpg", b"12345")], tarfile.USTAR_FORMAT))
    data[124:136] = b"\x80" + size.to_bytes(11, "big")

    found, error = until_broken(_sealed(data))

    assert ([h.complete for h in found], error.code) == ([False], Code.SHARD_TRUNCATED)


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_an_absurd_extension_header_is_refused(kind: bytes) -> None:
    data = bytearray(tar_bytes([("a.jpg", b"12345")], tarfile.USTAR_FORMAT))
    data[124:136], data[156:157] = b"\x80" + (1 << 40).to_bytes(11, "big"), kind

    assert until_broken(_sealed(data))[1].code is Code.SHARD_UNREADABLE


@pytest.mark.parametrize("record", [b"0 path=x\n", b"3 path=x\n", b"999 path=x\n", b"path\n", b"-5 path=x\n"])
def test_a_damaged_pax_header_is_refused(record: bytes) -> None:
    data = bytearray(tar_bytes([("pax", record)], tarfile.USTAR_FORMAT))
    data[156:157] = b"x"

    assert until_broken(_sealed(data))[1].code is Code.SHARD_UNREADABLE


def _sealed(data: bytearray) -> bytes:
    """The tar with its first header's checksum put right."""
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)
