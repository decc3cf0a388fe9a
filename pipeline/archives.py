"""The assets of a tar shard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from pipeline import naming, storage, tar
from pipeline.config import InputConfig
from pipeline.draft import Draft, Looks, Probe, shard_row
from pipeline.errors import MediaError
from pipeline.types import Asset, Code, Media, Member, Shard


def scan(shard: Shard, config: InputConfig, probe: Probe) -> Iterator[Asset]:
    """The rows of one tar, in order of first appearance of their keys, then what is wrong with the shard.

    Rows come after the last byte was read, because the members of a key may stand anywhere; what is held
    until then is one small record per key, and one member's bytes.
    """
    drafts: dict[str, Draft] = {}
    looks = Looks(probe)
    broken: MediaError | None = None
    with storage.open_read(shard.uri, shard.bytes) as stream:
        seen: set[tuple[str, str]] = set()
        try:
            for header in tar.members(stream):
                named = naming.split(header.name) if header.regular else None
                if named is None:
                    continue
                draft = drafts.setdefault(named[0], Draft(named[0]))
                if named in seen:
                    draft.fail(Code.DUPLICATE_MEMBER, f"more than one member with extension {named[1][:40]}")
                seen.add(named)
                _take(draft, header, named[1], stream, config, looks)
        except MediaError as error:
            broken = error
    looks.now()
    yield from (draft.asset(config.dataset, shard) for draft in drafts.values())
    if broken is not None:
        yield shard_row(config.dataset, shard, broken.code, broken.message)


def _take(
    draft: Draft, header: tar.Header, extension: str, stream: BinaryIO, config: InputConfig, looks: Looks
) -> None:
    """Add one member to its key's draft; reads from `stream` what is worth reading."""
    kind = naming.kind(extension)
    media = Media(kind) if kind in (Media.IMAGE, Media.VIDEO) else None
    if not header.complete:
        draft.fail(Code.TRUNCATED, "the shard ends inside this asset")
        draft.kinds += [media] if media else []
    elif media is not None:
        member = Member(header.name, header.offset, header.size)
        if draft.name(member, media, config.max_member_bytes):
            looks.take(draft, stream.read(header.size))
    elif kind == "sidecar" and header.size <= naming.MAX_TEXT:
        draft.text |= naming.sidecar(extension, stream.read(header.size))
