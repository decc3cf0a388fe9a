"""The published rows against plan and index: every asset once under every prompt that asks about its kind, or failed.

A range of asset_id at a time, so that what is held is the index of `ASSETS` assets and not of all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.findings import Finding, Kind, Step
from pipeline.plan import READERS
from pipeline.publish import File, Partition
from pipeline.readback import UNREADABLE, batches, between, opened, rows_between
from pipeline.record import Record, Unusable
from pipeline.types import Media

ASSETS = 500_000  # of one range; about 200 bytes each
INDEX = ("asset_id", "key", "media", "sha256", "bytes", "widths", "heights", "duration_s", "problem_code")
IDENTITY = ("shard", "key", "media", "content_sha256", "unit_id")
COMPARED: Mapping[str, tuple[str, ...]] = {
    "captions": (*IDENTITY, "content_bytes", "width", "height", "duration_s"),
    "failures": IDENTITY,
}
EXPECTED = pa.schema(
    [(name, pa.string()) for name in ("asset_id", *IDENTITY, "problem_code")]
    + [("content_bytes", pa.int64()), ("width", pa.int32()), ("height", pa.int32())]
    + [("duration_s", pa.float64())]
)
NOBODY = -1  # the place of an asset that is in no index
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Range:
    """Assets with low <= asset_id < high: `assets` of schema `EXPECTED`, and how many rows each has.

    `rows` is int32 (assets, prompts + 1), the last column for rows under no prompt.
    """

    low: str
    high: str
    assets: pa.Table
    rows: npt.NDArray[np.int32]


def index_problems(record: Record, there: Collection[str]) -> list[Finding]:
    """Why the plan's units cannot be found in the indexes; `there` are the paths of the output's objects."""
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda i: list(_index_problem(record, i, there)), range(len(record.indexes)))
        return [finding for findings in found for finding in findings]


def steps(record: Record, there: Collection[str]) -> Iterator[Step]:
    """The work, a range at a time, where there are no `index_problems`."""
    n = max(1, -(-int(record.units[:, 2].sum()) // ASSETS))
    for i in range(n):
        yield Step(f"assets, part {i + 1} of {n}", _range(record, Partition(i, n), there))


def _index_problem(record: Record, number: int, there: Collection[str]) -> Iterator[Finding]:
    path = f"index/{record.indexes[number]}"
    if path not in there:
        yield Finding(Kind.RECORD, path, "it is gone; without it no asset can be checked")
        return
    _, firsts, counts = record.units[record.units_of(number)].T
    try:
        with opened(storage.join(record.output, path)) as file:
            rows = file.metadata.num_rows
    except UNREADABLE as error:
        yield Finding(Kind.RECORD, path, f"it cannot be read: {error}")
        return
    if rows != counts.sum() or not np.array_equal(firsts, np.cumsum(counts) - counts):
        said = f"it has {rows:,} assets, and the plan divides {counts.sum():,} of it into units"
        yield Finding(Kind.RECORD, path, said)


def _range(record: Record, partition: Partition, there: Collection[str]) -> Iterator[Finding]:
    low, high = partition.bounds()
    assets = expected(record, low, high)
    whole = Range(low, high, assets, np.zeros((len(assets), len(record.prompts) + 1), np.int32))
    for table, files in record.files.items():
        for file in files:
            if file.path in there:
                yield from _file(record, table, file, whole)
    yield from _unbalanced(record, whole)


def _file(record: Record, table: str, file: File, whole: Range) -> Iterator[Finding]:
    """Rows that are not as indexed. Counts them all."""
    columns = ("asset_id", "prompt_id", *COMPARED[table], *(("error_code",) if table == "failures" else ()))
    prompts = pa.array([*(p.id for p in record.prompts), None], pa.string())
    try:
        for rows in rows_between(record.output, file, columns, whole.low, whole.high):
            places = _places(rows["asset_id"], whole.assets["asset_id"])
            asked = _places(rows["prompt_id"], prompts)
            known = (places != NOBODY) & (asked != NOBODY)
            np.add.at(whole.rows, (places[known], asked[known]), 1)
            yield from _compared(
                file.path, table, rows, whole.assets.take(pa.array(places, mask=places == NOBODY))
            )
    except UNREADABLE:
        return  # the step of the file itself says so; its rows are missing here


def _places(values: pa.ChunkedArray, among: pa.ChunkedArray | pa.Array) -> Places:
    found = pc.index_in(values, value_set=among)
    places: Places = pc.fill_null(found, NOBODY).to_numpy().astype(np.int64)
    return places


def _compared(path: str, table: str, rows: pa.Table, assets: pa.Table) -> Iterator[Finding]:
    """Where a row differs from its asset's index row; `assets` has one of schema `EXPECTED` for each, or nulls."""

    def finding(i: int, what: str) -> Finding:
        ids = (rows[name][i].as_py() for name in ("asset_id", "prompt_id"))
        return Finding(Kind.INDEX, f"{path} row {rows['row'][i]}", what, *ids)

    unknown = assets["asset_id"].is_null()
    for i in _where(unknown):
        yield finding(i, "no asset of the plan has this id")
    for name in COMPARED[table]:
        for i in _where(pc.and_not(_unequal(rows[name], assets[name]), unknown)):
            yield finding(i, f"{name} is {rows[name][i]}, the index says {assets[name][i]}")
    problem = assets["problem_code"]
    said = rows["error_code"] if table == "failures" else pa.nulls(len(rows), pa.string())
    for i in _where(pc.and_(problem.is_valid(), _unequal(problem, said))):
        yield finding(i, f"the index says that this asset failed with {problem[i]}")


