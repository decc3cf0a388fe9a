"""Published files read back a few rows at a time, so that memory does not grow with the table."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.columns import between
from pipeline.publish import File

ROWS = 8_192  # some 10 MB of captions
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)  # what pyarrow raises for damaged files
MIB = 1 << 20


def sha256(uri: str, size: int) -> str:
    """Hex digest of the object's first `size` bytes."""
    digest = hashlib.sha256()
    with storage.open_read(uri, size) as stream:
        while block := stream.read(8 * MIB):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def opened(uri: str) -> Iterator[pq.ParquetFile]:
    """The Parquet file; pages whose checksum is wrong are `UNREADABLE`."""
    with (
        storage.open_read(uri, read_ahead=MIB) as stream,
        pq.ParquetFile(stream, pre_buffer=False, buffer_size=MIB, page_checksum_verification=True) as file,
    ):
        yield file


def batches(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Number of the first row, and rows, in order; of the row groups that are named, else of all."""
    held = range(file.num_row_groups) if groups is None else groups
    for group in held:
        row = sum(file.metadata.row_group(i).num_rows for i in range(group))
        for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns, use_threads=False):
            yield row, pa.Table.from_batches([batch])
            row += len(batch)


def rows_between(output: str, file: File, columns: Sequence[str], low: str, high: str) -> Iterator[pa.Table]:
    """Rows with low <= asset_id < high, and their numbers in the file as the column `row`."""
    if not file.rows or str(file.min_asset_id) >= high or str(file.max_asset_id) < low:
        return
    with opened(storage.join(output, file.path)) as parquet:
        for first, rows in batches(parquet, columns):
            numbered = rows.append_column("row", pa.array(range(first, first + len(rows)), pa.int64()))
            yield numbered.filter(between(rows["asset_id"], low, high))


def rows_of(output: str, files: Sequence[File], ids: Collection[str]) -> Iterator[pa.Table]:
    """The rows of these assets; only row groups that may hold one are read."""
    wanted = sorted(ids)
    for file in files:
        with opened(storage.join(output, file.path)) as parquet:
            held = [i for i in range(parquet.num_row_groups) if _may_hold(parquet, i, wanted)]
            for _, rows in batches(parquet, groups=held):
                yield rows.filter(pc.is_in(rows["asset_id"], value_set=pa.array(wanted, pa.string())))


def _may_hold(parquet: pq.ParquetFile, group: int, ids: Sequence[str]) -> bool:
    """Whether one of the sorted ids is in the row group's range of asset_id, which is its first column."""
    statistics = parquet.metadata.row_group(group).column(0).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bisect_left(ids, statistics.min) < bisect_right(ids, statistics.max)
