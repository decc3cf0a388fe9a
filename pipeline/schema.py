"""Typed rows to Arrow and back: assets, views and answers, a row each.

`messages` has what travels between stages, `columns` what is published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.types import (
    Answer,
    Asset,
    Caption,
    Clip,
    Code,
    Facts,
    Finish,
    Media,
    Member,
    Problem,
    Size,
    Stage,
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
        ("attempt", pa.int32()),
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


def views_to_table(views: Sequence[View]) -> pa.Table:
    """Views as a table of schema `VIEWS`."""
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


def table_to_views(table: pa.Table) -> Iterator[View]:
    """Inverse of `views_to_table`."""
    for row in table.to_pylist():
        yield _view(row)


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


def answers_to_table(answers: Sequence[Answer]) -> pa.Table:
    """Answers as a table of schema `ANSWERS`."""
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
        "attempt": caption.attempt,
    }


def table_to_answers(table: pa.Table) -> Iterator[Answer]:
    """Inverse of `answers_to_table`."""
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
        attempt=row["attempt"],
    )
