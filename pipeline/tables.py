"""The assets of a Parquet shard: one for each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import naming, storage
from pipeline.config import InputConfig
from pipeline.draft import Draft, Probe, shard_row
from pipeline.errors import MediaError
from pipeline.types import Asset, Code, Media, Member, Shard

BATCH = 8  # rows in memory at once: each may be max_member_bytes large, and 8 hide the cost of a call
READ_AHEAD = (
    1 << 20
)  # bytes; also the buffer of each column, so that a row group is never in memory as a whole
EXTENSION = b"ARROW:extension:name"
# What pyarrow raises for damaged files; and what the types that Ray registers with it raise for metadata that are not
# theirs (pickles among them, which since Ray 2.55 they do not load).
UNREADABLE = (pa.ArrowException, OSError, ValueError, AttributeError, TypeError)


def scan(shard: Shard, config: InputConfig, probe: Probe) -> Iterator[Asset]:
    """The rows of one Parquet file, then what is wrong with it.

    The key is the key column as text, else the row number. A null or empty key is a row with the problem
    BAD_KEY and the key "row:<number>"; a key that comes again makes one row of all its rows, DUPLICATE_KEY.
    Scalar columns beside image and key become text fields. A struct's `path` is never opened.
    """
    drafts: dict[str, Draft] = {}
    broken: MediaError | None = None
    try:
        for number, row in enumerate(_rows(shard, config)):
            _take(drafts, number, row, config, probe)
    except MediaError as error:
        broken = error
    yield from (draft.asset(config.dataset, shard) for draft in drafts.values())
    if broken is not None:
        yield shard_row(config.dataset, shard, broken.code, broken.message)


def open_table(shard: Shard) -> pq.ParquetFile:
    """The file, its columns streamed in pieces of 1 MiB; `UNREADABLE` if it is no Parquet."""
    stream = storage.open_read(shard.uri, shard.bytes, READ_AHEAD)
    return pq.ParquetFile(stream, buffer_size=READ_AHEAD, pre_buffer=False)


def groups(file: pq.ParquetFile, first: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold rows [first, stop), and the number of rows before them."""
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    held = [g for g in range(file.num_row_groups) if starts[g] < stop and starts[g + 1] > first]
    return held, starts[held[0]] if held else 0


def cells(file: pq.ParquetFile, column: str, first: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Row number and bytes of the image cells of rows [first, stop), in order."""
    held, number = groups(file, first, stop)
    for batch in file.iter_batches(BATCH, row_groups=held, columns=[column], use_threads=False):
        for i in range(max(first - number, 0), min(stop - number, batch.num_rows)):
            yield number + i, cell(batch.column(0)[i].as_py())[0]
        number += batch.num_rows


def cell(value: Any) -> tuple[bytes, str]:
    """Bytes and file name of an image cell: binary, or struct of `bytes` and `path`; null has no bytes."""
    if isinstance(value, dict):
        return value.get("bytes") or b"", value.get("path") or ""
    return value or b"", ""


def _rows(shard: Shard, config: InputConfig) -> Iterator[dict[str, Any]]:
    """The rows with image, key (if named) and text columns; `MediaError` for a file that cannot be read."""
    if shard.bytes == 0:
        raise MediaError(Code.SHARD_EMPTY, "the shard has no bytes")
    try:
        table = open_table(shard)
        columns = _columns(table.schema_arrow, config)
        for batch in table.iter_batches(BATCH, columns=columns, use_threads=False):
            yield from _unpacked(batch)
    except UNREADABLE as error:
        raise MediaError(Code.SHARD_UNREADABLE, f"pyarrow: {error}") from error


def _unpacked(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Rows as Python values; strings by way of bytes, because a file may call anything UTF-8."""
    values = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_dictionary(field.type):
            column = column.dictionary_decode()
        if _is_text(column.type):
            cells = column.cast(pa.large_binary()).to_pylist()
            values[field.name] = [None if c is None else c.decode("utf-8", "backslashreplace") for c in cells]
        else:
            values[field.name] = column.to_pylist()
    for number in range(batch.num_rows):
        yield {name: cells[number] for name, cells in values.items()}


def _take(
    drafts: dict[str, Draft], number: int, row: dict[str, Any], config: InputConfig, probe: Probe
) -> None:
    name = row[config.key_column] if config.key_column else number
    key = "" if name is None else naming.clean(str(name))
    draft = Draft(key or f"row:{number}")
    if draft.key in drafts:
        drafts[draft.key] = draft
        draft.fail(Code.DUPLICATE_KEY, "more than one row has this key")
    drafts[draft.key] = draft
    if not key:
        draft.fail(Code.BAD_KEY, f"the key of row {number} is null or empty")
    data, path = cell(row[config.image_column])
    kind = _kind(data, path)
    if draft.problem is not None:
        draft.kinds.append(kind)
        return
    draft.text |= _text(row, {config.image_column, config.key_column})
    if draft.name(Member(config.image_column, number, len(data)), kind, config.max_member_bytes):
        draft.look(data, probe)


def _kind(data: bytes, path: str) -> Media:
    named = naming.kind(path.rpartition(".")[2])
    return Media.VIDEO if named == "video" or naming.sniff(data) in naming.VIDEOS else Media.IMAGE


def _text(row: dict[str, Any], without: set[str]) -> dict[str, str]:
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
    return [name for name in kept if schema.names.count(name) == 1]


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


def _is_text(kind: pa.DataType) -> bool:
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_it(kind) for is_it in strings)


def _is_scalar(kind: pa.DataType) -> bool:
    return _is_text(kind) or any(
        is_it(kind) for is_it in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    )
