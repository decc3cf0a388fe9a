"""What a local file system needs that an object store does by itself: writes that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from typing import Any

TEMPORARY = ".captionmill-tmp"  # suffix of files that are being written; never listed
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # FAT, and buckets mounted with FUSE


def put(path: str, data: bytes, *, replace: bool) -> None:
    """Write the file and its parent folders at once; without `replace`, `FileExistsError` if it is there."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name[:40]}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves a complete name on an empty file
        if replace or not _linked(temporary, path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def walk(root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and information (as fsspec has it) of each regular file below `root`; no symbolic links."""
    for folder, _, names in os.walk(root, onerror=_unless_missing):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    yield path, {"type": "file", "size": status.st_size, "mtime": status.st_mtime}


def _linked(temporary: str, path: str) -> bool:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
