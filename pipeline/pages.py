"""Parquet pages before pyarrow has them: a stream that looks at the header of each page as it goes by.

For a page pyarrow takes the memory that its header names, up to 2 GiB for each column, whatever the file's size and
whatever its footer says; none of its settings bounds that. So a header that asks for too much ends the reading before
pyarrow sees it. It costs no request: these are the bytes that pyarrow asks for. Only the fields that decide are read,
of PageHeader in Thrift's compact protocol (https://github.com/apache/parquet-format, src/main/thrift/parquet.thrift).
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from pipeline.errors import MediaError
from pipeline.types import Code

MAX_HEADER = 16 << 20  # bytes, as in pyarrow; some writers put whole cells into a page's statistics
DEPTH = 16  # of structures in one another; a page header has 3
UNPACKED, PACKED, DICTIONARY = (
    2,
    3,
    7,
)  # fields: bytes in memory, bytes in the file, header of a dictionary page
ENCODING = {5: 2, 7: 2, 8: 4}  # where a data page, a dictionary page and a data page v2 name theirs
CHUNK_BYTES, DATA_AT, DICTIONARY_AT = 7, 9, 11  # fields of a column's metadata in the footer
TAIL = 8  # bytes: the footer's length, and PAR1
MAX_FOOTER = 16 << 20  # bytes; 100,000 columns of row groups. Read here, they take at most 72 times as much
ENTRY = 16  # bytes of pyarrow's pointer to a value of a dictionary
# Both begin with a list of lengths, as long as it says: 8 GiB for 2^31 of them, which a few bytes can say.
UNBOUNDED = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}

Fields = dict[int, Any]


class WideError(Exception):
    """Pages that are too large for reading several rows at once."""


@dataclass(slots=True)
class _Chunk:
    """A column of one row group: where it is, what was read of it, and its largest page so far."""

    start: int
    stop: int
    at: int = -1
    header: int = 0  # where the next page begins
    begun: bytes = b""  # of a header whose end is still to come
    largest: int = 0


class Pages(io.BufferedIOBase):
    """`stream`, of `size` bytes, for pyarrow. After `expect`, only what was named can be read.

    Reading raises MediaError (TOO_LARGE) where the largest pages of the columns together are above `most` bytes,
    `WideError` where they are above `wide`, and ValueError where a page's header or encoding cannot be read.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self._chunks: list[_Chunk] | None = None
        self._most = self._wide = 0

    def expect(self, chunks: Iterable[tuple[int, int]], most: int, wide: int) -> None:
        """Read these chunks (start, stop) next, each in order from its start. ValueError where they overlap."""
        found = [_Chunk(start, stop) for start, stop in sorted(chunks)]
        edges = [0, *(edge for chunk in found for edge in (chunk.start, chunk.stop)), self._size]
        if edges != sorted(edges):
            raise ValueError("columns that overlap, or lie outside the file")
        self._chunks, self._most, self._wide = found, most, wide

    def chunks(self) -> list[list[tuple[int, int]]]:
        """Where the columns of each row group are, as the footer says it and pyarrow reads it: start and stop.

        Not pyarrow's own metadata: of a damaged column those end the process (26.0: "histogram size mismatch").
        """
        self.seek(max(0, self._size - TAIL))
        length = int.from_bytes(self._stream.read(TAIL)[:4], "little")
        if length > min(MAX_FOOTER, self._size - TAIL):
            raise ValueError(f"a footer of {length} bytes; at most {MAX_FOOTER} are read")
        self.seek(self._size - TAIL - length)
        try:
            footer, _ = _struct(memoryview(self._stream.read(length)), 0, DEPTH)
            return [[_chunk(column[3]) for column in group[1]] for group in footer[4]]
        except (LookupError, TypeError):
            raise ValueError("a footer that cannot be read") from None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any stream."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As of any stream."""
        return self._stream.tell()

    def close(self) -> None:
        """Close the stream, too."""
        self._stream.close()
        super().close()

    def read(self, size: int | None = -1) -> bytes:
        """As of any stream."""
        at = self._stream.tell()
        rest = max(0, self._size - at)
        data = self._stream.read(rest if size is None or size < 0 else min(size, rest))
        if self._chunks is not None and data:
            self._look(_entered(self._chunks, at), at, data)
        return data

    def _look(self, chunk: _Chunk, at: int, data: bytes) -> None:
        """At the headers in `data`, which stands at byte `at`."""
        chunk.at = at + len(data)
        while chunk.header < min(chunk.stop, chunk.at):
            begun, skipped = chunk.begun, max(0, chunk.header - at)
            view = memoryview(begun + data[:MAX_HEADER] if begun else data)[0 if begun else skipped :]
            try:
                fields, length = _struct(view, 0, DEPTH)
            except IndexError:
                chunk.begun = bytes(view)
                if len(view) > MAX_HEADER:
                    raise _unreadable(chunk) from None
                return
            chunk.largest = max(chunk.largest, _needed(chunk, fields))
            self._allow(chunk)
            chunk.header, chunk.begun = chunk.header + length + fields[PACKED], b""

    def _allow(self, chunk: _Chunk) -> None:
        needed = sum(chunk.largest for chunk in self._chunks or ())
        if needed > self._most:
            message = f"pages of {needed} bytes (byte {chunk.header}), at most {self._most} are read"
            raise MediaError(
                Code.TOO_LARGE, f"{message}: write smaller ones, or raise [input] max_member_bytes"
            )
        if needed > self._wide:
            raise WideError


