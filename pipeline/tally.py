"""Counts over the published captions, made in one pass: what a report draws. Memory does not grow with the rows.

What hangs on the asset (kind, size, crops) is counted once an asset, what hangs on the words once a caption.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

PIXELS = (50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000)
LOGPROB = 0.1  # width of a bar


@dataclass(slots=True)
class Work:
    """What a unit's rows say of it: captions and output tokens, and when it was committed."""

    captions: int
    tokens: int
    at: datetime


@dataclass(slots=True)
class Tally:
    """The counts. `sizes` counts by how many of `PIXELS` a picture has, `logprobs` by whole `LOGPROB`s, rounded down.

    `lengths` are characters of caption_text, `units` are by run and unit; `tokens_of` is a sum by prompt.
    """

    captions: int = 0
    assets: int = 0
    copies: int = 0
    flagged: int = 0
    media: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    crops: Counter[int] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    tokens_of: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    flagged_of: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    logprobs: Counter[int] = field(default_factory=Counter)
    recipes: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    units: dict[tuple[str, str], Work] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Published captions in order of asset_id, all rows of an asset together."""
        if not len(rows):
            return
        self._add_captions(rows)
        self._add_assets(rows.filter(_firsts(rows["asset_id"])))
        self._add_units(rows)

    def _add_captions(self, rows: pa.Table) -> None:
        self.captions += len(rows)
        for counter, name in (
            (self.prompts, "prompt_id"),
            (self.recipes, "recipe_id"),
            (self.runs, "run_id"),
        ):
            counter.update(counts(rows[name]))
        self.tokens.update(counts(rows["n_output_tokens"]))
        self.lengths.update(counts(pc.utf8_length(rows["caption_text"])))
        bars = pc.floor(pc.divide(pc.drop_null(rows["mean_logprob"]), LOGPROB))
        self.logprobs.update(counts(pc.cast(bars, pa.int64())))
        self.flags.update(counts(pc.list_flatten(rows["flags"])))
        flagged = rows.filter(pc.greater(pc.list_value_length(rows["flags"]), 0))
        self.flagged += len(flagged)
        self.flagged_of.update(counts(flagged["prompt_id"]))
        sums = (
            rows.group_by("prompt_id", use_threads=False).aggregate([("n_output_tokens", "sum")]).to_pylist()
        )
        self.tokens_of.update({row["prompt_id"]: row["n_output_tokens_sum"] for row in sums})

    def _add_assets(self, rows: pa.Table) -> None:
        self.assets += len(rows)
        self.copies += len(rows) - rows["duplicate_of"].null_count
        self.media.update(counts(rows["media"]))
        self.crops.update(counts(rows["n_crops"]))
        self.sizes.update(size_bins(rows).tolist())

    def _add_units(self, rows: pa.Table) -> None:
        sums = [("n_output_tokens", "sum"), ("created_at", "max"), ("unit_id", "count")]
        for row in rows.group_by(["run_id", "unit_id"], use_threads=False).aggregate(sums).to_pylist():
            key, at = (row["run_id"], row["unit_id"]), row["created_at_max"]
            before = self.units.get(key, Work(0, 0, at))
            captions = before.captions + row["unit_id_count"]
            self.units[key] = Work(captions, before.tokens + row["n_output_tokens_sum"], max(before.at, at))


def counts(column: pa.ChunkedArray | pa.Array) -> dict[Any, int]:
    """How often each value occurs; nulls are not counted."""
    return {v["values"]: v["counts"] for v in column.value_counts().to_pylist() if v["values"] is not None}


def size_bins(rows: pa.Table) -> npt.NDArray[np.int64]:
    """For each row, how many of `PIXELS` its first picture has at least: int64 (rows,)."""
    pixels = pc.multiply(pc.cast(rows["width"], pa.int64()), rows["height"]).to_numpy()
    bins: npt.NDArray[np.int64] = np.searchsorted(np.array(PIXELS), pixels, side="right")
    return bins


def _firsts(ids: pa.ChunkedArray) -> pa.Array:
    """Which rows are the first of their asset."""
    whole = ids.combine_chunks()
    return pa.concat_arrays([pa.array([True]), pc.not_equal(whole[1:], whole[:-1])])
