"""Bytes in and out: stateless functions on URIs. The only module that knows fsspec.

A URI is a local path, `s3://bucket/key`, `memory://…` or whatever else fsspec opens. Nothing is cached
between calls: what another machine wrote a moment ago is seen. Every failure is a `StorageError` that names
operation, address, reason and remedy; a missing object is its subclass `MissingError`. Failures that may pass
are waited out for a minute (see `retry`).
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from pipeline import local, s3, traffic
from pipeline.errors import StorageError
from pipeline.patterns import is_glob
from pipeline.retry import QUICK, call
from pipeline.store_errors import MissingError, expected, http_status, redact
from pipeline.streams import Ranges, ahead

__all__ = ["Entry", "MissingError", "absolute", "check_readable", "check_writable", "delete", "exists"]
__all__ += ["expand", "info", "join", "listing", "open_read", "put", "put_new", "read", "read_many"]
__all__ += ["read_range", "redact", "siblings"]

MIB = 1 << 20
READ_AHEAD = 8 * MIB  # 100 ms at 80 MB/s, so 30 ms to the first byte cost a sequential reader a quarter
PROBE = ".captionmill-probe"  # always this name, so that one left by a lost answer goes with the next check


@dataclass(frozen=True, slots=True)
class Entry:
    """An object: where it is, its name below what was listed (else its last component), bytes, etag and age.

    `etag` is the store's without quotes, else "<size>-<modification time in ns>". `modified_s` is when it was last
    written, seconds since 1970 by the store's clock; 0 where the store does not say.
    """

    uri: str
    name: str
    size: int
    etag: str
    modified_s: float


def join(uri: str, *parts: str) -> str:
    """`uri/part/part`, with exactly one slash between them."""
    base = uri if uri.endswith("://") else uri.rstrip("/") + "/"
    return base + "/".join(part.strip("/") for part in parts if part)


def absolute(uri: str) -> str:
    """`uri` as `Entry.uri` spells it, from any working folder: local paths are absolute, no slash at the end."""
    fs, path = _open(uri)
    return _uri(fs, path)


def read(uri: str, size: int | None = None) -> bytes:
    """The whole object, as long as the store says that it is. For objects that fit in memory comfortably.

    `size`, where it is known, saves the request that asks for it.
    """
    fs, path = _open(uri)

    def whole() -> bytes:
        data = bytes(fs.cat_file(path))
        if len(data) != size:
            _check_length(len(data), int(fs.info(path)["size"]))
        return data

    data = call("read", uri, whole)
    traffic.add(read_bytes=len(data))
    return data


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Exactly the bytes [start, stop) of the object; one that ends before `stop` is a `StorageError`."""
    if stop <= start:
        return b""
    fs, path = _open(uri)

    def part() -> bytes:
        data = bytes(fs.cat_file(path, start=start, end=stop))
        if len(data) != stop - start:
            _check_length(len(data), max(0, min(stop, int(fs.info(path)["size"])) - start))
        return data

    data = call("read", uri, part)
    traffic.add(read_bytes=len(data))
    if len(data) != stop - start:
        raise StorageError(
            f"cannot read {redact(uri)}: bytes {start} to {stop} were asked for and {len(data)} came; "
            "the object is shorter than it was, or still being written: start again"
        )
    return data


def _check_length(came: int, due: int) -> None:
    """A connection that was cut may look like a short object: the answer's own length is not to be trusted."""
    if came != due:
        raise ConnectionAbortedError(f"{came} of {due} bytes came")


def read_many(objects: Iterable[tuple[str, int]]) -> Iterator[bytes | None]:
    """The bytes of each (uri, size in bytes), in order; None for one that does not exist.

    Reads ahead (see `ahead`): a folder of small files on S3 is otherwise read at one latency (about 30 ms) a file.
    """
    return ahead(objects, _read_or_none)


def _read_or_none(uri: str, size: int) -> bytes | None:
    try:
        return read(uri, size)
    except MissingError:
        return None


