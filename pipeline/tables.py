"""The assets of a Parquet shard: one for each row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import naming
from pipeline.config import InputConfig
from pipeline.draft import Draft, Looks, Probe, shard_row
from pipeline.errors import MediaError
from pipeline.row_groups import UNREADABLE, Table, cell, is_text, leaves, open_table, starts_of
from pipeline.types import Asset, Code, Media, Member, Shard

PAGES = 2  # times max_member_bytes: what the pages of a row group's columns may have together, but at least MIN_PAGES
MIN_PAGES = 512 << 20  # bytes: a page holds up to 1,024 cells whatever their size, here 512 KiB each
MAX_ROWS = 1 << 22  # of a shard; 1 KB of Parquet can say 2^31 empty ones, and each would be a row
EXTENSION = b"ARROW:extension:name"

Cells = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as it was read: its number, and its cells by column or why they could not be read (but the key's)."""

    number: int
    cells: Cells
    problem: MediaError | None = None


def scan(shard: Shard, config: InputConfig, probe: Probe) -> Iterator[Asset]:
    """The rows of one Parquet file as they are read, then the first thing that is wrong with the file.

    The key is the key column as text, else the row number. A key that is null, empty or above 64 KiB is a row with
    the problem BAD_KEY and the key "row:<number>"; a key that comes again makes one row of all its rows,
    DUPLICATE_KEY. Scalar columns beside image and key become text fields. A struct's `path` is never opened. A row
    group that cannot be read costs its own rows only: each is a row with the reason, if there is a key column that
    can be read.

    Memory is bounded whatever the file says: the pages of a row group's columns, packed and unpacked (together at
    most 512 MiB each, or twice max_member_bytes if that is more; else TOO_LARGE), 512 MiB or one row of them, and
    0.1 KB for each key.
    """
    broken: list[MediaError] = []
    looks = Looks(probe)
    for draft in looks.done(_drafts(shard, config, looks, broken)):
        yield draft.asset(config.dataset, shard)
    if broken:
        yield shard_row(config.dataset, shard, broken[0].code, broken[0].message)


def _drafts(shard: Shard, config: InputConfig, looks: Looks, broken: list[MediaError]) -> Iterator[Draft]:
    """A draft for each key; what is wrong with the file goes to `broken`."""
    said: set[bytes] = set()
    doubled: set[bytes] = set()
    for row in _rows(shard, config, doubled):
        if isinstance(row, MediaError):
            broken.append(row)
            continue
        draft = _draft(row, config, doubled, looks)
        if (mark := _mark(draft.key)) in doubled:
            if mark in said:
                continue
            said.add(mark)
        yield draft


def _rows(shard: Shard, config: InputConfig, doubled: set[bytes]) -> Iterator[_Row | MediaError]:
    """The rows in order; in place of those that cannot be read at all, why.

    First of all, puts into `doubled` the marks of keys that come more than once.
    """
    if shard.bytes == 0:
        yield MediaError(Code.SHARD_EMPTY, "the shard has no bytes")
        return
    try:
        with open_table(shard, max(MIN_PAGES, PAGES * config.max_member_bytes)) as table:
            columns = _columns(table.file.schema_arrow, config)
            starts = starts_of(table.file)
            if starts[-1] > MAX_ROWS:
                raise ValueError(f"{starts[-1]} rows; at most {MAX_ROWS} are read, so write several shards")
            if config.key_column:
                doubled |= _doubled(table, starts, config.key_column)
            for group, (first, stop) in enumerate(pairwise(starts)):
                yield from _group(table, group, range(first, stop), columns, config)
    except (MediaError, *UNREADABLE) as error:
        yield _reason(error)


def _group(
    table: Table, group: int, numbers: range, columns: list[str], config: InputConfig
) -> Iterator[_Row | MediaError]:
    """The rows of a row group; those from the first that cannot be read on have a problem instead of cells."""
    read = 0
    try:
        for _, batch in table.batches(group, columns):
            for cells in _unpacked(batch, config.image_column):
                yield _Row(numbers.start + read, cells)
                read += 1
        if read != len(numbers):
            raise ValueError(f"{read} rows, where the footer says {len(numbers)}")
    except (MediaError, *UNREADABLE) as error:
        reason = _reason(error)
        message = f"row group {group} (rows {numbers.start} to {numbers.stop - 1}): {reason.message}"
        yield from _unread(table, group, numbers, read, MediaError(reason.code, message), config.key_column)


def _unread(
    table: Table, group: int, numbers: range, read: int, problem: MediaError, column: str
) -> Iterator[_Row | MediaError]:
    """The rows after the first `read` of a row group, by key; the problem itself where those cannot be read either."""
    if not column:
        yield problem
        return
    try:
        for number, cells in islice(zip(numbers, _keys(table, group, column), strict=True), read, None):
            yield _Row(number, cells, problem)
    except (MediaError, *UNREADABLE):
        yield problem


def _reason(error: Exception) -> MediaError:
    return error if isinstance(error, MediaError) else MediaError(Code.SHARD_UNREADABLE, f"pyarrow: {error}")


