"""A unit's bytes: the media members of its assets, with as few requests as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline import folders, row_groups, storage
from pipeline.types import Asset, Code, Member, Problem, Shard, ShardFormat, Stage

MIB = 1 << 20
GAP = MIB  # bytes between members that are read and thrown away; 1 MiB takes less time than another request
SPAN = 32 * MIB  # bytes of one request, unless a single member is larger

Bytes = tuple[bytes, ...]


def read_assets(shard: Shard, assets: Sequence[Asset]) -> Iterator[Bytes | Problem]:
    """For each asset, in order: the bytes of its media members in order, or why there are none.

    An asset with a problem keeps it. Where the shard (in a folder: the file) is gone or is not the one that
    was indexed, the outcome is a problem with code CONTENT_CHANGED. About 64 MiB are held at most, or one
    asset's bytes if they are more. `StorageError` if the store does not answer.
    """
    if shard.format is ShardFormat.FOLDER:
        outcomes = _from_folder(shard, _good(assets))
    elif (changed := _changed(shard)) is not None:
        outcomes = iter([changed] * len(_good(assets)))
    elif shard.format is ShardFormat.TAR:
        outcomes = _from_tar(shard, _good(assets))
    else:
        outcomes = _from_table(shard, _good(assets))
    for asset in assets:
        yield asset.facts if isinstance(asset.facts, Problem) else next(outcomes)


def _good(assets: Sequence[Asset]) -> list[Asset]:
    return [asset for asset in assets if not isinstance(asset.facts, Problem)]


def _changed(shard: Shard) -> Problem | None:
    try:
        same = storage.info(shard.uri).etag == shard.etag
    except storage.MissingError:
        return _problem("the shard is gone since it was indexed")
    return None if same else _problem("the shard is not the one that was indexed: its etag differs")


def _problem(message: str) -> Problem:
    return Problem(Stage.READ, Code.CONTENT_CHANGED, message)


def _from_tar(shard: Shard, assets: Sequence[Asset]) -> Iterator[Bytes]:
    for span in _spans(assets):
        low, high = _extent([member for asset in span for member in asset.members])
        # Wider than a span is only an asset whose members lie far apart, or one large member.
        data = memoryview(storage.read_range(shard.uri, low, high) if high - low <= SPAN else b"")
        for asset in span:
            if high - low <= SPAN:
                yield tuple(bytes(data[m.offset - low : m.offset - low + m.size]) for m in asset.members)
            else:
                ends = [(m.offset, m.offset + m.size) for m in asset.members]
                yield tuple(storage.read_range(shard.uri, start, stop) for start, stop in ends)


def _spans(assets: Sequence[Asset]) -> Iterator[list[Asset]]:
    """Consecutive assets that one request can fetch."""
    span: list[Asset] = []
    low = high = 0
    for asset in assets:
        first, last = _extent(asset.members)
        near = first - high < GAP and low - last < GAP
        if span and not (near and max(high, last) - min(low, first) <= SPAN):
            yield span
            span = []
        low, high = (min(low, first), max(high, last)) if span else (first, last)
        span.append(asset)
    if span:
        yield span


def _extent(members: Sequence[Member]) -> tuple[int, int]:
    return min(m.offset for m in members), max(m.offset + m.size for m in members)


def _from_table(shard: Shard, assets: Sequence[Asset]) -> Iterator[Bytes | Problem]:
    """Cells of ascending rows (index order), from the row groups that hold them."""
    if not assets:
        return
    wanted = {asset.members[0].offset: asset.members[0] for asset in assets}
    try:
        with row_groups.open_table(shard) as table:
            for row, data in row_groups.cells(table, assets[0].members[0].name, list(wanted)):
                same = len(data) == wanted.pop(row).size
                yield (
                    (data,)
                    if same
                    else _problem("the cell is not the one that was indexed: its size differs")
                )
    except row_groups.UNREADABLE as error:
        problem = Problem(Stage.READ, Code.SHARD_UNREADABLE, f"pyarrow: {error}"[:300])
        yield from [problem] * len(wanted)


def _from_folder(shard: Shard, assets: Sequence[Asset]) -> Iterator[Bytes | Problem]:
    wanted = [asset.members[0] for asset in assets]
    contents = storage.read_many((folders.file_uri(shard, member.name), member.size) for member in wanted)
    for member, data in zip(wanted, contents, strict=True):
        if data is None:
            yield _problem("the file is gone since it was indexed")
        elif len(data) != member.size:
            yield _problem("the file is not the one that was indexed: its size differs")
        else:
            yield (data,)