def open_read(uri: str, size: int | None = None, read_ahead: int = READ_AHEAD) -> BinaryIO:
    """A seekable stream over the object that fetches `read_ahead` bytes at a time.

    `size` saves the request that asks for it. Each fetch is a range read with retries of its own, so a
    connection that drops in the middle of a large shard costs one block.
    """
    whole = info(uri).size if size is None else size
    return io.BufferedReader(Ranges(partial(read_range, uri), whole), read_ahead)


def put(uri: str, data: bytes) -> None:
    """Make the object be `data`, at once: readers see the old object or the new one, never a part of one."""
    fs, path = _open(uri)
    call("write", uri, lambda: _write(fs, path, data))
    traffic.add(written_bytes=len(data))


def put_new(uri: str, data: bytes) -> bool:
    """Make the object be `data` unless it exists; whether it was written.

    Where a store does not know conditional writes this is `put`. False may also mean that an earlier try of
    this very call arrived and its answer was lost: callers must not take it for a conflict without looking.
    """
    fs, path = _open(uri)
    try:
        call("write", uri, lambda: _create(fs, path, data))
    except FileExistsError:
        return False
    traffic.add(written_bytes=len(data))
    return True


def _write(fs: Any, path: str, data: bytes, **given: Any) -> None:
    if isinstance(fs, LocalFileSystem):
        local.put(path, data, replace=True)
    else:
        fs.pipe_file(path, data, **(s3.one_put(len(data)) if s3.serves(fs) else {}) | given)


def _create(fs: Any, path: str, data: bytes) -> None:
    """Write on condition that nothing is there, else `FileExistsError`; a plain PUT where conditions are unknown."""
    if isinstance(fs, LocalFileSystem):
        return local.put(path, data, replace=False)
    try:
        fs.pipe_file(path, data, mode="create", **(s3.one_put(len(data)) if s3.serves(fs) else {}))
    except expected() as error:
        # s3fs maps a 412 to FileExistsError only if the answer has a field that AWS and moto send.
        if http_status(error) == 412:
            raise FileExistsError(path) from error
        if http_status(error) != 501:
            raise
        _write(fs, path, data)


def info(uri: str) -> Entry:
    """The object's size and etag; `MissingError` where there is none, or a folder."""
    fs, path = _open(uri)
    found = call("look at", uri, lambda: cast(Mapping[str, Any], fs.info(path)))
    if found["type"] != "file":
        raise MissingError(f"cannot look at {redact(uri)}: it is a folder; name a file in it")
    return _entry(fs, path, found, path.rpartition("/")[2])


def exists(uri: str) -> bool:
    """Whether there is an object (not a folder) at `uri`."""
    fs, path = _open(uri)
    try:
        if s3.serves(fs):
            call("look at", uri, lambda: s3.head(fs, path))
        else:
            info(uri)
    except MissingError:
        return False
    return True


def delete(uri: str) -> None:
    """Remove the object; nothing happens where there is none."""
    fs, path = _open(uri)
    with contextlib.suppress(MissingError):
        call("delete", uri, lambda: fs.rm_file(path))


def listing(uri: str, cuts: Sequence[str] = ()) -> list[Entry]:
    """All objects below the folder or prefix `uri`, sorted by name; [] if there are none.

    A store that lists a page at a time is asked for the stretches between `cuts`, sorted names, side by side.

    Local symbolic links are left out: they may point out of the folder, or in a circle. A bucket that does
    not exist is a `MissingError`.
    """
    fs, path = _open(uri)
    root = path.rstrip("/")

    def entry(path: str, item: Mapping[str, Any]) -> Entry | None:
        own = _is_object(path, item) and path.startswith(root + "/")
        return _entry(fs, path, item, path[len(root) + 1 :]) if own else None

    if s3.serves(fs):
        found = s3.find(fs, uri, root, entry, cuts)
    elif isinstance(fs, LocalFileSystem):
        found = call("list", uri, lambda: [entry(*item) for item in local.walk(root)])
    else:
        found = call("list", uri, lambda: [entry(*item) for item in fs.find(root, detail=True).items()])
    return sorted(filter(None, found), key=lambda e: e.name)


