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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.config import ImageConfig
from pipeline.containers import JP2_MAGIC, PNG_MAGIC, is_cut, png_chunks
from pipeline.errors import MediaError
from pipeline.types import Code, Size

DECODERS = (  # imported by name: else Pillow imports all 43 that it has at the first unknown file
    JpegImageFile, PngImageFile, WebPImageFile, GifImageFile, BmpImageFile, TiffImageFile, AvifImageFile,
    Jpeg2KImageFile,
)  # fmt: skip
FORMATS = tuple(decoder.format for decoder in DECODERS)
Image.MAX_IMAGE_PIXELS = None  # [image] max_pixels is checked instead, before any pixel is decoded
ImageFile.MAXBLOCK = 1 << 19  # bytes at once from a file, and to an array: a tile of 384 x 384 in one piece

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
    return draft(data, limits, lambda size: size)[0]


def draft(data: bytes, limits: ImageConfig, least: Callable[[Size], Size]) -> tuple[Image.Image, Size]:
    """As `decode`, but where `limits.decode` is fast, a JPEG at 1/2, 1/4 or 1/8 of its size.

    Both sides are then still at least `least` of its upright size.

    With it that upright size, which decides limits, crops and tokens. A draft is what libjpeg makes of the low
    frequencies of each block: not the exact picture's pixels, averaged. Other formats come in full.
    """
    with _opened(data, limits) as picture:
        orientation = _orientation(picture, data)
        size = _upright_size(picture, orientation)
        if limits.decode == "fast":
            enough = least(size)
            across, down = enough.width, enough.height
            picture.draft(None, (down, across) if orientation in SIDEWAYS else (across, down))
        expected = _upright_size(picture, orientation)
        is_tiff = picture.format == "TIFF"
        picture.load()
        upright = _rgb(picture)
        if not is_tiff and orientation in TRANSPOSE:  # Pillow has turned a TIFF while loading it
            upright = upright.transpose(TRANSPOSE[orientation])
    if (upright.width, upright.height) != (expected.width, expected.height):
        raise MediaError(Code.CORRUPT, "the pixels do not have the size that the header declares")
    return upright, size


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
    for kind, start, length in png_chunks(data):
        if kind == b"eXIf":
            return b"Exif\x00\x00" + data[start : start + length]
    return b""


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
    if is_cut(data):
        return MediaError(Code.TRUNCATED, f"the file begins as {name} and ends before its pixels do")
    return MediaError(Code.CORRUPT, f"the file begins as {name}, and its header cannot be read")


def _broken(data: bytes, error: Exception) -> MediaError:
    if "truncat" in str(error).lower() or isinstance(error, EOFError) or is_cut(data):
        return MediaError(Code.TRUNCATED, "the file ends before its pixels do")
    return MediaError(Code.CORRUPT, f"the decoder gave up: {type(error).__name__}: {error}")
