"""How the containers of images are laid out: PNG's chunks, and where each format says that its file ends."""

from __future__ import annotations

import struct
from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JP2_MAGIC = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # by field type


def is_cut(data: bytes) -> bool:
    """Whether the container declares more bytes than there are (asked only of files that did not decode)."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-4096:]  # end of image; junk may follow it
    if data.startswith(b"\xff\x4f\xff\x51"):
        return not data.endswith(b"\xff\xd9")
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\x00").endswith(b";")
    if data.startswith(b"RIFF") and len(data) >= 8:
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data.startswith(b"BM") and len(data) >= 6:
        return int.from_bytes(data[2:6], "little") > len(data)
    if data.startswith(PNG_MAGIC):
        return all(kind != b"IEND" for kind, _, _ in png_chunks(data))
    if data.startswith(JP2_MAGIC) or data[4:8] == b"ftyp":
        return _boxes_end(data) > len(data)
    return data.startswith((b"II*\x00", b"MM\x00*")) and _directory_end(data) > len(data)


def _directory_end(data: bytes) -> int:
    """Where a TIFF's first directory and the values that it points to end; writers often put them last."""
    order = "<" if data.startswith(b"II") else ">"
    end: int = 8
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
        end = at + 6 + 12 * count
        for entry in range(at + 2, end - 4, 12):
            kind, values, offset = struct.unpack_from(order + "2xHII", data, entry)
            size = values * TIFF_BYTES.get(kind, 0)
            end = max(end, offset + size if size > 4 else 0)
    except struct.error:
        return len(data) + 1
    return end


def _boxes_end(data: bytes) -> int:
    """Where the last top-level box of an ISO media file says that it ends."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1 and at + 16 <= len(data):
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        at = at + size if size >= 8 else len(data)  # 0: to the end of the file
    return at


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, offset of the payload, declared length) of each chunk whose header is there."""
    at = len(PNG_MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, length
        at += length + 12  # length, type and checksum take 4 bytes each