def expand(pattern: str) -> list[Entry]:
    """The objects that match a glob (`*`, `?`, `[…]`, `**`), sorted by uri; local links to files count as files."""
    fs, path = _open(pattern)
    folder, _, name = path.rpartition("/")
    if s3.serves(fs) and not is_glob(folder) and name != "**":  # fsspec's own takes twice as long
        matches = re.compile(glob_translate(name)).match
        return [entry for entry in _level(fs, pattern, folder) if matches(entry.name)]
    with contextlib.suppress(MissingError):
        found = call("list", pattern, lambda: fs.glob(path, detail=True))
        return _files(fs, found.items())
    return []


def siblings(uri: str) -> list[Entry]:
    """The objects in the folder that `uri` is in, not below it: one LIST instead of a HEAD for each."""
    fs, folder = _open(uri.rpartition("/")[0])
    return _level(fs, uri, folder)


def _level(fs: Any, uri: str, folder: str) -> list[Entry]:
    """The objects in the folder, not below it; [] where there is none."""
    try:
        if s3.serves(fs):
            return _files(fs, s3.find(fs, uri, folder, lambda *item: item, deep=False))
        found = call("list", uri, lambda: fs.ls(folder, detail=True))
    except MissingError:
        return []
    return _files(fs, ((item["name"], item) for item in found if item["name"].startswith(f"{folder}/")))


def _files(fs: Any, found: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Entry]:
    """The objects among them, sorted by uri."""
    entries = []
    for path, item in found:
        if item.get("islink"):
            with contextlib.suppress(FileNotFoundError):  # a link to nothing stays what it is, no file
                item = fs.info(path)
        if _is_object(path, item):
            entries.append(_entry(fs, path, item, path.rpartition("/")[2]))
    return sorted(entries, key=lambda e: e.uri)


def check_readable(uri: str) -> None:
    """Raise `StorageError` within about 2 s if the object, folder or bucket at `uri` cannot be looked at."""
    fs, path = _open(uri)
    call("look at", uri, lambda: fs.info(path, **_quickly(fs)), QUICK)


def check_writable(uri: str) -> None:
    """Raise `StorageError` within about 2 s if objects cannot be written and deleted below `uri`."""
    fs, path = _open(join(uri, PROBE))
    call("write to", uri, lambda: _write(fs, path, b"captionmill", **_quickly(fs)), QUICK)
    with contextlib.suppress(MissingError):  # another driver's check removed it
        call("delete in", uri, lambda: fs.rm_file(path, **_quickly(fs)), QUICK)


def _quickly(fs: Any) -> dict[str, float]:
    """Keywords for a request that somebody waits for."""
    return {"timeout": s3.QUICK_S} if s3.serves(fs) else {}


def _open(uri: str) -> tuple[Any, str]:
    """The file system of `uri` and the path in it."""
    fs = call("open", uri, lambda: _filesystem(uri))
    return fs, fs._strip_protocol(uri)


def _filesystem(uri: str) -> Any:
    # Not fsspec.url_to_fs: it takes "::" in a name for a chain of addresses, and names come from strangers.
    kind = fsspec.get_filesystem_class(fsspec.core.split_protocol(uri)[0] or "file")
    given = {**kind._get_kwargs_from_urls(uri), "use_listings_cache": False}
    if not s3.serves(kind):
        return kind(**given)
    fs = kind(**given, **s3.options())
    s3.prepare(fs)
    return fs


def _is_object(name: str, item: Mapping[str, Any]) -> bool:
    return item["type"] == "file" and not name.endswith(("/", local.TEMPORARY))


def _entry(fs: Any, path: str, item: Mapping[str, Any], name: str) -> Entry:
    return Entry(_uri(fs, path), name, int(item["size"]), _etag(item), _modified_s(item))


def _uri(fs: Any, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path.lstrip("/")))


def _etag(item: Mapping[str, Any]) -> str:
    etag = item.get("ETag") or item.get("etag")
    if etag:
        return str(etag).strip('"')
    return f"{item['size']}-{int(_modified_s(item) * 1e9)}"


def _modified_s(item: Mapping[str, Any]) -> float:
    when = item.get("mtime") or item.get("LastModified") or item.get("created") or 0
    return when.timestamp() if isinstance(when, datetime) else float(when)