def _unequal(one: pa.ChunkedArray, other: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """Where two columns differ; null equals null only."""
    different = pc.xor(pc.is_null(one), pc.is_null(other))
    return pc.or_(different, pc.fill_null(pc.not_equal(one, other), False))


def _where(mask: pa.ChunkedArray) -> list[int]:
    return [int(i) for i in np.flatnonzero(mask.to_numpy())]


def _unbalanced(record: Record, whole: Range) -> Iterator[Finding]:
    """Assets whose rows are not one under each prompt that is due, or one under none."""
    due = {m: [bool(p.asked(Media(m))) for p in record.prompts] for m in Media}
    nothing = [False] * len(record.prompts)
    wanted = np.array([due.get(m, nothing) for m in whole.assets["media"].to_pylist()], bool)
    wanted = wanted.reshape(len(whole.assets), -1)
    asked, failed = whole.rows[:, :-1], whole.rows[:, -1]
    good = (failed == 0) & (asked == wanted).all(1) & wanted.any(1) | (failed == 1) & (asked == 0).all(1)
    names = [p.id for p in record.prompts]
    for i in np.flatnonzero(~good).tolist():
        asset_id, shard, key = (whole.assets[name][i].as_py() for name in ("asset_id", "shard", "key"))
        where = f"shard {shard!r}, key {key!r}"
        for prompt_id, what in _said(names, wanted[i].tolist(), asked[i].tolist(), int(failed[i])):
            yield Finding(Kind.CONSERVATION, where, what, asset_id, prompt_id)


def _said(
    names: Sequence[str], due: Sequence[bool], rows: Sequence[int], failed: int
) -> Iterator[tuple[str | None, str]]:
    """What is wrong with one asset, by prompt."""
    if not failed and not any(rows):
        yield None, "lost: it has neither a caption nor a failure"
        return
    if failed > 1 or (failed and any(rows)):
        yield (
            None,
            f"{failed} failures of the whole asset and {sum(rows)} rows under prompts; one or the other",
        )
        return
    for name, wanted, n in zip(names, due, rows, strict=True):
        if n > 1:
            yield name, f"{n} rows, and there must be one"
        elif n and not wanted:
            yield name, "a row, and this prompt does not ask about its kind"
        elif wanted and not n and not failed:
            yield name, "lost: it has neither a caption nor a failure"


def expected(record: Record, low: str, high: str) -> pa.Table:
    """What the indexes say of assets with low <= asset_id < high, as schema `EXPECTED`.

    Raises Unusable where an index cannot be read.
    """
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda i: _readable(record, i, low, high), range(len(record.indexes)))
        found = [part for parts in read for part in parts]
    return pa.concat_tables(found).combine_chunks() if found else EXPECTED.empty_table()


def _readable(record: Record, number: int, low: str, high: str) -> list[pa.Table]:
    try:
        return list(_indexed(record, number, low, high))
    except (*UNREADABLE, KeyError) as error:
        said = f"it cannot be read: {type(error).__name__}: {str(error)[:200]}"
        raise Unusable(Finding(Kind.RECORD, f"index/{record.indexes[number]}", said)) from error


def _indexed(record: Record, number: int, low: str, high: str) -> Iterator[pa.Table]:
    mine = np.array(record.units_of(number), np.int64)
    firsts = record.units[mine, 1]
    with opened(storage.join(record.output, "index", record.indexes[number])) as file:
        for first, rows in batches(file, INDEX):
            inside = np.flatnonzero(between(rows["asset_id"], low, high).to_numpy())
            units = mine[np.searchsorted(firsts, first + inside, side="right") - 1]
            unit_ids = pa.array([record.unit_ids[u] for u in units.tolist()], pa.string())
            yield _as_published(rows.take(inside), record.shards[number]["path"], unit_ids)


def _as_published(rows: pa.Table, shard: str, unit_ids: pa.Array) -> pa.Table:
    digest = rows["sha256"]
    columns = {
        "shard": pa.array([shard] * len(rows), pa.string()),
        "content_sha256": pc.if_else(pc.equal(digest, ""), pa.scalar(None, pa.string()), digest),
        "unit_id": unit_ids,
        "content_bytes": rows["bytes"],
        "width": _first(rows["widths"]),
        "height": _first(rows["heights"]),
    }
    kept = {name: rows[name] for name in ("asset_id", "key", "media", "duration_s", "problem_code")}
    return pa.table({**kept, **columns}).select(EXPECTED.names).cast(EXPECTED)


def _first(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """The first element of each list, null where it is empty."""
    return pc.list_element(pc.list_slice(lists, 0, 1, return_fixed_size_list=True), 0)
