"""What a local file system needs that an object store does by itself: writes that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

TEMPORARY = ".captionmill-tmp"  # suffix of files that are being written; never listed
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # FAT, and buckets mounted with FUSE
_NO_NAMELESS = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}  # the same, and NFS


def put(path: str, data: bytes, *, replace: bool) -> None:
    """Write the file and its parent folders at once; without `replace`, `FileExistsError` if it is there.

    The file gets its name when it is complete, so a writer that is killed leaves nothing behind. Where the file system
    has no files without names, it leaves one that ends in `TEMPORARY`.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name[:40]}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with _new(folder, temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves a complete name on an empty file
            if _linked(file, path, replace):
                return
            if not os.path.exists(temporary):
                _link(file, temporary)
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


def unfinished(root: str) -> list[str]:
    """Paths below `root` of files that were being written when their writer died."""
    return sorted(os.path.relpath(path, root) for path, _ in walk(root) if path.endswith(TEMPORARY))


def _new(folder: str, temporary: str) -> BinaryIO:
    """A new file in the folder, without a name, else under a temporary one."""
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    except OSError as error:
        if error.errno not in _NO_NAMELESS:
            raise
    return open(temporary, "xb")


def _link(file: BinaryIO, path: str) -> None:
    """Give the open file this name; `FileExistsError` where it is another's."""
    descriptor = file.fileno()
    os.link(
        f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor
    )  # with a src_dir_fd it follows the link


def _linked(file: BinaryIO, path: str, replace: bool) -> bool:
    """Whether the file has this name now; False where it takes a rename."""
    try:
        _link(file, path)
    except FileExistsError:
        if not replace:
            raise
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
