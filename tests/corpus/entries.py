"""What a bad input is, and what small files are made of."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Outcome = frozenset[tuple[str | None, str]]  # under which prompt (None: all of them), and a code or "caption"

CAPTIONED: Outcome = frozenset({("plain", "caption"), ("titled", "caption")})
NO_SUBTITLE: Outcome = frozenset(
    {("plain", "caption"), ("titled", "missing_field")}
)  # which "titled" asks for
SIDECAR = b'{"subtitle": "none"}'
HTML = b"<!DOCTYPE html><html><title>404 Not Found</title></html>"
GRAY = (128, 128, 128)


def failed(code: str) -> Outcome:
    """One failure for all prompts."""
    return frozenset({(None, code)})


@dataclass(frozen=True, slots=True)
class Asset:
    """A bad asset: its members (extension, bytes) and its outcome.

    `colour` is what a caption must have seen in the middle, to 3 of 255: decoders can be wrong without an error.
    `key` is given where it is what is bad; else the input's name is its key.
    """

    members: tuple[tuple[str, bytes], ...]
    outcome: Outcome
    colour: tuple[int, int, int] | None = None
    key: str = ""

    def named(self, key: str) -> list[tuple[str, bytes]]:
        """Its members in a tar, with a good sidecar unless it brings its own."""
        own = [(f"{key}.{extension}", data) for extension, data in self.members]
        has_sidecar = any(extension.endswith("json") for extension, _ in self.members)
        return own if has_sidecar else [*own, (f"{key}.json", SIDECAR)]


@dataclass(frozen=True, slots=True)
class Shard:
    """A bad shard: its bytes and the outcome of each of its keys; "" is the shard as a whole."""

    data: bytes
    outcomes: Mapping[str, Outcome]


def picture(number: int = 0, form: str = "PNG", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    """A good picture of the colour (number, 100, 200)."""
    return saved(Image.new("RGB", size, (number, 100, 200)), form, **options)


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    sink = io.BytesIO()
    picture.save(sink, form, **options)
    return sink.getvalue()


def chunk(kind: bytes, payload: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def box(kind: bytes, *payload: bytes) -> bytes:
    """A box of an ISO media file."""
    data = b"".join(payload)
    return struct.pack(">I", 8 + len(data)) + kind + data


def tar(members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar shard. Names may be anything that Latin-1 writes, in forms other than pax."""
    sink = io.BytesIO()
    encoding = "utf-8" if form == tarfile.PAX_FORMAT else "latin-1"
    with tarfile.open(fileobj=sink, mode="w", format=form, encoding=encoding) as out:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def parquet(table: pa.Table | None = None, **columns: Any) -> bytes:
    """A Parquet shard."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns) if table is None else table, sink)
    return sink.getvalue()


def good(key: str, number: int) -> list[tuple[str, bytes]]:
    """Members of a good neighbour."""
    return [(f"{key}.png", picture(number)), (f"{key}.json", SIDECAR)]
