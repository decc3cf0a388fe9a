"""The user's cache folder: what is kept there can be made again, and may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str) -> Path:
    """$XDG_CACHE_HOME/captionmill/`name`, or the same below ~/.cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captionmill" / name