def _chunk(column: Fields) -> tuple[int, int]:
    """Of a ColumnMetaData."""
    data, dictionary = column[DATA_AT], column.get(DICTIONARY_AT, 0)
    start = dictionary if 0 < dictionary < data else data
    return start, start + column[CHUNK_BYTES]


def _entered(chunks: list[_Chunk], at: int) -> _Chunk:
    """The chunk that is read on at this byte, or from its start."""
    place = bisect_right(chunks, at, key=lambda chunk: chunk.start) - 1
    chunk = chunks[place] if place >= 0 else _Chunk(-1, -1)
    if at == chunk.start:
        chunk.at, chunk.header, chunk.begun = at, at, b""
    if at != chunk.at:
        raise ValueError(f"byte {at} is asked for, where no column begins or goes on")
    return chunk


def _needed(chunk: _Chunk, fields: Fields) -> int:
    """Bytes of memory that a page asks for; ValueError where it does not say so, or where that would be no bound."""
    sizes = [fields.get(UNPACKED), fields.get(PACKED)]
    inner: dict[int, Fields] = {field: value for field, value in fields.items() if isinstance(value, dict)}
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise _unreadable(chunk)
    for field, place in ENCODING.items():
        if (name := UNBOUNDED.get(inner.get(field, {}).get(place, 0))) is not None:
            raise ValueError(f"encoding {name}, whose memory has no bound; write the column as PLAIN")
    values = int(inner.get(DICTIONARY, {}).get(1, 0))
    return max(int(fields[UNPACKED]), int(fields[PACKED])) + ENTRY * max(0, values)


def _unreadable(chunk: _Chunk) -> ValueError:
    return ValueError(f"no page header at byte {chunk.header}")


def _struct(data: memoryview, at: int, depth: int) -> tuple[Fields, int]:
    """The fields of the structure at `at`, by number, and where it ends. IndexError where `data` ends before it."""
    if not depth:
        raise ValueError("structures in one another without end")
    fields: Fields = {}
    number = 0
    while head := data[at]:
        if head >> 4:
            number, at = number + (head >> 4), at + 1
        else:
            number, at = _integer(data, at + 1)
        fields[number], at = _value(data, at, head & 15, depth)
    return fields, at + 1


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:
            return kind == 1, at
        case 3:
            return data[at], at + 1
        case 4 | 5 | 6:
            return _integer(data, at)
        case 7:
            return None, at + 8
        case 8:
            length, at = _varint(data, at)
            return None, at + length
        case 9 | 10:
            return _list(data, at, depth)
        case 12:
            return _struct(data, at, depth - 1)
    raise ValueError(f"a field of type {kind} in a page header")


def _list(data: memoryview, at: int, depth: int) -> tuple[list[Any], int]:
    """The structures of a list; of other lists nothing but where they end."""
    head, at = data[at], at + 1
    count, kind = head >> 4, head & 15
    if count == 15:
        count, at = _varint(data, at)
    found = []
    for _ in range(count):
        value, at = (None, at + 1) if kind in (1, 2) else _value(data, at, kind, depth - 1)
        data[at - 1]  # or a list that goes on behind the end would be counted through
        if kind == 12:
            found.append(value)
    return found, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a number of more than 64 bits in a page header")


def _integer(data: memoryview, at: int) -> tuple[int, int]:
    """A number with its sign in the last bit."""
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
