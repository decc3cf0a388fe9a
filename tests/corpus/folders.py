"""A plain folder with bad files: keys are paths below it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.corpus.entries import CAPTIONED, HTML, NO_SUBTITLE, SIDECAR, Outcome, failed, picture


def files() -> Mapping[str, tuple[bytes, Outcome]]:
    """Bytes and outcome by name."""
    return {
        "empty.jpg": (b"", failed("empty_input")),
        "page.jpg": (HTML, failed("unidentified")),
        "deep/er/cut.jpg": (picture(41, "JPEG", (400, 300))[:-500], failed("truncated")),
        "caf\udce9.png": (picture(42), failed("bad_key")),  # the byte E9, which is no UTF-8
        "twice.png": (picture(43), CAPTIONED),
        "twice.jpg": (picture(44, "JPEG"), CAPTIONED),
        "line\nbreak.png": (picture(45), NO_SUBTITLE),
        "s3:::x.png": (picture(46), NO_SUBTITLE),
        "large.png": (bytes(4_000_001), failed("too_large")),
        "large_sidecar.png": (picture(47), NO_SUBTITLE),
    }


def write(folder: Path) -> None:
    """The files, sidecars, and what is no asset: hidden files, other files, links out of the folder and in a circle."""
    others = {"twice.json": SIDECAR, "large_sidecar.json": b'{"subtitle": "' + b"a" * 100_000 + b'"}'}
    others |= {".hidden.png": picture(), "Thumbs.db": b"x", "__MACOSX/a.png": picture(), ".DS_Store": b"x"}
    for name, data in {**{n: d for n, (d, _) in files().items()}, **others}.items():
        path = os.fsencode(folder / name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    (folder / "circle").symlink_to(folder)
    (folder / "link.png").symlink_to("/etc/hostname")
