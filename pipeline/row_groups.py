"""A Parquet file in pieces whose memory is bounded: a few rows at once, of pages that `pages` lets pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.pages import TAIL, Pages, WideError
from pipeline.types import Shard

# Rows read at once, and the bytes of their pages at most: where they all name the largest value of a dictionary,
# these are 512 MiB. Many hide the cost of a call.
STEPS = ((256, 2 << 20), (8, 64 << 20))
READ_AHEAD = (
    1 << 20
)  # bytes; also the buffer of each column, so that a row group is never in memory as a whole
# What pyarrow raises for damaged files; and what the types that Ray registers with it raise for metadata that are not
# theirs (pickles among them, which since Ray 2.55 they do not load).
UNREADABLE = (pa.ArrowException, OSError, ValueError, AttributeError, TypeError)


@dataclass(frozen=True, slots=True)
class Table:
    """An open Parquet file; use it with `with`. `most` bounds its pages in bytes (TOO_LARGE)."""

    file: pq.ParquetFile
    pages: Pages
    chunks: list[list[tuple[int, int]]]
    most: int

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pages.close()

    def batches(self, group: int, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows of a row group, with the number of the first of them within it: as many at once as memory allows."""
        if not self.file.metadata.row_group(group).num_rows:
            return  # its columns lie anywhere
        read = 0
        for rows, wide in (*STEPS, (1, self.most)):
            self.pages.expect(self.chunks[group], self.most, wide)
            at = 0
            try:
                for batch in self.file.iter_batches(
                    rows, row_groups=[group], columns=columns, use_threads=False
                ):
                    if at + batch.num_rows > read:
                        skipped, read = read - at, at + batch.num_rows
                        yield at + skipped, batch.slice(skipped)
                    at += batch.num_rows
            except WideError:
                continue
            return


def open_table(shard: Shard, most: int = 1 << 31) -> Table:
    """The file, its columns streamed in pieces of 1 MiB; `UNREADABLE` if it is no Parquet.

    Without `most`, for files that were indexed with it.
    """
    pages = Pages(storage.open_read(shard.uri, shard.bytes, READ_AHEAD), shard.bytes)
    if shard.bytes < TAIL:
        raise ValueError("no Parquet: less than its last 8 bytes")
    chunks = pages.chunks()
    file = pq.ParquetFile(pages, buffer_size=READ_AHEAD, pre_buffer=False)
    if len(chunks) != file.num_row_groups:
        raise ValueError("a footer that can be read in two ways")
    return Table(file, pages, chunks, most)


def groups(file: pq.ParquetFile, first: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold rows [first, stop), and the number of rows before them."""
    starts = starts_of(file)
    held = [g for g in range(file.num_row_groups) if starts[g] < stop and starts[g + 1] > first]
    return held, starts[held[0]] if held else 0


def starts_of(file: pq.ParquetFile) -> list[int]:
    """The number of each row group's first row, and of all rows."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    if any(size < 0 for size in sizes):
        raise ValueError("a row group of less than no rows")
    return [0, *accumulate(sizes)]


def cells(table: Table, column: str, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Row number and bytes of the image cells of these rows, in order; of no row group that holds none of them."""
    starts, left = starts_of(table.file), sorted(wanted, reverse=True)
    names = leaves(table.file.schema_arrow, column)
    for group, (first, stop) in enumerate(pairwise(starts)):
        if not left or left[-1] >= stop:
            continue
        for at, batch in table.batches(group, names):
            while left and left[-1] < first + at + batch.num_rows:
                number = left.pop()
                yield number, cell(batch.column(0)[number - first - at].as_py())[0]
            if not left or left[-1] >= stop:
                break


def cell(value: Any) -> tuple[bytes, str]:
    """Bytes and file name of an image cell: binary, or struct of `bytes` and `path`; null has no bytes."""
    if isinstance(value, dict):
        return value.get("bytes") or b"", value.get("path") or ""
    return value or b"", ""


def leaves(schema: pa.Schema, column: str) -> list[str]:
    """What is read of the image column: of a struct `bytes` and `path`, or others could be lists without bound."""
    kind = schema.field(column).type
    if not pa.types.is_struct(kind):
        return [column]
    has_path = kind.get_field_index("path") >= 0 and is_text(kind.field("path").type)
    return [f"{column}.{name}" for name in ("bytes", "path")[: 1 + has_path]]


def is_text(kind: pa.DataType) -> bool:
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_it(kind) for is_it in strings)
