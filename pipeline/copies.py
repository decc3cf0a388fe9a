"""Exact duplicates: assets of the same bytes (and the same text, where prompts use it) are captioned once.

All others of such a group get the rows of the one that is captioned, with `duplicate_of`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import papers
from pipeline.papers import COPIES
from pipeline.todo import NOTHING, Indexed, Todo, used

COLUMNS = ("asset_id", "key", "sha256", "media", "text")
Digests = npt.NDArray[np.uint64]
DIGITS = (
    16  # of a sha256, in hex: of 10,000,000 assets, two different ones agree in them with a chance of 3e-6
)


@dataclass(frozen=True, slots=True)
class Member:
    """One of several assets with the same bytes: its place (shard, row), its rows' owner before, whether it stands."""

    asset_id: str
    shard: int
    row: int
    key: str
    was_copy: bool
    stands: bool


def leading(sha256: pa.ChunkedArray) -> Digests:
    """The first 64 bits of hex digests; 0 for those that are empty."""
    text = pc.binary_slice(pc.utf8_rpad(sha256, DIGITS, "0").cast(pa.binary()), 0, DIGITS)
    digits = np.frombuffer(text.cast(pa.binary(DIGITS)).combine_chunks().buffers()[1], np.uint8)
    values = (digits & 15) + 9 * (digits >> 6)  # of 0 to 9 and a to f in ASCII
    pairs = values.reshape(-1, DIGITS // 2, 2)
    found: Digests = (pairs[:, :, 0] << 4 | pairs[:, :, 1]).astype(np.uint8).copy().view(">u8").reshape(-1)
    return found.astype(np.uint64)


def find(
    shards: Sequence[Indexed],
    digests: Sequence[Digests] | None,
    todo: Todo,
    before: pa.Table,
    used_fields: Collection[str],
) -> pa.Table:
    """Rows of schema `COPIES`, sorted by asset_id; in `todo` these assets are then asked nothing.

    `digests` are the rows' `leading` ones; None looks for no duplicates. `before` are the copies of the table before. A
    copy whose original has left stands for itself from now on.
    """
    todo.copied = [np.zeros(len(asks), bool) for asks in todo.asks]
    were = _standing(shards, todo, before)
    found: dict[str, tuple[str, str | None, str, str]] = {}
    known = set(were["asset_id"].to_pylist())
    for group in () if digests is None else _groups(shards, digests, todo, known, sorted(used_fields)):
        original = _original(group)
        for member in group:
            if member is not original and (member.was_copy or not member.stands):
                path = shards[member.shard].shard.path
                found[member.asset_id] = (member.asset_id, original.asset_id, path, member.key)
                todo.asks[member.shard][member.row] = NOTHING
                todo.copied[member.shard][member.row] = True
    for row in were.to_pylist():
        found.setdefault(row["asset_id"], (row["asset_id"], None, row["shard"], row["key"]))
    columns = list(zip(*(found[name] for name in sorted(found)), strict=True)) or [()] * len(COPIES)
    return pa.table(dict(zip(COPIES.names, columns, strict=True)), schema=COPIES)


def _standing(shards: Sequence[Indexed], todo: Todo, before: pa.Table) -> pa.Table:
    """The copies of the table before whose rows stand."""
    kept = [before.slice(0, 0)]
    for shard, stands in zip(shards, todo.stands, strict=True):
        mine = before.filter(pc.equal(before["shard"], shard.shard.path))
        if len(mine):
            ids = papers.read(shard.uri, ["asset_id"])["asset_id"].filter(pa.array(stands))
            kept.append(mine.filter(pc.is_in(mine["asset_id"], ids.combine_chunks())))
    return pa.concat_tables(kept)


def _original(group: Sequence[Member]) -> Member:
    """One that has its own caption already, or any that has one, or the first of the input."""
    return min(group, key=lambda member: (not member.stands, member.was_copy, member.shard, member.row))


def _groups(
    shards: Sequence[Indexed],
    digests: Sequence[Digests],
    todo: Todo,
    were_copies: Collection[str],
    names: Sequence[str],
) -> Iterator[list[Member]]:
    """Readable assets with the same bytes, two at least."""
    wanted = _repeated([d[~s.problem] for s, d in zip(shards, digests, strict=True)])
    groups: dict[tuple[object, ...], list[Member]] = {}
    if not len(wanted):
        return
    for number, (shard, digest) in enumerate(zip(shards, digests, strict=True)):
        rows = np.flatnonzero(~shard.problem & np.isin(digest, wanted))
        if not len(rows):
            continue
        for place, row in zip(
            rows.tolist(), papers.read(shard.uri, COLUMNS).take(rows).to_pylist(), strict=True
        ):
            was, stands = row["asset_id"] in were_copies, bool(todo.stands[number][place])
            member = Member(row["asset_id"], number, place, row["key"], was, stands)
            same = (row["sha256"], row["media"], used(row["text"], names) if names else ())
            groups.setdefault(same, []).append(member)
    yield from (group for group in groups.values() if len(group) > 1)


def _repeated(digests: Sequence[Digests]) -> Digests:
    """Those that occur more than once."""
    ordered = np.sort(np.concatenate(digests)) if digests else np.zeros(0, np.uint64)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
