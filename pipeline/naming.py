"""What a member's name says: its key, and what it is good for. Names are data; none becomes a path."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

DECODED = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "j2k"))
REFUSED = frozenset(("svg", "heic", "heif", "jxl", "eps", "psd"))  # listed so that each becomes a failure row
IMAGES = DECODED | REFUSED
VIDEOS = frozenset(("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv", "wmv", "3gp"))
SIDECARS = frozenset(("json", "txt"))
MAX_TEXT = 64 * 1024  # bytes of a sidecar or a text cell; larger ones are not captions' context but cargo


def split(name: str) -> tuple[str, str] | None:
    """Key and lower-case extension as WebDataset has them: the path up to the first dot of its basename.

    None for names that are no assets: hidden files, `__MACOSX/`, names without a key or without an extension.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not (stem and dot and extension) or "__MACOSX" in folder.split("/"):
        return None
    return folder + slash + stem, extension.lower()


def kind(extension: str) -> str:
    """ "image", "video", "sidecar" or "other", by the last component: `final.jpg` is an image."""
    last = extension.rpartition(".")[2].lower()
    groups = {"image": IMAGES, "video": VIDEOS, "sidecar": SIDECARS}
    return next((name for name, members in groups.items() if last in members), "other")


def sidecar(extension: str, data: bytes) -> dict[str, str]:
    """The text fields of a sidecar: of JSON its top-level scalars, of text one field named by the extension.

    A sidecar that cannot be read has no fields; a prompt that needs one then fails for this asset only.
    """
    if not extension.endswith("json"):
        return {clean(extension): data.decode("utf-8-sig", "backslashreplace").strip()}
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, a number of 5,000 digits; or 30,000 brackets
        return {}
    pairs = content.items() if isinstance(content, dict) else ()
    return {clean(name): text for name, value in pairs if (text := scalar(value)) is not None}


def scalar(value: Any) -> str | None:
    """A JSON or Arrow scalar as text, as JSON writes it; None for null, NaN, and what is no scalar."""
    match value:
        case str():
            return clean(value)
        case bool() | int():
            return json.dumps(value)
        case float() if math.isfinite(value):
            return json.dumps(value)
    return None


def clean(text: str) -> str:
    """`text` without lone surrogates, which neither Arrow nor UTF-8 can hold; they are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def sniff(data: bytes) -> str:
    """The extension that the first bytes of a nameless cell suggest, for videos; else "jpg" (any image)."""
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"):
        return "mp4"
    if data[:4] == b"\x1aE\xdf\xa3":  # EBML: Matroska and WebM
        return "mkv"
    return "avi" if data[:4] == b"RIFF" and data[8:12] == b"AVI " else "jpg"


def digest(parts: tuple[bytes, ...]) -> str:
    """`Asset.sha256` of media bytes: of the one part, or of the parts' concatenated binary digests."""
    digests = [hashlib.sha256(part).digest() for part in parts]
    return joined(digests)


def joined(digests: list[bytes]) -> str:
    """`Asset.sha256` from the members' binary digests in order; "" for none."""
    if len(digests) <= 1:
        return digests[0].hex() if digests else ""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def asset_id(dataset: str, shard_path: str, key: str) -> str:
    """32 hex digits that name an asset wherever its shard lies: blake2b-128 of the parts, NUL between."""
    parts = [part.replace("\\", "\\\\").replace("\0", "\\0") for part in (dataset, shard_path, key)]
    return hashlib.blake2b("\0".join(parts).encode("utf-8"), digest_size=16).hexdigest()
