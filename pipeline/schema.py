"""Typed rows to Arrow and back: the index, and what travels between stages.

A message between stages is a table of one row (one unit), so that one task is one unit. Its nested parts are
Arrow IPC streams in binary cells and its pixels one `large_binary` cell, which is read back without a copy.
The published columns are in `columns`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import IntegrityError
from pipeline.types import (
    Answer,
    Asset,
    Caption,
    Captioned,
    Clip,
    Code,
    Cost,
    Facts,
    Finish,
    Media,
    Member,
    Prepared,
    Problem,
    Sample,
    Shard,
    ShardFormat,
    Size,
    Stage,
    Unit,
    View,
)

ASSETS = pa.schema(
    [
        ("asset_id", pa.string()),
        ("key", pa.string()),
        ("media", pa.string()),
        ("member_names", pa.list_(pa.string())),
        ("member_offsets", pa.list_(pa.int64())),
        ("member_sizes", pa.list_(pa.int64())),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("text", pa.string()),  # a JSON object of strings
        ("widths", pa.list_(pa.int32())),
        ("heights", pa.list_(pa.int32())),
        ("duration_s", pa.float64()),
        ("n_frames", pa.int32()),
        ("problem_stage", pa.string()),
        ("problem_code", pa.string()),
        ("problem_message", pa.string()),
    ]
)
VIEWS = pa.schema(
    [
        ("position", pa.int32()),
        ("media", pa.string()),
        ("sha256", pa.string()),
        ("widths", pa.list_(pa.int32())),
        ("heights", pa.list_(pa.int32())),
        ("grid_rows", pa.int32()),
        ("grid_cols", pa.int32()),
        ("n_crops", pa.int32()),
        ("frame_pts_s", pa.list_(pa.float64())),
    ]
)
ANSWERS = pa.schema(
    [
        ("position", pa.int32()),
        ("sha256", pa.string()),
        ("prompt_id", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish", pa.string()),
        ("mean_logprob", pa.float64()),
        ("n_prompt_tokens", pa.int32()),
        ("n_visual_tokens", pa.int32()),
        ("problem_stage", pa.string()),
        ("problem_code", pa.string()),
        ("problem_message", pa.string()),
    ]
)


def assets_to_table(assets: Sequence[Asset]) -> pa.Table:
    """Index rows as a table of schema `ASSETS`."""
    return pa.Table.from_pylist([_asset_row(a) for a in assets], schema=ASSETS)


def table_to_assets(table: pa.Table) -> list[Asset]:
    """Inverse of `assets_to_table`."""
    return [_asset(row) for row in table.to_pylist()]


def _asset_row(asset: Asset) -> dict[str, Any]:
    facts = asset.facts
    sizes = (facts.size,) if isinstance(facts, Clip) else facts if isinstance(facts, tuple) else ()
    return {
        "asset_id": asset.asset_id,
        "key": asset.key,
        "media": asset.media,
        "member_names": [m.name for m in asset.members],
        "member_offsets": [m.offset for m in asset.members],
        "member_sizes": [m.size for m in asset.members],
        "sha256": asset.sha256,
        "bytes": asset.bytes,
        "text": json.dumps(dict(asset.text), ensure_ascii=False),
        "duration_s": facts.duration_s if isinstance(facts, Clip) else None,
        "n_frames": facts.n_frames if isinstance(facts, Clip) else None,
        **_sizes_row(sizes),
        **_problem_row(facts if isinstance(facts, Problem) else None),
    }


def _asset(row: dict[str, Any]) -> Asset:
    members = zip(row["member_names"], row["member_offsets"], row["member_sizes"], strict=True)
    return Asset(
        asset_id=row["asset_id"],
        key=row["key"],
        media=Media(row["media"]) if row["media"] is not None else None,
        members=tuple(Member(*m) for m in members),
        sha256=row["sha256"],
        bytes=row["bytes"],
        text=json.loads(row["text"]),
        facts=_facts(row),
    )


def _facts(row: dict[str, Any]) -> Facts:
    problem = _problem(row)
    if problem is not None:
        return problem
    sizes = _sizes(row)
    if row["media"] == Media.VIDEO:
        return Clip(sizes[0], row["duration_s"], row["n_frames"])
    return sizes


def _sizes_row(sizes: Sequence[Size]) -> dict[str, Any]:
    return {"widths": [s.width for s in sizes], "heights": [s.height for s in sizes]}


def _sizes(row: dict[str, Any]) -> tuple[Size, ...]:
    return tuple(Size(w, h) for w, h in zip(row["widths"], row["heights"], strict=True))


def _problem_row(problem: Problem | None) -> dict[str, Any]:
    if problem is None:
        return {"problem_stage": None, "problem_code": None, "problem_message": None}
    return {"problem_stage": problem.stage, "problem_code": problem.code, "problem_message": problem.message}


def _problem(row: dict[str, Any]) -> Problem | None:
    if row["problem_code"] is None:
        return None
    return Problem(Stage(row["problem_stage"]), Code(row["problem_code"]), row["problem_message"])


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


def _unit(text: str) -> Unit:
    raw = json.loads(text)
    return Unit(raw["unit_id"], _shard(raw["shard"]), raw["first"], raw["count"], Cost(**raw["cost"]))


def _shard(raw: dict[str, Any]) -> Shard:
    return Shard(**{**raw, "format": ShardFormat(raw["format"])})


def prepared_to_table(prepared: Prepared) -> pa.Table:
    """A unit with its pixels. All crops of a unit have one tile size.

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
            "assets": [_ipc(assets_to_table(prepared.assets))],
            "views": [_ipc(_views_table([s.view for s in prepared.samples]))],
            "answers": [_ipc(_answers_table(prepared.problems))],
            "tile": [tile],
            "pixels": pa.array([pixels.reshape(-1).data], pa.large_binary()),
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
        assets=tuple(table_to_assets(_table(table.column("assets")[0]))),
        samples=tuple(_samples(_table(table.column("views")[0]), pixels)),
        problems=tuple(_answers(_table(table.column("answers")[0]))),
    )


