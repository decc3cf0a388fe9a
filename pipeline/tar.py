"""Tar headers as a stream: names, offsets and sizes, in one pass and without holding anybody's data.

Not `tarfile`, for three reasons: it ends without an error where an archive was cut between two members, it
returns names that are no valid Unicode, and it stops at the first zero block, whatever follows.
Understood: ustar, pax (path and size, also global), GNU long names, base-256 sizes, sparse members (skipped).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline.errors import MediaError
from pipeline.types import Code

BLOCK = 512
MAX_EXTENSION = 1 << 20  # bytes of a long name or pax header; a name is at most 4 KiB anywhere
MAX_TAIL = 1 << 20  # bytes after the end that are looked at; padding is usually below 10 KiB
REGULAR = (b"0", b"\0", b"7")
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: their size is no length
ASCII = bytes(range(128))
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


@dataclass(frozen=True, slots=True)
class Header:
    """A member: its name (other bytes than UTF-8 escaped as `\\xff`), where its data begins, and its length.

    `regular` is False for folders, links, devices and sparse members. `complete` is False where the archive
    ends inside the data.
    """

    name: str
    offset: int
    size: int
    regular: bool
    complete: bool


def members(stream: BinaryIO) -> Iterator[Header]:
    """The members of the archive in `stream` (seekable, at its beginning), in order.

    At each step `stream` stands at the member's data; the caller may read up to `size` bytes of it. Raises
    `MediaError` after the last good member: SHARD_EMPTY (no bytes), SHARD_UNREADABLE (not a tar, or garbage
    at some offset), SHARD_TRUNCATED (cut inside a member, or without the zero block that ends an archive).
    """
    total = stream.seek(0, 2)
    if total == 0:
        raise MediaError(Code.SHARD_EMPTY, "the shard has no bytes")
    reader = _Reader(stream, total)
    while block := reader.header():
        kind, size = block[156:157], _number(block[124:136], reader.at)
        if kind in (b"L", b"K", b"x", b"X", b"g"):
            reader.extend(kind, reader.extension(size))
            continue
        if kind == b"S":
            reader.skip_sparse_map(block)
        header = reader.member(block, kind, size)
        stream.seek(header.offset)
        yield header
        if not header.complete:
            raise MediaError(Code.SHARD_TRUNCATED, f"the shard ends at byte {total}, inside a member's data")
    reader.check_tail()


@dataclass(slots=True)
class _Reader:
    """Where the next header begins, and what extension headers said about the next member."""

    stream: BinaryIO
    total: int
    at: int = 0
    everywhere: dict[str, str] = field(default_factory=dict)
    following: dict[str, str] = field(default_factory=dict)

    def block(self) -> bytes:
        self.stream.seek(self.at)
        block = self.stream.read(BLOCK)
        if len(block) < BLOCK:
            where = "between two members" if not block else "inside a header"
            raise MediaError(Code.SHARD_TRUNCATED, f"the shard ends at byte {self.total}, {where}")
        self.at += BLOCK
        return block

    def header(self) -> bytes:
        """The next header block, its checksum verified; empty at the end of the archive."""
        if self.at == 0 and self.total < BLOCK:
            raise _not_a_tar(self.stream, self.total)
        block = self.block()
        if not block.strip(b"\0"):
            return b""
        if not _checksum_holds(block):
            if self.at == BLOCK:
                raise _not_a_tar(self.stream, self.total)
            raise MediaError(Code.SHARD_UNREADABLE, f"no tar header at byte {self.at - BLOCK}")
        return block

    def extension(self, size: int) -> bytes:
        """The data of an extension header."""
        if size > MAX_EXTENSION:
            message = f"extension header of {size} bytes at byte {self.at - BLOCK}"
            raise MediaError(Code.SHARD_UNREADABLE, message)
        if self.at + size > self.total:
            raise MediaError(Code.SHARD_TRUNCATED, f"the shard ends at byte {self.total}, inside a header")
        self.stream.seek(self.at)
        data = self.stream.read(size)
        self.at += _padded(size)
        return data

    def extend(self, kind: bytes, data: bytes) -> None:
        """Remember what an extension header says of the next member or (pax `g`) of all that follow."""
        if kind == b"L":
            self.following["path"] = _text(data.partition(b"\0")[0])
        elif kind == b"g":
            self.everywhere |= _pax(data, self.at)
        elif kind != b"K":  # K is the target of a link
            self.following |= _pax(data, self.at)

    def skip_sparse_map(self, block: bytes) -> None:
        more = block[482]
        while more:
            more = self.block()[504]

    def member(self, block: bytes, kind: bytes, size: int) -> Header:
        """The member that `block` heads; moves on to the next header."""
        said, self.following = {**self.everywhere, **self.following}, {}
        sparse = kind == b"S" or any(name.startswith("GNU.sparse.") for name in said)
        if "size" in said:
            size = _decimal(said["size"], self.at)
        if kind in WITHOUT_DATA:
            size = 0
        name, offset = said.get("path", _name(block)), self.at
        self.at += _padded(size)
        regular = kind in REGULAR and not sparse and not name.endswith("/")
        return Header(name, offset, size, regular, offset + size <= self.total)

    def check_tail(self) -> None:
        """Refuse an archive after whose end there is more: a second archive that nobody would read."""
        self.stream.seek(self.at)
        tail = self.stream.read(min(MAX_TAIL, max(0, self.total - self.at)))
        if tail.strip(b"\0"):
            message = f"the archive ends at byte {self.at - BLOCK}, but the shard goes on to {self.total}"
            raise MediaError(Code.SHARD_UNREADABLE, f"{message}: archives joined with cat, or damage")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _checksum_holds(block: bytes) -> bool:
    try:
        stated = int(block[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    signed = unsigned - 256 * len(rest.translate(None, ASCII))  # as old Sun and NeXT tars computed it
    return stated in (unsigned, signed)


def _number(data: bytes, at: int) -> int:
    """A size: octal digits, or base-256 where the first bit is set."""
    try:
        size = int.from_bytes(data[1:], "big") if data[0] == 0x80 else int(data.strip(b"\0 ") or b"0", 8)
    except ValueError:
        size = -1
    if size < 0:
        raise MediaError(Code.SHARD_UNREADABLE, f"a size that is no number at byte {at - BLOCK}")
    return size


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _pax(data: bytes, at: int) -> dict[str, str]:
    """Records "length name=value\\n"; the length counts itself."""
    found: dict[str, str] = {}
    while data.strip(b"\0"):
        digits = data[:21].partition(b" ")[0]
        length = _decimal(_text(digits), at)
        name, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not (equals and len(digits) + 2 < length <= len(data)):
            raise MediaError(Code.SHARD_UNREADABLE, f"a damaged pax header before byte {at}")
        found[_text(name)] = _text(value)
        data = data[length:]
    return found


def _decimal(text: str, at: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise MediaError(Code.SHARD_UNREADABLE, f"a pax number that is none before byte {at}")
    return int(text)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _not_a_tar(stream: BinaryIO, total: int) -> MediaError:
    stream.seek(0)
    head = stream.read(8)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            message = f"compressed with {name}; only plain tars can be read by ranges"
            return MediaError(Code.SHARD_UNREADABLE, message)
    return MediaError(Code.SHARD_UNREADABLE, f"not a tar archive ({total} bytes)")
