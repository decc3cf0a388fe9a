"""From untrusted bytes to upright RGB pixels, or a `MediaError` that says why not.

`probe` reads headers only; `decode` loads every pixel. Both take orientation from the same header fields,
so the size that one predicts is the size that the other returns. Formats: JPEG (MPO opens as JPEG), PNG,
WebP, GIF, BMP, TIFF, AVIF, JPEG 2000; of animations the first frame. Call these in a child process
(`actors.sandbox`): decoders are native code, and the data is anybody's.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.config import ImageConfig
from pipeline.errors import MediaError
from pipeline.types import Code, Size

DECODERS = (  # imported by name: else Pillow imports all 43 that it has at the first unknown file
    JpegImageFile, PngImageFile, WebPImageFile, GifImageFile, BmpImageFile, TiffImageFile, AvifImageFile,
    Jpeg2KImageFile,
)  # fmt: skip
FORMATS = tuple(decoder.format for decoder in DECODERS)
Image.MAX_IMAGE_PIXELS = None  # [image] max_pixels is checked instead, before any pixel is decoded

# What Pillow's pure-Python parsers let out on hostile input, seen or read in their source.
BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError,
    AssertionError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

NO_MEMORY = ("out of memory", "decoder error -9")  # how Pillow's decoders, and its one for TIFF, say it

TRANSPOSE = {  # EXIF orientation to what makes the picture upright; 1 and unknown values need nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JP2_MAGIC = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
ALLOWED_MAGIC = {
    b"\xff\xd8\xff": "JPEG", PNG_MAGIC: "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP",
    b"II*\x00": "TIFF", b"MM\x00*": "TIFF", JP2_MAGIC: "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
}  # fmt: skip
FOREIGN_MAGIC = {
    b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"8BPS": "Photoshop", b"%PDF": "PDF", b"gimp xcf": "GIMP",
    b"\xff\x0a": "JPEG XL", b"\x00\x00\x00\x0cJXL ": "JPEG XL", b"II\xbc": "JPEG XR", b"icns": "ICNS",
    b"\x00\x00\x01\x00": "ICO", b"DDS ": "DDS", b"qoif": "QOI", b"v/1\x01": "OpenEXR", b"P5": "PNM",
    b"P6": "PNM", b"#?RADIANCE": "Radiance HDR", b"SIMPLE  =": "FITS", b"\x0a\x05\x01": "PCX",
    b"\x1aE\xdf\xa3": "Matroska video",
}  # fmt: skip
OTHER_MAGIC = {
    b"\x1f\x8b": "gzip data", b"PK\x03\x04": "a zip archive", b"{": "JSON text", b"[": "JSON text",
}  # fmt: skip
TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # by field type
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")


def probe(data: bytes, limits: ImageConfig) -> Size:
    """The upright size, from headers alone: no pixel is decoded.

    Raises MediaError as `decode` does, as far as headers show it.
    """
    with _opened(data, limits) as picture:
        return _upright_size(picture, _orientation(picture, data))


def decode(data: bytes, limits: ImageConfig) -> Image.Image:
    """Every pixel, upright, mode RGB; alpha lies on white, 16-bit and wider samples are scaled to 8 bits.

    Raises MediaError: EMPTY, UNIDENTIFIED, UNSUPPORTED (a known format that is not decoded here), TOO_LARGE
    (more than `limits.max_pixels`, before anything is decoded), TRUNCATED (the data ends early), CORRUPT. MemoryError
    where a decoder says that memory does not suffice.
    """
    with _opened(data, limits) as picture:
        orientation = _orientation(picture, data)
        expected = _upright_size(picture, orientation)
        is_tiff = picture.format == "TIFF"
        picture.load()
        upright = _rgb(picture)
        if not is_tiff and orientation in TRANSPOSE:  # Pillow has turned a TIFF while loading it
            upright = upright.transpose(TRANSPOSE[orientation])
    if (upright.width, upright.height) != (expected.width, expected.height):
        raise MediaError(Code.CORRUPT, "the pixels do not have the size that the header declares")
    return upright


@contextmanager
def _opened(data: bytes, limits: ImageConfig) -> Iterator[Image.Image]:
    """The image with its header parsed and its size allowed; decoder errors inside become MediaError."""
    if not data:
        raise MediaError(Code.EMPTY, "the file has no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bad metadata; the pixels decide
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check_pixels(picture, limits)
                yield picture
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except MediaError:
        raise
    except BROKEN as error:
        if any(words in str(error) for words in NO_MEMORY):
            raise MemoryError from None
        raise _broken(data, error) from None


def _check_pixels(picture: Image.Image, limits: ImageConfig) -> None:
    width, height = picture.size
    if width * height > limits.max_pixels:
        rule = f"[image] max_pixels = {limits.max_pixels}"
        raise MediaError(Code.TOO_LARGE, f"{width} x {height} pixels are more than {rule}")
    if width * height == 0:
        raise MediaError(Code.CORRUPT, f"the header declares {width} x {height} pixels")


def _orientation(picture: Image.Image, data: bytes) -> int:
    """EXIF (or XMP) orientation; 1 where there is none or it cannot be read. Never decodes pixels."""
    if picture.format == "PNG" and "exif" not in picture.info and (exif := _png_exif(data)):
        picture.info["exif"] = exif
    try:
        # The base class's method: that of PNG loads all pixels in search of an eXIf chunk behind them.
        value = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and value in TRANSPOSE else 1


def _upright_size(picture: Image.Image, orientation: int) -> Size:
    sideways = orientation in SIDEWAYS
    if isinstance(picture, TiffImageFile):
        # Pillow has swapped a TIFF's size already where its tag (though not its XMP) says so.
        sideways ^= picture.tag_v2.get(ExifTags.Base.Orientation) in SIDEWAYS
    width, height = picture.size
    return Size(height, width) if sideways else Size(width, height)


def _png_exif(data: bytes) -> bytes:
    """The first eXIf chunk of a PNG, wherever it stands, found by walking chunk headers; b"" without one."""
    for kind, start, length in _png_chunks(data):
        if kind == b"eXIf":
            return b"Exif\x00\x00" + data[start : start + length]
    return b""


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, offset of the payload, declared length) of each chunk whose header is there."""
    at = len(PNG_MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, length
        at += length + 12  # length, type and checksum take 4 bytes each


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return _scaled(picture).convert("RGB")
    if picture.has_transparency_data:
        return _on_white(picture.convert("RGBA"))
    try:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    except ValueError:
        raise MediaError(Code.UNSUPPORTED, f"colour mode {picture.mode} cannot be converted to RGB") from None


def _on_white(picture: Image.Image) -> Image.Image:
    """RGBA composited on white: `convert("RGB")` alone would show whatever colour hides under
    transparency."""
    canvas = Image.new("RGB", picture.size, (255, 255, 255))
    canvas.paste(picture, mask=picture)
    return canvas


def _scaled(picture: Image.Image) -> Image.Image:
    """16-bit samples without their low byte, wider ones from their range to 0..255. Pillow's convert would
    clip."""
    samples = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        return Image.fromarray((samples >> 8).astype(np.uint8))
    values = samples.astype(np.float32)
    values[~np.isfinite(values)] = 0
    low, high = float(values.min()), float(values.max())
    scale = 255 / (high - low) if high > low else 0.0
    return Image.fromarray(((values - low) * scale + 0.5).astype(np.uint8))


def _unidentified(data: bytes) -> MediaError:
    """Says what the bytes look like instead."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return _unsupported("SVG")
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return MediaError(Code.UNIDENTIFIED, "an HTML page, not an image")
    if head.startswith(b"<"):
        return MediaError(Code.UNIDENTIFIED, "XML text, not an image")
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    for magic, name in FOREIGN_MAGIC.items():
        if data.startswith(magic):
            return _unsupported(name)
    for magic, name in ALLOWED_MAGIC.items():
        if data.startswith(magic):
            return _header_broken(data, name)
    for magic, name in OTHER_MAGIC.items():
        if data.startswith(magic):
            return MediaError(Code.UNIDENTIFIED, f"{name}, not an image")
    return MediaError(Code.UNIDENTIFIED, "no image format that is known here begins with these bytes")


def _iso_media(data: bytes) -> MediaError:
    brand = data[8:12]
    if brand in (b"avif", b"avis"):
        return _header_broken(data, "AVIF")
    return _unsupported("HEIC" if brand in HEIF_BRANDS else "MP4 video")


def _unsupported(name: str) -> MediaError:
    return MediaError(Code.UNSUPPORTED, f"{name} is not decoded here; allowed are {', '.join(FORMATS)}")


def _header_broken(data: bytes, name: str) -> MediaError:
    if _is_cut(data):
        return MediaError(Code.TRUNCATED, f"the file begins as {name} and ends before its pixels do")
    return MediaError(Code.CORRUPT, f"the file begins as {name}, and its header cannot be read")


def _broken(data: bytes, error: Exception) -> MediaError:
    if "truncat" in str(error).lower() or isinstance(error, EOFError) or _is_cut(data):
        return MediaError(Code.TRUNCATED, "the file ends before its pixels do")
    return MediaError(Code.CORRUPT, f"the decoder gave up: {type(error).__name__}: {error}")


def _is_cut(data: bytes) -> bool:
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
        return all(kind != b"IEND" for kind, _, _ in _png_chunks(data))
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