def captioned_to_table(captioned: Captioned) -> pa.Table:
    """A unit with its answers."""
    return pa.table(
        {
            "unit": [json.dumps(asdict(captioned.unit))],
            "assets": [_ipc(assets_to_table(captioned.assets))],
            "views": [_ipc(_views_table(captioned.views))],
            "answers": [_ipc(_answers_table(captioned.answers))],
        }
    )


def table_to_captioned(table: pa.Table) -> Captioned:
    """Inverse of `captioned_to_table`."""
    return Captioned(
        unit=_unit(table.column("unit")[0].as_py()),
        assets=tuple(table_to_assets(_table(table.column("assets")[0]))),
        views=tuple(_view(row) for row in _table(table.column("views")[0]).to_pylist()),
        answers=tuple(_answers(_table(table.column("answers")[0]))),
    )


def _samples(views: pa.Table, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Iterator[Sample]:
    start = 0
    for row in views.to_pylist():
        view = _view(row)
        yield Sample(view, pixels[start : start + view.n_crops])
        start += view.n_crops


def _views_table(views: Sequence[View]) -> pa.Table:
    rows = [
        {
            "position": v.position,
            "media": v.media,
            "sha256": v.sha256,
            "grid_rows": v.grid[0],
            "grid_cols": v.grid[1],
            "n_crops": v.n_crops,
            "frame_pts_s": v.frame_pts_s,
            **_sizes_row(v.sizes),
        }
        for v in views
    ]
    return pa.Table.from_pylist(rows, schema=VIEWS)


def _view(row: dict[str, Any]) -> View:
    return View(
        position=row["position"],
        media=Media(row["media"]),
        sha256=row["sha256"],
        sizes=_sizes(row),
        grid=(row["grid_rows"], row["grid_cols"]),
        n_crops=row["n_crops"],
        frame_pts_s=tuple(row["frame_pts_s"]),
    )


def _answers_table(answers: Sequence[Answer]) -> pa.Table:
    return pa.Table.from_pylist([_answer_row(a) for a in answers], schema=ANSWERS)


def _answer_row(answer: Answer) -> dict[str, Any]:
    row: dict[str, Any] = {
        "position": answer.position,
        "sha256": answer.sha256,
        "prompt_id": answer.prompt_id,
    }
    if isinstance(answer.outcome, Problem):
        return row | _problem_row(answer.outcome)
    caption = answer.outcome
    return row | {
        "text": caption.text,
        "token_ids": caption.token_ids,
        "finish": caption.finish,
        "mean_logprob": caption.mean_logprob,
        "n_prompt_tokens": caption.n_prompt_tokens,
        "n_visual_tokens": caption.n_visual_tokens,
    }


def _answers(table: pa.Table) -> Iterator[Answer]:
    for row in table.to_pylist():
        yield Answer(row["position"], row["sha256"], row["prompt_id"], _problem(row) or _caption(row))


def _caption(row: dict[str, Any]) -> Caption:
    return Caption(
        text=row["text"],
        token_ids=tuple(row["token_ids"]),
        finish=Finish(row["finish"]),
        mean_logprob=row["mean_logprob"],
        n_prompt_tokens=row["n_prompt_tokens"],
        n_visual_tokens=row["n_visual_tokens"],
    )


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _cell(column: pa.ChunkedArray) -> pa.Buffer:
    """The bytes of a one-row `large_binary` column, without the copy that a scalar makes of them."""
    (chunk,) = (c for c in column.chunks if len(c))
    _, offsets, data = chunk.buffers()
    start, stop = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + 2]
    return data.slice(start, stop - start)


def _table(cell: pa.BinaryScalar) -> pa.Table:
    with pa.ipc.open_stream(cell.as_buffer()) as reader:
        return reader.read_all()
