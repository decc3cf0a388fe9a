"""The published rows against plan and index: every asset once under every prompt that asks about its kind, or failed.

A range of asset_id at a time, so that what is held is the index of `ASSETS` assets and not of all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import papers, storage
from pipeline.columns import between, unequal
from pipeline.findings import Finding, Kind, Step
from pipeline.papers import COPIES
from pipeline.pricing import READERS
from pipeline.publish import File, Partition
from pipeline.readback import UNREADABLE, batches, opened, rows_between
from pipeline.record import Record, Unusable
from pipeline.types import Media

ASSETS = 500_000  # of one range; about 200 bytes each
INDEX = ("asset_id", "key", "media", "sha256", "bytes", "widths", "heights", "duration_s", "problem_code")
IDENTITY = ("shard", "key", "media", "content_sha256")
COMPARED: Mapping[str, tuple[str, ...]] = {
    "captions": (*IDENTITY, "content_bytes", "width", "height", "duration_s", "duplicate_of"),
    "failures": IDENTITY,
}
# of an asset's work: its number, null where nothing is to do; `copy` is true where its rows are taken from elsewhere
EXPECTED = pa.schema(
    [(name, pa.string()) for name in ("asset_id", *IDENTITY, "problem_code", "duplicate_of", "unit_id")]
    + [("content_bytes", pa.int64()), ("width", pa.int32()), ("height", pa.int32())]
    + [("duration_s", pa.float64()), ("work", pa.int32()), ("copy", pa.bool_())]
)
WORK = pa.schema([("asset_id", pa.string()), ("unit_id", pa.string()), ("work", pa.int32())])
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
        indexed = list(pool.map(lambda name: _rows_of(record, f"index/{name}", there), record.indexes))
        asked = list(pool.map(lambda i: _work_problem(record, i, there), range(len(record.work))))
    found = [one for one in (*indexed, *asked) if isinstance(one, Finding)]
    held = sum(n for n in indexed if isinstance(n, int))
    if not found and held != record.assets:
        said = f"{record.assets:,} assets are said to be there, and {held:,} are in the indexes"
        found = [Finding(Kind.SNAPSHOT, "snapshot.json", said)]
    return list(dict.fromkeys(found))


def steps(record: Record, there: Collection[str]) -> Iterator[Step]:
    """The work, a range at a time, where there are no `index_problems`."""
    n = max(1, -(-record.assets // ASSETS))
    for i in range(n):
        yield Step(f"assets, part {i + 1} of {n}", _range(record, Partition(i, n), there))


def _rows_of(record: Record, path: str, there: Collection[str]) -> int | Finding:
    """How many rows an index has, or why nobody knows."""
    if path not in there:
        return Finding(Kind.RECORD, path, "it is gone; without it no asset can be checked")
    try:
        with opened(storage.join(record.output, path)) as file:
            return int(file.metadata.num_rows)
    except UNREADABLE as error:
        return Finding(Kind.RECORD, path, f"it cannot be read: {error}")


def _work_problem(record: Record, number: int, there: Collection[str]) -> Finding | None:
    path = record.work[number].path
    rows = _rows_of(record, path, there)
    if isinstance(rows, Finding):
        return rows
    _, firsts, counts = record.units[record.units_of(number)].T
    if rows == counts.sum() and np.array_equal(firsts, np.cumsum(counts) - counts):
        return None
    said = f"it has {rows:,} assets, and the plan divides {counts.sum():,} of it into units"
    return Finding(Kind.RECORD, path, said)


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
    made = ("run_id", "unit_id", *(("error_code",) if table == "failures" else ()))
    columns = ("asset_id", "prompt_id", *COMPARED[table], *made)
    prompts = pa.array([*(p.id for p in record.prompts), None], pa.string())
    try:
        for rows in rows_between(record.output, file, columns, whole.low, whole.high):
            places = _places(rows["asset_id"], whole.assets["asset_id"])
            asked = _places(rows["prompt_id"], prompts)
            known = (places != NOBODY) & (asked != NOBODY)
            np.add.at(whole.rows, (places[known], asked[known]), 1)
            assets = whole.assets.take(pa.array(places, mask=places == NOBODY))
            yield from _compared(file.path, table, rows, assets)
            yield from _made(record, file.path, rows, assets)
    except UNREADABLE:
        return  # the step of the file itself says so; its rows are missing here


def _places(values: pa.ChunkedArray, among: pa.ChunkedArray | pa.Array) -> Places:
    found = pc.index_in(values, value_set=among)
    places: Places = pc.fill_null(found, NOBODY).to_numpy().astype(np.int64)
    return places


def _compared(path: str, table: str, rows: pa.Table, assets: pa.Table) -> Iterator[Finding]:
    """Where a row differs from its asset's index row; `assets` has one of schema `EXPECTED` for each, or nulls."""

    unknown = assets["asset_id"].is_null()
    for i in _where(unknown):
        yield _finding(path, rows, i, "no asset of the plan has this id")
    for name in COMPARED[table]:
        for i in _where(pc.and_not(unequal(rows[name], assets[name]), unknown)):
            said = f"{name} is {rows[name][i]}, the index says {assets[name][i]}"
            yield _finding(path, rows, i, said)
    problem = assets["problem_code"]
    said = rows["error_code"] if table == "failures" else pa.nulls(len(rows), pa.string())
    for i in _where(pc.and_(problem.is_valid(), unequal(problem, said))):
        yield _finding(path, rows, i, f"the index says that this asset failed with {problem[i]}")


