"""The assets of a plain folder: one for each media file, with the sidecars beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from pipeline import naming, storage
from pipeline.config import InputConfig
from pipeline.draft import Draft, Looks, Probe
from pipeline.errors import StorageError
from pipeline.storage import Entry
from pipeline.types import Asset, Code, Media, Member, Shard


def etag(entries: Sequence[Entry]) -> str:
    """What changes when any file of the folder does: a digest of names, sizes and etags."""
    digest = hashlib.blake2b(digest_size=16)
    for entry in entries:
        digest.update(f"{entry.name}\0{entry.size}\0{entry.etag}\0".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def media(entry: Entry) -> Media | None:
    """Whether a file is an image or a video by its name; None for all others and for hidden ones."""
    named = naming.split(entry.name)
    kind = naming.kind(named[1]) if named else "other"
    return Media(kind) if kind in (Media.IMAGE, Media.VIDEO) else None


def file_uri(shard: Shard, name: str) -> str:
    """The address of a file of the folder; not `join`, because a name in a bucket may begin with a slash."""
    return f"{shard.uri.rstrip('/')}/{name}"


def scan(shard: Shard, config: InputConfig, probe: Probe) -> Iterator[Asset]:
    """The rows of one folder, by name. The key is the file's path below the folder, with its extension.

    Sidecars have `.json` or `.txt` in place of the extension. A folder that changes meanwhile is a
    `StorageError`: its index would be of no listing.
    """
    entries = storage.listing(shard.uri)
    if etag(entries) != shard.etag:
        raise _changed(shard)
    looks = Looks(probe)
    for draft in looks.done(_drafts(shard, entries, config, looks)):
        yield draft.asset(config.dataset, shard)


def _drafts(shard: Shard, entries: list[Entry], config: InputConfig, looks: Looks) -> Iterator[Draft]:
    files = {entry.name: entry for entry in entries}
    found = [(entry, kind) for entry in entries if (kind := media(entry)) is not None]
    wanted = (item for entry, _ in found for item in _wanted(entry, files, config.max_member_bytes))
    contents = storage.read_many((item.uri, item.size) for item in wanted)
    for entry, kind in found:
        draft = Draft(naming.clean(entry.name))
        if draft.key != entry.name:
            draft.kinds.append(kind)
            draft.fail(Code.BAD_KEY, "the file's name is not UTF-8")
        else:
            draft.name(Member(entry.name, 0, entry.size), kind, config.max_member_bytes)
        for item in _wanted(entry, files, config.max_member_bytes):
            data = next(contents)
            if data is None or len(data) != item.size:
                raise _changed(shard)
            if item is entry:
                looks.take(draft, data)
            else:
                draft.text |= naming.sidecar(item.name.rpartition(".")[2], data)
        yield draft


def _wanted(entry: Entry, files: Mapping[str, Entry], limit: int) -> list[Entry]:
    """What is read for one media file: its sidecars, then the file unless it is too large or unnamable."""
    stem = entry.name.rpartition(".")[0]
    sidecars = [files[name] for name in (f"{stem}.json", f"{stem}.txt") if name in files]
    wanted = [item for item in sidecars if item.size <= naming.MAX_TEXT]
    readable = entry.size <= limit and naming.clean(entry.name) == entry.name
    return [*wanted, entry] if readable else wanted


def _changed(shard: Shard) -> StorageError:
    return StorageError(f"{storage.redact(shard.uri)} changed since it was listed; start again")
