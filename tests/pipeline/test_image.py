"""Decoding images: every allowed format, orientation, alpha, deep samples, and each way to be refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline import containers, image
from pipeline.config import ImageConfig
from pipeline.errors import MediaError
from pipeline.types import Code, Size

LIMITS = ImageConfig()
FAST = ImageConfig(decode="fast")
ORIENTATION = 0x0112


def scene(width: int = 60, height: int = 40) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def encode(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format, **options)
    return sink.getvalue()


def exif(orientation: int) -> Image.Exif:
    table = Image.Exif()
    table[ORIENTATION] = orientation
    return table


def refusal(data: bytes, limits: ImageConfig = LIMITS) -> MediaError:
    with pytest.raises(MediaError) as caught:
        image.decode(data, limits)
    return caught.value


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


ENCODED = {
    "jpeg": encode(scene(), "JPEG"),
    "jpeg-progressive": encode(scene(), "JPEG", progressive=True),
    "jpeg-gray": encode(scene().convert("L"), "JPEG"),
    "jpeg-cmyk": encode(scene().convert("CMYK"), "JPEG"),
    "mpo": encode(scene(), "MPO", save_all=True, append_images=[scene()]),
    "png": encode(scene()),
    "png-palette": encode(scene().convert("P")),
    "png-1-bit": encode(scene().convert("1")),
    "webp": encode(scene(), "WEBP"),
    "webp-lossless": encode(scene(), "WEBP", lossless=True),
    "gif": encode(scene().convert("P"), "GIF"),
    "bmp": encode(scene(), "BMP"),
    "tiff": encode(scene(), "TIFF"),
    "tiff-lzw": encode(scene(), "TIFF", compression="tiff_lzw"),
    "avif": encode(scene(), "AVIF"),
    "jp2": encode(scene(), "JPEG2000"),
    "j2k": encode(scene(), "JPEG2000", no_jp2=True),
}


@pytest.mark.parametrize("name", ENCODED)
def test_every_allowed_format_becomes_rgb_of_the_probed_size(name: str) -> None:
    picture = image.decode(ENCODED[name], LIMITS)

    assert picture.mode == "RGB"
    assert Size(*picture.size) == image.probe(ENCODED[name], LIMITS) == Size(60, 40)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    data = encode(scene(), format, exif=exif(orientation))
    picture = image.decode(data, LIMITS)
    by_hand = scene() if orientation == 1 else scene().transpose(image.TRANSPOSE[orientation])

    difference = np.abs(np.asarray(picture, np.int16) - np.asarray(by_hand, np.int16))
    assert picture.size == by_hand.size
    assert np.median(difference) <= 2
    assert image.probe(data, LIMITS) == Size(*picture.size)


def test_a_png_exif_chunk_behind_the_pixels_counts_too() -> None:
    plain = encode(scene())
    data = plain[:-12] + chunk(b"eXIf", exif(6).tobytes()[6:]) + plain[-12:]

    assert image.probe(data, LIMITS) == Size(40, 60)
    assert image.decode(data, LIMITS).size == (40, 60)


def test_a_png_is_probed_without_its_pixels() -> None:
    plain = encode(scene())

    assert image.probe(plain[: plain.index(b"IDAT") + 6], LIMITS) == Size(60, 40)


@pytest.mark.parametrize(
    "value", [b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\x00\x00\xff\xff", b"Exif\x00\x00"]
)
def test_broken_exif_is_ignored(value: bytes) -> None:
    data = encode(scene(), "JPEG", exif=value)

    assert image.decode(data, LIMITS).size == (60, 40)
    assert image.probe(data, LIMITS) == Size(60, 40)


def test_an_unknown_orientation_is_ignored() -> None:
    assert image.decode(encode(scene(), "JPEG", exif=exif(99)), LIMITS).size == (60, 40)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_becomes_white_and_hides_its_colour(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0)).convert(mode)

    assert set(image.decode(encode(clear), LIMITS).get_flattened_data()) == {(255, 255, 255)}


def test_a_transparent_palette_entry_becomes_white() -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 200, 0, 0])
    data = encode(picture, transparency=1)

    assert set(image.decode(data, LIMITS).get_flattened_data()) == {(255, 255, 255)}


def test_half_transparency_is_half_white() -> None:
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))

    assert image.decode(encode(half), LIMITS).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(format: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = image.decode(encode(Image.fromarray(ramp), format), LIMITS)

    np.testing.assert_array_equal(np.asarray(picture)[..., 0], ramp >> 8)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_wide_samples_are_spread_over_their_range(dtype: Any) -> None:
    ramp = (np.arange(256).reshape(16, 16) * 1000 - 5000).astype(dtype)
    picture = image.decode(encode(Image.fromarray(ramp), "TIFF"), LIMITS)

    np.testing.assert_array_equal(np.asarray(picture)[..., 0].ravel(), np.arange(256))


def test_samples_that_are_not_numbers_are_black() -> None:
    samples = np.array([[np.nan, 0.0], [1.0, np.inf]], np.float32)

    assert np.asarray(image.decode(encode(Image.fromarray(samples), "TIFF"), LIMITS)).max() == 255


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue", "green")]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    red, green, blue = np.asarray(image.decode(data, LIMITS)).reshape(-1, 3).mean(0)

    assert red > 240 > 15 > max(green, blue)


def test_junk_behind_the_file_is_ignored() -> None:
    assert image.decode(ENCODED["jpeg"] + b"junk" * 100, LIMITS).size == (60, 40)


@pytest.mark.parametrize("name", [name for name in ENCODED if name != "tiff-lzw"])
def test_half_a_file_is_truncated(name: str) -> None:
    data = ENCODED[name]
    half = data[: data.index(b"\xff\xda") + 20] if name == "mpo" else data[: len(data) * 6 // 10]

    assert refusal(half).code is Code.TRUNCATED


@pytest.mark.parametrize("name", ["jpeg", "webp", "bmp", "avif", "tiff", "tiff-lzw"])
def test_two_missing_bytes_are_noticed(name: str) -> None:
    assert refusal(ENCODED[name][:-2]).code is Code.TRUNCATED


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"", Code.EMPTY, "no bytes"),
        (b"<!DOCTYPE html><html>404</html>", Code.UNIDENTIFIED, "HTML"),
        (b'{"error": "gone"}', Code.UNIDENTIFIED, "JSON"),
        (bytes(range(256)), Code.UNIDENTIFIED, "no image format"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', Code.UNSUPPORTED, "SVG"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", Code.UNSUPPORTED, "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Code.UNSUPPORTED, "EPS"),
        (b"8BPS\x00\x01" + bytes(20), Code.UNSUPPORTED, "Photoshop"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00", Code.UNSUPPORTED, "MP4"),
        (b"\xff\xd8\xff", Code.TRUNCATED, "JPEG"),
    ],
)
def test_other_bytes_are_refused_by_name(data: bytes, code: Code, word: str) -> None:
    error = refusal(data)

    assert error.code is code
    assert word in error.message


def test_a_png_with_broken_pixels_is_corrupt() -> None:
    data = bytearray(ENCODED["png"])
    at = data.index(b"IDAT")
    data[at + 6 : at + 12] = b"\xff" * 6

    assert refusal(bytes(data)).code is Code.CORRUPT


def test_eps_is_not_handed_to_ghostscript_by_its_pixels_format() -> None:
    assert refusal(encode(scene(), "EPS")).code is Code.UNSUPPORTED


def test_too_many_pixels_are_refused_from_the_header_alone() -> None:
    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)  # 120 GB of pixels, if decoded
    data = (
        containers.PNG_MAGIC
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )

    with pytest.raises(MediaError, match="200000 x 200000") as caught:
        image.probe(data, LIMITS)
    assert caught.value.code is Code.TOO_LARGE
    assert refusal(data).code is Code.TOO_LARGE


def test_the_pixel_limit_is_the_jobs_not_pillows() -> None:
    data = encode(Image.new("1", (10_000, 9_500)))  # 95 million: Pillow warns at 89

    assert image.probe(data, LIMITS) == Size(10_000, 9_500)
    assert refusal(data, ImageConfig(max_pixels=94_999_999)).code is Code.TOO_LARGE


def test_a_bomb_in_a_text_chunk_is_an_error_not_memory() -> None:
    bomb = chunk(b"zTXt", b"key\x00\x00" + zlib.compress(bytes(1 << 26)))
    data = ENCODED["png"][:33] + bomb + ENCODED["png"][33:]

    assert refusal(data).code is Code.CORRUPT


def test_messages_are_short_and_hold_no_addresses() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("secret", "/home/someone/path")
    data = encode(scene(), pnginfo=info)
    error = refusal(data[: data.index(b"IDAT") + 8])

    assert len(error.message) <= 300
    assert "/home" not in error.message
    assert " at 0x" not in error.message


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_draft_is_upright_and_comes_with_the_pictures_own_size(orientation: int) -> None:
    data = encode(scene(640, 480), "JPEG", exif=exif(orientation))
    wide = orientation == 1
    drafted, size = image.draft(data, FAST, lambda size: Size(size.width // 4, size.height // 4))

    assert size == (Size(640, 480) if wide else Size(480, 640))
    assert drafted.size == ((160, 120) if wide else (120, 160))
    top_left = drafted.getpixel((20, 20))
    assert top_left == pytest.approx((255, 0, 0) if wide else (0, 0, 255), abs=3)


@pytest.mark.parametrize("name", ENCODED)
def test_a_draft_of_what_is_needed_whole_is_the_exact_picture(name: str) -> None:
    drafted, size = image.draft(ENCODED[name], FAST, lambda size: Size(size.width // 2 + 1, size.height))

    assert (drafted.tobytes(), Size(*drafted.size)) == (image.decode(ENCODED[name], LIMITS).tobytes(), size)


def test_a_draft_of_too_many_pixels_is_refused_by_the_size_in_the_file() -> None:
    data = encode(Image.new("RGB", (1000, 1000)), "JPEG")

    with pytest.raises(MediaError, match="1000 x 1000") as caught:
        image.draft(data, ImageConfig(max_pixels=999_999, decode="fast"), lambda _: Size(100, 100))
    assert caught.value.code is Code.TOO_LARGE