def _where(mask: pa.ChunkedArray) -> list[int]:
    return [int(i) for i in np.flatnonzero(mask.to_numpy())]


def _made(record: Record, path: str, rows: pa.Table, assets: pa.Table) -> Iterator[Finding]:
    """Rows of this run that its plan does not have, and of earlier ones that it was to make anew."""
    own = pc.and_not(pc.equal(rows["run_id"], record.run_id), pc.fill_null(assets["copy"], True))
    for i in _where(pc.and_(own, unequal(rows["unit_id"], assets["unit_id"]))):
        said = f"unit_id is {rows['unit_id'][i]}, the plan says {assets['unit_id'][i]}"
        yield _finding(path, rows, i, said)
    for i in _where(pc.and_(pc.not_equal(rows["run_id"], record.run_id), pc.is_valid(assets["work"]))):
        asked = record.work[assets["work"][i].as_py()].prompts
        if not asked or rows["prompt_id"][i].as_py() in asked:
            said = f"it is of run {rows['run_id'][i]}, and run {record.run_id} was to make it anew"
            yield _finding(path, rows, i, said)


def _finding(path: str, rows: pa.Table, number: int, said: str) -> Finding:
    ids = (rows[name][number].as_py() for name in ("asset_id", "prompt_id"))
    return Finding(Kind.INDEX, f"{path} row {rows['row'][number]}", said, *ids)


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
    """What indexes and plan say of assets with low <= asset_id < high, as schema `EXPECTED`.

    Raises Unusable where an index cannot be read.
    """
    work: dict[int, list[int]] = {}
    for number, one in enumerate(record.work):
        work.setdefault(one.shard, []).append(number)
    copies = _copies(record, low, high)

    def read(shard: int) -> list[pa.Table]:
        return list(_indexed(record, shard, _work(record, work.get(shard, ()), low, high), low, high))

    with ThreadPoolExecutor(READERS) as pool:
        found = [part for parts in pool.map(read, range(len(record.indexes))) for part in parts]
    rows = pa.concat_tables([EXPECTED.empty_table(), *found]).combine_chunks()
    places = pc.index_in(rows["asset_id"], value_set=copies["asset_id"].combine_chunks())
    rows = rows.set_column(rows.schema.get_field_index("copy"), "copy", pc.is_valid(places))
    return rows.set_column(
        rows.schema.get_field_index("duplicate_of"), "duplicate_of", copies["of"].take(places)
    )


def _copies(record: Record, low: str, high: str) -> pa.Table:
    if not record.copies:
        return COPIES.empty_table()
    path = f"runs/{record.run_id}/copies.parquet"
    with _readable(path):
        rows = papers.read(storage.join(record.output, path))
        return rows.filter(between(rows["asset_id"], low, high))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn what a paper cannot be read by into Unusable."""
    try:
        yield
    except (*UNREADABLE, KeyError, storage.MissingError) as error:
        said = f"it cannot be read: {type(error).__name__}: {str(error)[:200]}"
        raise Unusable(Finding(Kind.RECORD, path, said)) from error


def _work(record: Record, numbers: Sequence[int], low: str, high: str) -> pa.Table:
    """Assets of these works in the range, with the number and the unit."""
    found = [WORK.empty_table()]
    for number in numbers:
        path, mine = record.work[number].path, np.array(record.units_of(number), np.int64)
        with _readable(path), opened(storage.join(record.output, path)) as file:
            for first, rows in batches(file, ["asset_id"]):
                inside = np.flatnonzero(between(rows["asset_id"], low, high).to_numpy())
                units = mine[np.searchsorted(record.units[mine, 1], first + inside, side="right") - 1]
                names = [record.unit_ids[u] for u in units.tolist()]
                columns = [rows["asset_id"].take(inside), pa.array(names, pa.string())]
                found.append(pa.table([*columns, pa.array([number] * len(names), pa.int32())], schema=WORK))
    return pa.concat_tables(found).combine_chunks()


def _indexed(record: Record, number: int, work: pa.Table, low: str, high: str) -> Iterator[pa.Table]:
    path = f"index/{record.indexes[number]}"
    with _readable(path), opened(storage.join(record.output, path)) as file:
        for _, rows in batches(file, INDEX):
            inside = rows.filter(between(rows["asset_id"], low, high))
            places = pc.index_in(inside["asset_id"], value_set=work["asset_id"].combine_chunks())
            yield _as_published(inside, record.shards[number]["path"], work.take(places))


def _as_published(rows: pa.Table, shard: str, work: pa.Table) -> pa.Table:
    digest = rows["sha256"]
    columns = {
        "shard": pa.array([shard] * len(rows), pa.string()),
        "content_sha256": pc.if_else(pc.equal(digest, ""), pa.scalar(None, pa.string()), digest),
        "unit_id": work["unit_id"],
        "work": work["work"],
        "content_bytes": rows["bytes"],
        "width": _first(rows["widths"]),
        "height": _first(rows["heights"]),
        "copy": pa.nulls(len(rows), pa.bool_()),
        "duplicate_of": pa.nulls(len(rows), pa.string()),
    }
    kept = {name: rows[name] for name in ("asset_id", "key", "media", "duration_s", "problem_code")}
    return pa.table({**kept, **columns}).select(EXPECTED.names).cast(EXPECTED)


def _first(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """The first element of each list, null where it is empty."""
    return pc.list_element(pc.list_slice(lists, 0, 1, return_fixed_size_list=True), 0)
