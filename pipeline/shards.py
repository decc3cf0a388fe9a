"""What the input is: patterns in, shards out, each with the etag it had when it was listed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from pipeline import folders, storage
from pipeline.errors import ConfigError
from pipeline.patterns import MAGIC, braces, fixed_folder, is_glob
from pipeline.storage import Entry
from pipeline.types import Shard, ShardFormat

FEW = 4  # with so many literal names in one folder, one LIST (1,000 names) is cheaper than a HEAD each
SHOWN = 3  # names in a message about many
FORMATS = {".tar": ShardFormat.TAR, ".parquet": ShardFormat.PARQUET}
COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def list_shards(uris: Sequence[str], root: str = "") -> list[Shard]:
    """The shards that `uris` (braces, globs, files, folders) stand for, in their order, each once.

    A `.tar` or `.parquet` object is a shard; a folder is one shard of loose files. `Shard.path` is relative to
    `root`; without it, to the bucket, or for local files to the pattern's fixed folder. Names are sorted within
    a glob. Raises one `ConfigError` with everything that is wrong: nothing found, another format, two shards
    with one path. `StorageError` if a store does not answer.
    """
    problems: list[str] = []
    shards: dict[str, Shard] = {}
    for uri in map(storage.absolute, uris):
        base = storage.absolute(root) if root else _base(uri)
        for shard in _found(uri, problems):
            path = _relative(shard.uri, base)
            if path is None:
                problems.append(
                    f"{storage.redact(shard.uri)} is not below [input] root {storage.redact(base)}"
                )
            else:
                shards.setdefault(shard.uri, replace(shard, path=path))
    problems += _collisions(list(shards.values()))
    if problems:
        raise ConfigError(problems)
    return list(shards.values())


def _found(uri: str, problems: list[str]) -> list[Shard]:
    """The shards of one pattern, their paths still empty; what is wrong with it goes to `problems`."""
    try:
        names = list(braces(uri))
    except ValueError as error:
        problems.append(f"{storage.redact(uri)} {error}")
        return []
    known = _known([name for name in names if not is_glob(name)])
    wrong: dict[str, list[str]] = defaultdict(list)
    shards: list[Shard] = []
    for name in names:
        if is_glob(name):
            entries = storage.expand(name)
            if not entries:
                wrong["matches nothing; check the pattern"].append(name)
        else:
            entry = known.get(name) or _object(name)  # a listing may lag behind
            entries = [entry] if entry else []
            if not entry:
                shards += _folder(name, wrong)
        shards += _objects(entries, wrong)
    problems += [_words(names, reason) for reason, names in wrong.items()]
    return shards


def _known(names: Sequence[str]) -> dict[str, Entry]:
    """What can be said of literal names by listing the folders that hold many of them."""
    parents: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parents[name.rpartition("/")[0]].append(name)
    known: dict[str, Entry] = {}
    for inside in parents.values():
        if len(inside) >= FEW:
            there = {entry.uri: entry for entry in storage.siblings(inside[0])}
            known |= {name: there[name] for name in inside if name in there}
    return known


def _object(name: str) -> Entry | None:
    try:
        return storage.info(name)
    except storage.MissingError:
        return None


def _objects(entries: Sequence[Entry], wrong: dict[str, list[str]]) -> list[Shard]:
    shards = []
    for entry in entries:
        form = FORMATS.get(os.path.splitext(entry.uri)[1].lower())
        if form is not None:
            shards.append(Shard(entry.uri, "", entry.etag, entry.size, form))
        elif entry.uri.lower().endswith(COMPRESSED):
            wrong["is a compressed tar, which cannot be read by ranges; store it as plain .tar"].append(
                entry.uri
            )
        else:
            wrong["is neither .tar nor .parquet; end the pattern in one, or name the folder"].append(
                entry.uri
            )
    return shards


def _folder(name: str, wrong: dict[str, list[str]]) -> list[Shard]:
    """The folder as one shard; none if there is nothing, or if it holds shards and no media."""
    try:
        entries = storage.listing(name)
    except storage.MissingError:
        entries = []
    if not entries:
        wrong["does not exist"].append(name)
    elif not any(folders.media(e) for e in entries) and any(_is_shard(e) for e in entries):
        wrong["is a folder of shards; add /*.tar or /*.parquet to it"].append(name)
    else:
        size = sum(entry.size for entry in entries)
        return [Shard(name, "", folders.etag(entries), size, ShardFormat.FOLDER)]
    return []


def _is_shard(entry: Entry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in FORMATS


def _words(names: Sequence[str], reason: str) -> str:
    shown = ", ".join(storage.redact(name) for name in names[:SHOWN])
    more = f" (and {len(names) - SHOWN} more)" if len(names) > SHOWN else ""
    return f"{shown}{more}: {reason}"


def _base(uri: str) -> str:
    """What paths are relative to: the bucket, or a local pattern's fixed folder (of a name: its folder)."""
    scheme, separator, rest = uri.partition("://")
    if separator:
        return f"{scheme}://{rest.partition('/')[0]}"
    return fixed_folder(uri) if MAGIC.search(uri) else uri.rpartition("/")[0]


def _relative(uri: str, base: str) -> str | None:
    if uri == base:
        return "."
    prefix = base if base.endswith("/") else base + "/"
    return uri[len(prefix) :] if uri.startswith(prefix) else None


def _collisions(shards: Sequence[Shard]) -> list[str]:
    same: dict[str, list[str]] = defaultdict(list)
    for shard in shards:
        same[shard.path].append(shard.uri)
    return [_collision(path, uris) for path, uris in same.items() if len(uris) > 1]


def _collision(path: str, uris: Sequence[str]) -> str:
    parts = zip(*(uri.split("/") for uri in uris), strict=False)
    common = "/".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts)) + "/"
    both = " and ".join(storage.redact(uri) for uri in uris[:2])
    return f"{both} would have the same path {path!r} in rows; set [input] root, for example to {common!r}"
