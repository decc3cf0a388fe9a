"""The published tables: every column of captions and failures with its type and description.

A unit part holds both tables of its unit side by side: all columns, with `row` saying which table a row is for.
Schema version 1. Columns are flat and timestamps are UTC microseconds, so that search engines load them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA_VERSION = "1"
TIME = pa.timestamp("us", tz="UTC")
ROW_GROUP = 65_536  # rows, of published files

_IDENTITY: tuple[tuple[str, pa.DataType, str], ...] = (
    ("asset_id", pa.string(), "hex blake2b-128 of dataset, shard path below the input root, and key"),
    ("asset_uuid", pa.string(), "UUID version 5 of asset_id, for stores that want UUIDs"),
    ("dataset", pa.string(), "[input] dataset of the job"),
    ("shard", pa.string(), "path of the shard below the input root"),
    (
        "key",
        pa.string(),
        "WebDataset key, Parquet key or row number, or path below a folder; empty for a whole shard",
    ),
    ("media", pa.string(), "image, images (several under one key) or video; null for a whole shard"),
    (
        "content_sha256",
        pa.string(),
        "sha256 of the media bytes; of the members' binary digests where there are several",
    ),
)
_RUN: tuple[tuple[str, pa.DataType, str], ...] = (
    ("recipe_id", pa.string(), "digest of recipes/<recipe_id>.json: all that decides what a caption says"),
    ("run_id", pa.string(), "digest of the recipe and the listed input"),
    ("unit_id", pa.string(), "work unit: shard number, first asset, count"),
    ("created_at", TIME, "when the unit was committed"),
)
_CAPTION: tuple[tuple[str, pa.DataType, str], ...] = (
    ("content_bytes", pa.int64(), "bytes of the media members"),
    ("width", pa.int32(), "pixels, upright; of the first picture"),
    ("height", pa.int32(), "pixels, upright; of the first picture"),
    ("duration_s", pa.float64(), "seconds of a video"),
    ("prompt_id", pa.string(), "id of the job's [[prompt]]"),
    ("caption", pa.string(), "what the model said, untouched"),
    (
        "caption_text",
        pa.string(),
        "the caption, safe to index: NFC, no control, bidi or zero-width characters, capped",
    ),
    ("finish_reason", pa.string(), "stop or length"),
    (
        "flags",
        pa.list_(pa.string()),
        "truncated, repetition, empty, refusal, prompt_echo, url, instruction_like",
    ),
    (
        "mean_logprob",
        pa.float64(),
        "mean natural-log probability of the output tokens; null where it overflowed",
    ),
    ("n_prompt_tokens", pa.int32(), "tokens before the first output token, visual tokens included"),
    ("n_visual_tokens", pa.int32(), "prompt tokens that stand for pictures"),
    ("n_output_tokens", pa.int32(), "tokens generated, end of sequence included"),
    (
        "attempt",
        pa.int32(),
        "0; of a caption that was drawn anew because it was flagged: which seed after the first",
    ),
    ("grid_rows", pa.int32(), "anyres tile rows of a single image"),
    ("grid_cols", pa.int32(), "anyres tile columns of a single image"),
    ("n_crops", pa.int32(), "crops given to the vision tower"),
    ("frame_pts_s", pa.list_(pa.float64()), "seconds from the clip's start of each frame that was looked at"),
    (
        "duplicate_of",
        pa.string(),
        "asset_id of the copy that was captioned for this one; null where it was itself",
    ),
    ("model", pa.string(), "hub id, or name of the checkpoint's folder"),
    ("model_revision", pa.string(), "commit, or sha256: and the digest of the weights"),
)
_FAILURE: tuple[tuple[str, pa.DataType, str], ...] = (
    ("prompt_id", pa.string(), "id of the prompt that failed; null where all of them did"),
    ("stage", pa.string(), "index, read, decode, prompt or generate"),
    ("error_code", pa.string(), "what failed, from a fixed vocabulary"),
    ("error_message", pa.string(), "what failed, in words, at most 300 characters"),
    ("retriable", pa.bool_(), "whether another run may succeed on the same bytes"),
)


def schema(*parts: tuple[tuple[str, pa.DataType, str], ...]) -> pa.Schema:
    """A schema of columns: name, type and description, which is in the field's metadata."""
    return pa.schema([pa.field(n, t, metadata={"description": d}) for part in parts for n, t, d in part])


CAPTIONS = schema(_IDENTITY, _CAPTION, _RUN)
FAILURES = schema(_IDENTITY, _FAILURE, _RUN)
ROW = pa.field("row", pa.string(), metadata={"description": "caption or failure"})
PART = pa.schema([ROW, *CAPTIONS, *(f for f in FAILURES if f.name not in CAPTIONS.names)])


def split_part(part: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The captions and the failures of a table of schema `PART`."""
    is_caption = pc.equal(part["row"], "caption")
    return part.filter(is_caption).select(CAPTIONS.names), part.filter(pc.invert(is_caption)).select(
        FAILURES.names
    )


def to_part(captions: pa.Table, failures: pa.Table) -> pa.Table:
    """Inverse of `split_part`."""
    tables = [
        table.append_column(ROW, pa.array([row] * len(table), pa.string()))
        for row, table in (("caption", captions), ("failure", failures))
    ]
    return pa.concat_tables(tables, promote_options="default").select(PART.names).cast(PART)


def between(ids: pa.ChunkedArray, low: str, high: str) -> pa.ChunkedArray:
    """Which ids lie in [low, high)."""
    return pc.and_(pc.greater_equal(ids, low), pc.less(ids, high))


def unequal(one: pa.ChunkedArray, other: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """Where two columns differ; null equals null only."""
    different = pc.xor(pc.is_null(one), pc.is_null(other))
    return pc.or_(different, pc.fill_null(pc.not_equal(one, other), False))


def parquet_options(sorted_by: pa.Schema | None = None) -> Mapping[str, Any]:
    """Writer options: zstd, page index and checksums; for published tables also the order and a bloom filter."""
    options: dict[str, Any] = {"compression": "zstd", "write_page_index": True, "write_page_checksum": True}
    if sorted_by is not None:
        options["sorting_columns"] = pq.SortingColumn.from_ordering(sorted_by, [("asset_id", "ascending")])
        # As many different ids as a row group can hold. The default, a million, gives the same bytes by way of 64 MB
        # of zeros: 0.15 s a file.
        options["bloom_filter_options"] = {"asset_id": {"ndv": ROW_GROUP}}
        options["row_group_size"] = ROW_GROUP
    return options
