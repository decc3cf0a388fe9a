"""What travels between stages: a table of one row (one shard or one unit), so that one task is one unit.

Nested parts are Arrow IPC streams in binary cells, and pixels one `large_binary` cell, which is read back without a
copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import IntegrityError
from pipeline.schema import (
    answers_to_table,
    assets_to_table,
    table_to_answers,
    table_to_assets,
    table_to_views,
    views_to_table,
)
from pipeline.types import Captioned, Cost, Effort, Preparation, Prepared, Sample, Shard, ShardFormat, Unit


def shard_to_table(shard: Shard) -> pa.Table:
    """A listed shard on its way to an indexer."""
    return pa.table({"shard": [json.dumps(asdict(shard))]})


def table_to_shard(table: pa.Table) -> Shard:
    """Inverse of `shard_to_table`."""
    return _shard(json.loads(table.column("shard")[0].as_py()))


def unit_to_table(unit: Unit, index_uri: str) -> pa.Table:
    """A planned unit on its way to a preprocessor, with the address of its shard's index."""
    return pa.table({"unit": [json.dumps(asdict(unit))], "index_uri": [index_uri]})


def table_to_unit(table: pa.Table) -> tuple[Unit, str]:
    """Inverse of `unit_to_table`."""
    row = table.to_pylist()[0]
    return _unit(row["unit"]), row["index_uri"]


def done_to_table(unit: Unit) -> pa.Table:
    """A unit whose part is there already, on its way to the committer past whoever would work on it."""
    return pa.table({"done": [json.dumps(asdict(unit))]})


def table_to_done(table: pa.Table) -> Unit | None:
    """Inverse of `done_to_table`; None for a unit that is worked on."""
    return _unit(table.column("done")[0].as_py()) if "done" in table.column_names else None


def _unit(text: str) -> Unit:
    raw = json.loads(text)
    decoded = {"shard": _shard(raw["shard"]), "cost": Cost(**raw["cost"]), "prompts": tuple(raw["prompts"])}
    return Unit(**{**raw, **decoded})


def _shard(raw: dict[str, Any]) -> Shard:
    return Shard(**{**raw, "format": ShardFormat(raw["format"])})


def prepared_to_table(prepared: Prepared, assets: pa.Table | None = None) -> pa.Table:
    """A unit with its pixels. All crops of a unit have one tile size.

    `assets` are its index rows, where they are at hand: made into objects and back, they cost 0.03 ms each.
    Raises IntegrityError where a sample has not as many crops as its view says: read back by these counts, the pixels
    of every later sample would be another asset's.
    """
    for sample in prepared.samples:
        if len(sample.crops) != sample.view.n_crops:
            said = (
                f"asset {sample.view.position} has {len(sample.crops)} crops and says {sample.view.n_crops}"
            )
            raise IntegrityError(f"unit {prepared.unit.unit_id}: {said}")
    crops = [s.crops for s in prepared.samples]
    tile = crops[0].shape[1] if crops else 0
    pixels = np.concatenate(crops) if crops else np.zeros((0, 0, 0, 3), np.uint8)
    return pa.table(
        {
            "unit": [json.dumps(asdict(prepared.unit))],
            "assets": [ipc(assets_to_table(prepared.assets) if assets is None else assets)],
            "views": [ipc(views_to_table([s.view for s in prepared.samples]))],
            "answers": [ipc(answers_to_table(prepared.problems))],
            "preparation": [json.dumps(asdict(prepared.preparation))],
            "tile": [tile],
            "pixels": _shared(pixels),
        }
    )


def table_to_prepared(table: pa.Table) -> Prepared:
    """Inverse of `prepared_to_table`; the crops are read-only views into the table's buffer."""
    tile = table.column("tile")[0].as_py()
    buffer = _cell(table.column("pixels"))
    pixels = (
        np.frombuffer(buffer, np.uint8).reshape(-1, tile, tile, 3)
        if tile
        else np.zeros((0, 0, 0, 3), np.uint8)
    )
    return Prepared(
        unit=_unit(table.column("unit")[0].as_py()),
        assets=tuple(table_to_assets(from_ipc(table.column("assets")[0].as_buffer()))),
        samples=tuple(_samples(from_ipc(table.column("views")[0].as_buffer()), pixels)),
        problems=tuple(table_to_answers(from_ipc(table.column("answers")[0].as_buffer()))),
        preparation=Preparation(**json.loads(table.column("preparation")[0].as_py())),
    )


def captioned_to_table(captioned: Captioned, prepared: pa.Table | None = None) -> pa.Table:
    """A unit with its answers. What it has of the `prepared` unit, where that is at hand, goes on as it came."""
    same = (
        {
            "unit": [json.dumps(asdict(captioned.unit))],
            "assets": [ipc(assets_to_table(captioned.assets))],
            "views": [ipc(views_to_table(captioned.views))],
        }
        if prepared is None
        else {name: prepared.column(name) for name in ("unit", "assets", "views")}
    )
    return pa.table(
        {
            **same,
            "answers": [ipc(answers_to_table(captioned.answers))],
            "effort": [json.dumps(asdict(captioned.effort))],
        }
    )


def table_to_captioned(table: pa.Table) -> Captioned:
    """Inverse of `captioned_to_table`."""
    return Captioned(
        unit=_unit(table.column("unit")[0].as_py()),
        assets=tuple(table_to_assets(from_ipc(table.column("assets")[0].as_buffer()))),
        views=tuple(table_to_views(from_ipc(table.column("views")[0].as_buffer()))),
        answers=tuple(table_to_answers(from_ipc(table.column("answers")[0].as_buffer()))),
        effort=Effort(**json.loads(table.column("effort")[0].as_py())),
    )


def _samples(views: pa.Table, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Iterator[Sample]:
    start = 0
    for view in table_to_views(views):
        yield Sample(view, pixels[start : start + view.n_crops])
        start += view.n_crops


def ipc(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _shared(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> pa.Array:
    """A one-row `large_binary` column over the array's own memory.

    Not `pa.array` of a memoryview: it copies, and pyarrow 26 never lets go of what it copied from, a unit's pixels.
    """
    offsets = np.array([0, pixels.nbytes], np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(pixels.reshape(-1))]
    return pa.Array.from_buffers(pa.large_binary(), 1, buffers)


def _cell(column: pa.ChunkedArray) -> pa.Buffer:
    """The bytes of a one-row `large_binary` column, without the copy that a scalar makes of them."""
    (chunk,) = (c for c in column.chunks if len(c))
    _, offsets, data = chunk.buffers()
    start, stop = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + 2]
    return data.slice(start, stop - start)


def from_ipc(data: bytes | pa.Buffer) -> pa.Table:
    """Inverse of `ipc`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
