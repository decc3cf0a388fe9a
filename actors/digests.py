"""Digests of files. Those of large ones are computed once and kept.

A digest is kept in the user's cache folder, $XDG_CACHE_HOME or ~/.cache, below captionmill/digests: one small JSON
file for each hashed file, named after its path. It holds for as long as the file's size, inode, mtime and ctime are
what they were; no program can set a ctime back.

It is a cache: where an entry cannot be read or means something else, the digest is computed again, and where the
folder cannot be written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from actors import cache

THREADS = 8  # hashing frees the interpreter's lock
KEPT_FROM = (
    64 << 20
)  # bytes: less is hashed in 0.1 s, and what is kept must have outlasted a tick of the file clock


def digest(files: Iterable[Path]) -> str:
    """Hex sha256 over name, size and hex sha256 of each file, in name order: "name\\0size\\0sha256\\n"."""
    ordered = sorted(set(files), key=lambda path: path.name)
    with ThreadPoolExecutor(THREADS) as pool:
        each = list(pool.map(sha256, ordered))
    lines = (f"{p.name}\0{p.stat().st_size}\0{d}\n" for p, d in zip(ordered, each, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hex sha256 of the file's content, which is read only where no digest is kept of it as it is now."""
    if path.stat().st_size < KEPT_FROM:
        return _computed(path)
    kept, state = _kept_at(path), _state(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(kept.read_text(encoding="utf-8"))
        if entry["state"] == state:
            return str(entry["sha256"])
    computed = _computed(path)
    if _state(path) == state:
        _keep(kept, {"state": state, "sha256": computed})
    return computed


def _computed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> dict[str, int | str]:
    """What changes when the file does; links are followed."""
    stat = path.stat()
    times = {"mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
    return {"path": str(path.resolve()), "inode": stat.st_ino, "bytes": stat.st_size, **times}


def _kept_at(path: Path) -> Path:
    return cache.folder("digests") / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"


def _keep(kept: Path, entry: dict[str, object]) -> None:
    """Put the entry there in one step: another process may read it meanwhile."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8") as file:
            json.dump(entry, file)
        os.replace(file.name, kept)
