"""Makes a run's plan: from the indexes alone, and from what is published before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import copies, papers, prompt, storage, units
from pipeline.before import Before
from pipeline.config import PromptConfig, UnitConfig
from pipeline.fit import Needs
from pipeline.plan import Carried, Plan, Work, work_uri
from pipeline.pricing import Priced
from pipeline.recipe import Recipe
from pipeline.standing import Standing, standing
from pipeline.todo import EVERYTHING, Comparison, Todo, everything
from pipeline.types import Unit


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a shard's index, by number of the shard, that are asked the same prompts (none: all of the job's)."""

    shard: int
    rows: npt.NDArray[np.bool_]
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Composed:
    """What is to be captioned: pieces, the units that they are cut into, and the rows that are taken over."""

    shards: Sequence[Priced]
    pieces: tuple[Piece, ...]
    units: tuple[Unit, ...]
    todo: Todo
    copies: pa.Table
    before: Before | None
    rule: Standing | None

    @property
    def changes(self) -> bool:
        """Whether the table would be another than the one before it; if not, there is nothing to do."""
        if self.before is None or self.rule is None:
            return True
        indexes = {p.indexed.shard.path: p.indexed.uri.rpartition("/")[2] for p in self.shards}
        ended = any(self.rule.ended.values())
        return bool(self.units or self.todo.dropped or ended) or indexes != self.before.indexes


@dataclass(frozen=True, slots=True)
class Names:
    """Of a run: where its output is, and its ids."""

    output: str
    run_id: str
    job_id: str
    dataset: str


def compose(
    shards: Sequence[Priced],
    prompts: Sequence[PromptConfig],
    limits: UnitConfig,
    *,
    duplicates: str = "once",
    after: tuple[Before, Recipe, tuple[str, ...] | None] | None = None,
) -> Composed:
    """What a job asks of these shards; nothing is written, and whoever does it again gets the same.

    `after` has the table that is published before, this run's recipe, and codes of failures to try again (see
    `todo.Comparison`).
    """
    before, recipe, again = after or (None, None, None)
    rule = standing(before.recipe, json.loads(recipe.to_json())) if before and recipe else None
    indexed = [p.indexed for p in shards]
    todo = Comparison(before, rule, prompts, again).todo(indexed) if before and rule else everything(indexed)
    known = before.copies() if before else papers.COPIES.empty_table()
    digests = [p.digests for p in shards] if duplicates == "once" else None
    found = copies.find(indexed, digests, todo, known, prompt.fields(prompts))
    pieces, planned = _cut(shards, todo, limits)
    return Composed(shards, pieces, planned, todo, found, before, rule)


def _cut(
    shards: Sequence[Priced], todo: Todo, limits: UnitConfig
) -> tuple[tuple[Piece, ...], tuple[Unit, ...]]:
    pieces: list[Piece] = []
    planned: list[Unit] = []
    for number, (shard, asks) in enumerate(zip(shards, todo.asks, strict=True)):
        for ask in np.unique(asks[asks >= EVERYTHING]).tolist():
            rows, asked = asks == ask, todo.prompts[ask]
            planned += units.split(shard.indexed.shard, len(pieces), shard.costs[rows], limits, asked)
            pieces.append(Piece(number, rows, asked))
    return tuple(pieces), tuple(planned)


def plan(names: Names, composed: Composed, recipe: Recipe, replica: Needs) -> Plan:
    """The plan. Where rows are taken over, it stands on papers beside it: see `write`."""
    base = composed.before.run_id if composed.before else None
    dropped = sum(map(len, composed.todo.dropped))
    carried = Carried(base, composed.rule, dropped, len(composed.copies))
    whole = base is None and not len(composed.copies)
    return Plan(
        names.run_id,
        recipe.recipe_id,
        names.dataset,
        tuple(p.indexed.shard for p in composed.shards),
        tuple(p.indexed.uri for p in composed.shards),
        composed.units,
        sum(len(p.costs) for p in composed.shards),
        sum(int(p.indexed.problem.sum()) for p in composed.shards),
        replica,
        names.job_id,
        None if whole else tuple(_work(names, composed)),
        None if whole else carried,
    )


def _work(names: Names, composed: Composed) -> list[Work]:
    folder, found = work_uri(names.output, names.run_id), []
    for number, piece in enumerate(composed.pieces):
        shard = composed.shards[piece.shard].indexed
        uri = shard.uri if piece.rows.all() else storage.join(folder, f"{number:06d}.parquet")
        found.append(Work(shard.shard, uri, piece.prompts))
    return found


def write(names: Names, composed: Composed, plan: Plan) -> None:
    """Write the plan down, after the papers that it stands on."""
    works = [] if plan.work is None else zip(composed.pieces, plan.work, strict=True)
    for piece, work in works:
        index = composed.shards[piece.shard].indexed.uri
        if work.index != index:
            papers.put(work.index, papers.read(index).filter(pa.array(piece.rows)))
    if composed.todo.dropped:
        dropped = pa.concat_tables(composed.todo.dropped).sort_by("asset_id")
        papers.put(papers.dropped_uri(names.output, names.run_id), dropped)
    if len(composed.copies):
        papers.put(papers.copies_uri(names.output, names.run_id), composed.copies)
    storage.put(papers.plan_uri(names.output, names.run_id), plan.to_json().encode())


def counts(plan: Plan) -> Mapping[str, int]:
    """Assets to caption, that are copies of others, and that stand as they are."""
    copied = plan.carried.copies if plan.carried else 0
    return {"planned": plan.planned, "copies": copied, "stand": plan.assets - plan.planned - copied}