def _keys(table: Table, group: int, column: str) -> Iterator[Cells]:
    """The keys of a row group's rows, in order, and nothing else of them."""
    for _, batch in table.batches(group, [column]):
        yield from _unpacked(batch, "")


def _doubled(table: Table, starts: list[int], column: str) -> set[bytes]:
    """Marks of the keys that more than one row has. What cannot be read is left for who reads all columns."""
    seen: set[bytes] = set()
    doubled: set[bytes] = set()
    for group, first in enumerate(starts[:-1]):
        try:
            for number, cells in enumerate(_keys(table, group, column), first):
                mark = _mark(_key(cells, number, column)[0])
                (doubled if mark in seen else seen).add(mark)
        except (MediaError, *UNREADABLE):
            continue
    return doubled


def _mark(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _key(cells: Cells, number: int, column: str) -> tuple[str, bool]:
    """A row's key, and whether it is its own."""
    name = cells[column] if column else number
    key = "" if name is None else naming.clean(str(name))
    return key or f"row:{number}", bool(key)


def _unpacked(batch: pa.RecordBatch, image: str) -> Iterator[Cells]:
    """Rows as Python values; strings by way of bytes, because a file may call anything UTF-8.

    Text above 64 KiB is None: it is not taken, and never becomes a Python object.
    """
    values = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_dictionary(field.type):
            column = column.dictionary_decode()
        if is_text(column.type) and field.name != image:
            cells = column.cast(pa.large_binary())
            short = pc.less_equal(pc.binary_length(cells), naming.MAX_TEXT)
            cells = pc.if_else(short, cells, pa.scalar(None, cells.type)).to_pylist()
            values[field.name] = [None if c is None else c.decode("utf-8", "backslashreplace") for c in cells]
        else:
            values[field.name] = column.to_pylist()
    for number in range(batch.num_rows):
        yield {name: cells[number] for name, cells in values.items()}


def _draft(row: _Row, config: InputConfig, doubled: set[bytes], looks: Looks) -> Draft:
    key, own = _key(row.cells, row.number, config.key_column)
    draft = Draft(key)
    if doubled and _mark(key) in doubled:
        draft.fail(Code.DUPLICATE_KEY, "more than one row has this key")
    if not own:
        draft.fail(Code.BAD_KEY, f"the key of row {row.number} is null, empty or too long")
    if row.problem is not None:
        draft.fail(row.problem.code, row.problem.message)
        return draft
    data, path = cell(row.cells[config.image_column])
    kind = _kind(data, path)
    if draft.problem is not None:
        draft.kinds.append(kind)
        return draft
    draft.text |= _text(row.cells, {config.image_column, config.key_column})
    if draft.name(Member(config.image_column, row.number, len(data)), kind, config.max_member_bytes):
        looks.take(draft, data)
    return draft


def _kind(data: bytes, path: str) -> Media:
    named = naming.kind(path.rpartition(".")[2])
    return Media.VIDEO if named == "video" or naming.sniff(data) in naming.VIDEOS else Media.IMAGE


def _text(row: Cells, without: set[str]) -> dict[str, str]:
    cells = {naming.clean(name): naming.scalar(value) for name, value in row.items() if name not in without}
    return {name: text for name, text in cells.items() if text and len(text.encode()) <= naming.MAX_TEXT}


def _columns(schema: pa.Schema, config: InputConfig) -> list[str]:
    """The columns to read; `MediaError` where image or key are missing or of another type."""
    for name in filter(None, (config.image_column, config.key_column)):
        if schema.names.count(name) != 1:
            held = ", ".join(schema.names)[:150]
            raise MediaError(Code.MISSING_COLUMN, f"no column {name!r} (or several); the shard has {held}")
        if _is_extension(schema.field(name)):
            raise MediaError(
                Code.SHARD_UNREADABLE, f"column {name!r} has an extension type, which is not read"
            )
    if not _is_image(_plain(schema.field(config.image_column).type)):
        message = f"column {config.image_column!r} is {schema.field(config.image_column).type}"
        raise MediaError(Code.MISSING_COLUMN, f"{message}; it must be binary, or a struct of bytes and path")
    wanted = {config.image_column, config.key_column}
    kept = [
        f.name for f in schema if f.name in wanted or (_is_scalar(_plain(f.type)) and not _is_extension(f))
    ]
    named = [name for name in kept if schema.names.count(name) == 1 and name != config.image_column]
    return [*named, *leaves(schema, config.image_column)]


def _is_extension(field: pa.Field) -> bool:
    """Whether the field or any part of it is of an extension type, registered in this process or not.

    Ray registers types whose values are pickles; reading one would run whatever the shard says.
    """
    if isinstance(field.type, pa.BaseExtensionType) or EXTENSION in (field.metadata or {}):
        return True
    return any(_is_extension(field.type.field(i)) for i in range(field.type.num_fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values; pandas writes categories as a dictionary of them."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    binaries = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_it(kind) for is_it in binaries)


def _is_scalar(kind: pa.DataType) -> bool:
    return is_text(kind) or any(
        is_it(kind) for is_it in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    )
