"""Bad images: what a crawl brings home under names that end in .jpg."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from PIL import Image, PngImagePlugin

from tests.corpus.entries import CAPTIONED, GRAY, HTML, Asset, Outcome, box, chunk, failed, picture, saved
from tests.films import Film

PNG = b"\x89PNG\r\n\x1a\n"
PHOTO = picture(2, "JPEG", (400, 300))
PLAIN = picture(9)
RED = Image.new("RGB", (40, 30), (200, 0, 0))
BLUE = (9, 100, 200)


def _png(width: int, height: int, *chunks: bytes, depth: int = 8, colours: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def _jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(picture(1, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _many_scans() -> bytes:
    """A progressive JPEG of 3 MB and 16 megapixels whose decoder works for minutes: the same scan over and over."""
    data = saved(Image.new("L", (4096, 4096), 128), "JPEG", progressive=True)
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    refinement, end = data[scans[-1] : -2], data[-2:]
    return data[:-2] + refinement * (3_000_000 // len(refinement)) + end


def _many_frames(form: str, frames: int = 20_000) -> bytes:
    small = [Image.new("P", (16, 16), i % 256) for i in range(2)]
    data = saved(small[0], form, save_all=True, append_images=[small[1]], duration=10)
    body = data[data.index(b"\x21\xf9") : -1]
    return data[:-1] + body * frames + data[-1:]


def _animated_png(frames: int = 100_000) -> bytes:
    """It says so; only the first is ever looked at."""
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + bytes(BLUE) * 40 + (b"\0" + bytes(BLUE) * 40) * 29))
    control = struct.pack(">IIIIIHHBB", 0, 40, 30, 0, 0, 1, 10, 0, 0)
    later = b"".join(chunk(b"fcTL", struct.pack(">I", n) + control[4:]) for n in range(1, frames))
    return _png(40, 30, chunk(b"acTL", struct.pack(">II", frames, 0)), chunk(b"fcTL", control), pixels, later)


def _tiff(*entries: tuple[int, int, int, int], next_directory: int = 0, body: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory at offset 8; entries are (tag, type, count, value)."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + table + struct.pack("<I", next_directory) + body


def _gray_tiff(offset: int, count: int = 1200, next_directory: int = 0, rows: int = 30) -> bytes:
    """40 x 30 of gray at `offset`."""
    tags = ((256, 3, 1, 40), (257, 3, 1, 30), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, offset), (277, 3, 1, 1), (278, 3, 1, rows), (279, 4, 1, count))  # fmt: skip
    return _tiff(*tags, next_directory=next_directory, body=b"\x80" * 1200)


def _one_tile(side: int) -> bytes:
    """40 x 30 in a compressed tile of `side` x `side`, which is what a decoder has to allocate."""
    tags = ((256, 3, 1, 40), (257, 3, 1, 30), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
            (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 200), (325, 4, 1, 100))  # fmt: skip
    return _tiff(*tags, body=b"\x80" * 1200)


def _exif(value: int) -> Image.Exif:
    table = Image.Exif()
    table[0x0112] = value
    return table


def _sixteen_bits() -> bytes:
    return saved(Image.fromarray(np.full((30, 40), 0x8000, np.uint16)))


def _floats(*, hole: float) -> bytes:
    """Values from -1 to 1 with 0 in the middle, and one that is no number."""
    values = np.zeros((31, 41), np.float32)
    values[0, :3] = (-1, 1, hole)
    return saved(Image.fromarray(values), "TIFF")


def _noise(form: str) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    return saved(Image.fromarray(pixels), form)


def _text_bomb() -> bytes:
    """A compressed comment of 2 MB; Pillow takes 1 MB."""
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Comment", "A" * (2 << 20), zip=True)
    return saved(RED, pnginfo=comment)


def _transparent() -> bytes:
    return saved(Image.new("RGBA", (40, 30), (200, 0, 0, 0)))


def _one(extension: str, data: bytes, outcome: Outcome, colour: tuple[int, int, int] | None = None) -> Asset:
    return Asset(((extension, data),), outcome, colour)


def _refused(code: str, extension: str = "jpg", **files: bytes) -> dict[str, Asset]:
    return {name: _one(extension, data, failed(code)) for name, data in files.items()}


def _taken(colour: tuple[int, int, int], **files: bytes) -> dict[str, Asset]:
    return {name: _one("jpg", data, CAPTIONED, colour) for name, data in files.items()}


def assets() -> Mapping[str, Asset]:
    """Each by its name, which is its key."""
    return {
        **_refused("empty_input", zero_bytes=b""),
        **_refused(
            "unidentified",
            one_byte=b"\xff",
            html_page=HTML,
            xml_error=b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
            json_error=b'{"message": "not found"}',
            random_bytes=np.random.default_rng(0).bytes(5000),
            nothing_but_zeros=bytes(5000),
            gzip_of_a_picture=b"\x1f\x8b\x08\0" + PHOTO,
            zip_archive=b"PK\x03\x04" + bytes(200),
            pickle_that_would_run=b"cposix\nsystem\n(S'touch /tmp/owned'\ntR.",
            picture_behind_a_page=HTML + PHOTO,
            playlist=b"#EXTM3U\nhttp://127.0.0.1:9/secret\n",
        ),
        **_refused(
            "unsupported_format",
            svg=b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
            postscript=b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n",
            pdf=b"%PDF-1.7\n",
            photoshop=b"8BPS\0\1" + bytes(100),
            jpeg_xl=b"\xff\x0a" + bytes(100),
            heic=box(b"ftyp", b"heic\0\0\0\0mif1heic") + bytes(100),
            icon=b"\0\0\1\0\1\0" + bytes(100),
            portable_pixmap=b"P6 40 30 255\n" + bytes(3600),
            gzip_bomb_in_fits=b"SIMPLE  =                    T" + bytes(2850),
            film_named_jpg=Film(times_ms=(0, 40)).data(),
        ),
        **_refused("unsupported_format", "svg", vector=b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        **_refused(
            "truncated",
            jpeg_header_only=PHOTO[:200],
            jpeg_cut_in_half=PHOTO[: len(PHOTO) // 2],
            jpeg_without_its_end=_noise("JPEG")[:-40],
            png_cut_in_half=_noise("PNG")[:5000],
            png_cut_in_its_header=PLAIN[:20],
            png_without_pixels=_png(40, 30)[:-12],
            webp_cut=_noise("WEBP")[:-100],
            gif_cut=_noise("GIF")[:-300],
            bmp_cut=_noise("BMP")[:-300],
            tiff_cut=_noise("TIFF")[:-300],
            avif_cut=_noise("AVIF")[:-300],
            jpeg_2000_cut=_noise("JPEG2000")[:300],
            tiff_pixels_beyond_the_end=_gray_tiff(100_000),
            tiff_of_rubbish=b"II*\0" + b"\x08\0\0\0" + b"\xff" * 100,
            tiff_directory_beyond_the_end=b"II*\0" + struct.pack("<I", 1 << 30),
        ),
        **_refused(
            "corrupt",
            png_bad_checksum=PLAIN.replace(b"IHDR", b"IHDR", 1)[:29] + b"\0\0\0\0" + PLAIN[33:],
            png_bad_pixels=_png(40, 30, chunk(b"IDAT", b"no zlib stream")),
            png_of_no_width=_png(0, 30, chunk(b"IDAT", zlib.compress(b""))),
            png_comment_bomb=_text_bomb(),
            jpeg_of_no_height=_jpeg_header(40, 0),
            webp_of_rubbish=b"RIFF" + struct.pack("<I", 92) + b"WEBPVP8 " + b"\xff" * 84,
        ),
        **_refused(
            "too_large",
            png_200_megapixels=_png(20_000, 10_000, chunk(b"IDAT", zlib.compress(b""))),
            png_40000_x_40000=_png(40_000, 40_000, chunk(b"IDAT", zlib.compress(b""))),
            png_2_to_the_62_pixels=_png((1 << 31) - 1, (1 << 31) - 1, chunk(b"IDAT", zlib.compress(b""))),
            jpeg_40000_x_40000=_jpeg_header(40_000, 40_000),
            more_bytes_than_allowed=bytes(4_000_001),
            tiff_tile_of_a_gigabyte=_one_tile(32_752),
        ),
        **_refused("decoder_timeout", jpeg_of_endless_scans=_many_scans()),
        **_taken(
            BLUE,
            png_named_jpg=PLAIN,
            junk_behind_the_end=picture(9, "PNG") + HTML * 100,
            animated_png_of_100000_frames=_animated_png(),
            one_pixel=picture(9, size=(1, 1)),
            very_wide=picture(9, size=(20_000, 1)),
            very_tall=picture(9, size=(1, 20_000)),
            orientation_99=saved(Image.new("RGB", (40, 30), BLUE), exif=_exif(99)),
            orientation_6=saved(Image.new("RGB", (40, 30), BLUE), exif=_exif(6)),
        ),
        **_taken(
            (200, 0, 0),
            corrupt_exif=saved(RED, "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\xff\xff"),
            corrupt_colour_profile=saved(RED, icc_profile=b"no profile" * 9),
            cmyk=saved(RED.convert("CMYK"), "JPEG", quality=95),
            palette=saved(RED.convert("P", palette=Image.Palette.ADAPTIVE)),
        ),
        **_taken(
            GRAY,
            sixteen_bits=_sixteen_bits(),
            floats_with_a_hole=_floats(hole=float("nan")),
            floats_to_infinity=_floats(hole=float("inf")),
            tiff_directories_in_a_circle=_gray_tiff(122, next_directory=8),
        ),
        **_taken((255, 255, 255), red_hidden_by_transparency=_transparent()),
        "gif_of_20000_frames": _one("gif", _many_frames("GIF"), CAPTIONED),
        "several_pictures_of_which_one_is_bad": Asset(
            (("1.jpg", PHOTO), ("2.jpg", HTML)), failed("unidentified")
        ),
    }
