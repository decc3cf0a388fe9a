"""What a published row must say whatever its asset is: of its recipe, and of itself."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.findings import Finding, Kind
from pipeline.naming import asset_id
from pipeline.provenance import NAMESPACE, RETRIABLE
from pipeline.quality import caption_text, flags
from pipeline.recipe import prompts_of
from pipeline.record import Record
from pipeline.types import Caption, Code, Finish, Media, Stage

NULLABLE = {  # of each table
    "captions": frozenset(
        ("duration_s", "mean_logprob", "grid_rows", "grid_cols", "frame_pts_s", "duplicate_of")
    ),
    "failures": frozenset(("media", "content_sha256", "prompt_id")),
}
WORDS: Mapping[str, frozenset[str | None]] = {
    "media": frozenset((*Media, None)),
    "finish_reason": frozenset(Finish),
    "stage": frozenset(Stage),
    "error_code": frozenset(Code),
}
ROUNDING = 1e-6  # a mean of float32 logarithms may end a hair above 0


class OwnFacts:
    """The rules of the rows of a table, whose rows may be of several runs and recipes."""

    def __init__(self, record: Record, runs: Collection[str]) -> None:
        self._rules = {name: _Rules(record, name) for name in record.recipes}
        self._runs = {record.run_id, *runs}

    def findings(self, table: str, path: str, first: int, rows: pa.Table) -> Iterator[Finding]:
        """Every contradiction of these rows, `first` being the number of the first in the file."""
        for number, row in enumerate(rows.to_pylist(), first):
            for said in self._row(table, row):
                where = f"{path} row {number}"
                yield Finding(Kind.ROW, where, said, row["asset_id"], row["prompt_id"])

    def _row(self, table: str, row: Mapping[str, Any]) -> Iterator[str]:
        if row["run_id"] not in self._runs:
            yield f"run_id is {row['run_id']!r}, which is no run of this output"
        if (rules := self._rules.get(row["recipe_id"])) is None:
            yield f"recipe_id is {row['recipe_id']!r}, which the snapshot does not list"
        else:
            yield from rules.row(table, row)


class _Rules:
    """The rules of the rows of one recipe."""

    def __init__(self, record: Record, recipe_id: str) -> None:
        recipe = record.recipes[recipe_id]
        self._prompts = {p.id: p for p in prompts_of(recipe)}
        self._longest = int(recipe["generation"]["max_new_tokens"])
        self._retries = int(recipe["generation"]["retries"])
        checkpoint = recipe["checkpoint"]
        self._common = {
            "dataset": record.dataset,
            "model": checkpoint["name"],
            "model_revision": checkpoint["revision"],
        }

    def row(self, table: str, row: Mapping[str, Any]) -> Iterator[str]:
        """Every contradiction of a row."""
        for name, value in self._common.items():
            if name in row and row[name] != value:
                yield f"{name} is {row[name]!r}, the run's is {value!r}"
        if absent := [name for name, value in row.items() if value is None and name not in NULLABLE[table]]:
            yield f"{', '.join(absent)} is null"
            return
        if strange := [name for name, words in WORDS.items() if name in row and row[name] not in words]:
            yield from (f"{name} is {row[name]!r}, which is none of its words" for name in strange)
            return
        yield from _identity(row)
        yield from self._caption(row) if table == "captions" else self._failure(row)

    def _caption(self, row: Mapping[str, Any]) -> Iterator[str]:
        prompt = self._prompts.get(row["prompt_id"])
        turns = prompt.asked(Media(row["media"])) if prompt else ()
        if not turns:
            yield f"no prompt {row['prompt_id']!r} of the recipe asks about {row['media']}"
        else:
            yield from _text(row, turns[-1].text)
        yield from self._tokens(row)
        yield from _crops(row)

    def _tokens(self, row: Mapping[str, Any]) -> Iterator[str]:
        if not 0 <= row["n_visual_tokens"] <= row["n_prompt_tokens"]:
            yield f"{row['n_visual_tokens']} visual tokens of {row['n_prompt_tokens']} prompt tokens"
        if not 0 < row["n_output_tokens"] <= self._longest:
            yield f"{row['n_output_tokens']} output tokens; the recipe allows {self._longest}"
        if not 0 <= row["attempt"] <= self._retries:
            yield f"attempt {row['attempt']}; the recipe allows {self._retries}"
        if row["mean_logprob"] is not None and not row["mean_logprob"] <= ROUNDING:
            yield f"mean_logprob is {row['mean_logprob']}, which no logarithm of a probability is"

    def _failure(self, row: Mapping[str, Any]) -> Iterator[str]:
        if row["prompt_id"] is not None and row["prompt_id"] not in self._prompts:
            yield f"the recipe has no prompt {row['prompt_id']!r}"
        if row["retriable"] != (row["error_code"] in RETRIABLE):
            yield f"retriable is {row['retriable']}, which is wrong for {row['error_code']}"
        if caption_text(row["error_message"])[:300] != row["error_message"]:
            yield "error_message is not text that is safe to show"


def _identity(row: Mapping[str, Any]) -> Iterator[str]:
    expected = asset_id(row["dataset"], row["shard"], row["key"])
    if row["asset_id"] != expected:
        yield f"asset_id is not that of shard {row['shard']!r} and key {row['key']!r}, which is {expected}"
    if row["asset_uuid"] != str(uuid.uuid5(NAMESPACE, row["asset_id"])):
        yield "asset_uuid is not that of asset_id"


def _text(row: Mapping[str, Any], question: str) -> Iterator[str]:
    safe = caption_text(row["caption"])
    if row["caption_text"] != safe:
        yield f"caption_text is not what the caption gives, {safe[:100]!r}"
    finish = Finish(row["finish_reason"])
    n_prompt, n_visual = row["n_prompt_tokens"], row["n_visual_tokens"]
    expected = flags(Caption(row["caption"], (), finish, 0.0, n_prompt, n_visual), question)
    if row["flags"] != expected:
        yield f"flags are {row['flags']}, the caption gives {expected}"


def _crops(row: Mapping[str, Any]) -> Iterator[str]:
    image, video = row["media"] == Media.IMAGE, row["media"] == Media.VIDEO
    if image != (row["grid_rows"] is not None) or image != (row["grid_cols"] is not None):
        yield f"a grid of {row['grid_rows']} x {row['grid_cols']} tiles for {row['media']}"
    elif image and row["n_crops"] != 1 + row["grid_rows"] * row["grid_cols"]:
        yield f"{row['n_crops']} crops for one base crop and {row['grid_rows']} x {row['grid_cols']} tiles"
    if video != (row["frame_pts_s"] is not None):
        yield f"frame_pts_s is {row['frame_pts_s']} for {row['media']}"
    elif video and row["n_crops"] != len(row["frame_pts_s"]):
        yield f"{row['n_crops']} crops for {len(row['frame_pts_s'])} frames"
