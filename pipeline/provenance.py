"""How a row came to be: from a captioned unit to rows of the published tables."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipeline.columns import PART
from pipeline.config import PromptConfig
from pipeline.quality import caption_text, flags
from pipeline.recipe import Checkpoint
from pipeline.types import Answer, Asset, Caption, Captioned, Clip, Code, Media, Problem, View

# ours, fixed for ever: asset_uuid depends on it
NAMESPACE = uuid.UUID("b0b4bd3f-0d0f-5d0b-9c3e-8a4c9a1f7c11")
# the same bytes may succeed next time: the machine was at fault, or the object changed under the run
RETRIABLE = frozenset(
    {
        Code.DECODER_CRASHED,
        Code.DECODER_TIMEOUT,
        Code.CONTENT_CHANGED,
        Code.OUT_OF_MEMORY,
        Code.REPLICA_DIED,
    }
)


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same in all rows of a run."""

    dataset: str
    run_id: str
    recipe_id: str
    checkpoint: Checkpoint
    prompts: tuple[PromptConfig, ...]


def part_table(captioned: Captioned, context: Context, created_at: datetime) -> pa.Table:
    """Rows of schema `PART` for every answer of a unit, in the order of the answers."""
    views = {v.position: v for v in captioned.views}
    prompts = {p.id: p for p in context.prompts}
    rows = []
    for answer in captioned.answers:
        asset = captioned.assets[answer.position]
        row = _identity(asset, captioned, context) | {"prompt_id": answer.prompt_id, "created_at": created_at}
        rows.append(row | _outcome(answer, asset, views, prompts))
    return pa.Table.from_pylist(rows, schema=PART)


def _identity(asset: Asset, captioned: Captioned, context: Context) -> dict[str, Any]:
    return {
        "asset_id": asset.asset_id,
        "asset_uuid": str(uuid.uuid5(NAMESPACE, asset.asset_id)),
        "dataset": context.dataset,
        "shard": captioned.unit.shard.path,
        "key": asset.key,
        "media": asset.media,
        "content_sha256": asset.sha256 or None,
        "recipe_id": context.recipe_id,
        "run_id": context.run_id,
        "unit_id": captioned.unit.unit_id,
        "model": context.checkpoint.name,
        "model_revision": context.checkpoint.revision,
    }


def _outcome(
    answer: Answer, asset: Asset, views: Mapping[int, View], prompts: Mapping[str, PromptConfig]
) -> dict[str, Any]:
    if isinstance(answer.outcome, Problem):
        return _failure(answer.outcome)
    assert answer.prompt_id is not None  # a caption always answers one prompt
    view = views[answer.position]
    question = prompts[answer.prompt_id].asked(view.media)[-1].text
    return _caption(answer.outcome, asset, view, question)


def _failure(problem: Problem) -> dict[str, Any]:
    return {
        "row": "failure",
        "stage": problem.stage,
        "error_code": problem.code,
        "error_message": caption_text(problem.message)[:300],  # it may quote a name or a decoder
        "retriable": problem.code in RETRIABLE,
    }


def _caption(caption: Caption, asset: Asset, view: View, question: str) -> dict[str, Any]:
    tiled = view.media is Media.IMAGE
    return {
        "row": "caption",
        "content_bytes": asset.bytes,
        "width": view.sizes[0].width,
        "height": view.sizes[0].height,
        "duration_s": asset.facts.duration_s if isinstance(asset.facts, Clip) else None,
        "caption": caption.text,
        "caption_text": caption_text(caption.text),
        "finish_reason": caption.finish,
        "flags": flags(caption, question),
        "mean_logprob": caption.mean_logprob if math.isfinite(caption.mean_logprob) else None,
        "n_prompt_tokens": caption.n_prompt_tokens,
        "n_visual_tokens": caption.n_visual_tokens,
        "n_output_tokens": caption.n_output_tokens,
        "attempt": caption.attempt,
        "grid_rows": view.grid[0] if tiled else None,
        "grid_cols": view.grid[1] if tiled else None,
        "n_crops": view.n_crops,
        "frame_pts_s": list(view.frame_pts_s) if view.media is Media.VIDEO else None,
    }
