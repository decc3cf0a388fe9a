"""Good files to begin with: every format that is decoded, small, so that a fault is rarely far from a header."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.films import Film

TIMES_MS = range(0, 480, 40)
FRAGMENTS = {"movflags": "empty_moov+frag_keyframe"}


@cache
def images() -> tuple[bytes, ...]:
    """Pictures of 48 x 36 in the forms that cameras, scanners and the web have."""
    noise = np.random.default_rng(0).integers(0, 40, (36, 48, 3), np.uint8)
    ramp = np.linspace(0, 200, 48, dtype=np.uint8)[None, :, None]
    scene = Image.fromarray(noise + ramp)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray((np.asarray(scene.convert("L"), np.uint16) << 8) + 7)
    later = [scene.rotate(90 * turn).resize(scene.size) for turn in (1, 2)]
    jpeg, png, webp = _saver("JPEG"), _saver("PNG"), _saver("WEBP")
    gif, tiff, jp2 = _saver("GIF"), _saver("TIFF"), _saver("JPEG2000")
    return (
        jpeg(scene),
        jpeg(scene, progressive=True, exif=exif),
        jpeg(scene.convert("CMYK")),
        jpeg(scene.convert("L"), optimize=True, icc_profile=b"profile" * 40),
        _saver("MPO")(scene, save_all=True, append_images=later[:1]),
        png(scene, exif=exif),
        png(scene.convert("P"), transparency=3),
        png(scene.convert("RGBA")),
        png(scene.convert("1")),
        png(deep),
        png(scene, save_all=True, append_images=later),
        webp(scene, exif=exif),
        webp(scene.convert("RGBA"), lossless=True),
        webp(scene, save_all=True, append_images=later),
        gif(scene.convert("P")),
        gif(scene, save_all=True, append_images=later),
        _saver("BMP")(scene),
        _saver("BMP")(scene.convert("P")),
        tiff(scene, exif=exif),
        tiff(deep),
        *(tiff(scene, compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        tiff(scene.convert("1"), compression="group4"),
        _saver("AVIF")(scene, speed=10),
        _saver("AVIF")(scene, speed=10, save_all=True, append_images=later),
        jp2(scene),
        jp2(scene.convert("RGBA"), tile_size=(16, 16)),
        jp2(scene, no_jp2=True),
    )


def _saver(form: str) -> Callable[..., bytes]:
    def save(picture: Image.Image, **options: Any) -> bytes:
        sink = io.BytesIO()
        picture.save(sink, form, **options)
        return sink.getvalue()

    return save


@cache
def clips() -> tuple[bytes, ...]:
    """Clips of 12 frames of 64 x 48: every container on the list that can be written, and its usual codecs."""
    films = (
        Film(times_ms=TIMES_MS),
        Film(times_ms=TIMES_MS, container_options=FRAGMENTS),
        Film(times_ms=TIMES_MS, rotation=90),
        Film(codec="mpeg4", times_ms=TIMES_MS),
        Film(codec="libx265", times_ms=TIMES_MS),
        Film("mov", "mpeg4", TIMES_MS),
        Film("matroska", "ffv1", TIMES_MS),
        Film("avi", "msmpeg4v2", TIMES_MS),
        Film("matroska", "libvpx", TIMES_MS),
        Film("matroska", "libx264", TIMES_MS),
        Film("webm", "libvpx-vp9", TIMES_MS),
        Film("avi", "mpeg4", TIMES_MS),
        Film("mpegts", "libx264", TIMES_MS),
        Film("mpegts", "mpeg2video", TIMES_MS),
        Film("mpeg", "mpeg1video", TIMES_MS),
        Film("flv", "flv", TIMES_MS),
        Film("flv", "libx264", TIMES_MS),
        Film("asf", "wmv2", TIMES_MS),
        Film("ogg", "libvpx", TIMES_MS),
    )
    return tuple(film.data() for film in films)


@cache
def tars() -> tuple[bytes, ...]:
    """Shards of four assets in the three dialects, with long and odd names, an empty member and a link."""
    return tuple(_tar(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))


def members() -> Mapping[str, bytes]:
    """What the shards hold."""
    return {
        "a.jpg": images()[0],
        "a.json": json.dumps({"title": "a", "n": 3, "list": [1]}).encode(),
        "dir.v1/b.left.png": images()[5],
        "dir.v1/b.right.png": images()[8],
        "dir.v1/b.txt": b"two pictures",
        "c.jpg": b"",
        "l" * 60 + "/" + "n" * 90 + ".tif": images()[24],
    }


def _tar(form: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as out:
        for name, data in members().items():
            header = tarfile.TarInfo(name if form != tarfile.PAX_FORMAT else f"猫{name}")
            header.size = len(data)
            out.addfile(header, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
    return sink.getvalue()


@cache
def tables() -> tuple[bytes, ...]:
    """Parquet files of five rows: plain and struct cells, several row groups, encodings and compressions."""
    keys, titles = [f"k{i}" for i in range(5)], ["ü", None, "", "long " * 30, "a"]
    cells = [*sorted(images(), key=len)[:4], None]
    plain = pa.table({"id": keys, "image": pa.array(cells, pa.binary()), "title": titles, "n": range(5)})
    nested = pa.table({"id": keys, "image": [{"bytes": c, "path": "x.jpg"} for c in cells], "x": [0.5] * 5})
    large = plain.set_column(1, "image", pa.array(cells, pa.large_binary()))
    return (
        _parquet(plain),
        _parquet(plain, compression="none", use_dictionary=False, row_group_size=3),
        _parquet(large, compression="zstd", data_page_version="2.0", write_page_index=True),
        _parquet(nested, compression="gzip", row_group_size=2),
        _parquet(nested, compression="lz4", column_encoding={"x": "BYTE_STREAM_SPLIT"}, use_dictionary=False),
        _parquet(plain, compression="brotli", write_page_checksum=True),
    )


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()
