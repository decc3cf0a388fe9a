"""The whole story of one published asset, gathered from rows, index, plan and recipe."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobs.report.gather import Row, recipe
from pipeline.errors import ConfigError, MediaError
from pipeline.failures import WORDS
from pipeline.lookup import Place, Places, Published, rows_of_one
from pipeline.prompt import filled
from pipeline.provenance import NAMESPACE
from pipeline.types import Clip, Code


@dataclass(frozen=True, slots=True)
class Story:
    """`place` is None where the index, or the plan that names it, is gone; `recipes` are by recipe_id."""

    table: Published
    captions: Sequence[Row]
    failures: Sequence[Row]
    place: Place | None
    recipes: Mapping[str, Mapping[str, Any]]

    @property
    def rows(self) -> list[Row]:
        """Captions and failures."""
        return [*self.captions, *self.failures]

    @property
    def first(self) -> Row:
        """A row, for what is the same in all of them."""
        return self.rows[0]

    def recipe(self, row: Row) -> Mapping[str, Any]:
        """The recipe of a row; empty where it is gone."""
        return self.recipes[row["recipe_id"]]

    def turns(self, row: Row) -> list[dict[str, str]]:
        """What was asked for a row, with the asset's own text in it; [] where that is not known any more."""
        prompts = [p for p in self.recipe(row).get("prompts", ()) if p.get("id") == row["prompt_id"]]
        asked: Mapping[str, Any] = prompts[0] if prompts else {}
        turns = asked.get(row["media"]) or asked.get("turns") or []
        return [{"role": str(turn["role"]), "text": self._filled(str(turn["text"]), asked)} for turn in turns]

    def _filled(self, text: str, asked: Mapping[str, Any]) -> str:
        try:
            return filled(text, self.place.asset.text if self.place else {}, int(asked["max_field_chars"]))
        except MediaError:  # a field that it lacks, which is why it failed, or an index that is gone
            return text


def tell(table: Published, asset_id: str) -> Story:
    """The story of a published asset. Raises ConfigError where there is none of this id."""
    captions, failures = rows_of_one(table, asset_id)
    rows = [*captions, *failures]
    if not rows:
        raise ConfigError([f"no published asset has the id {asset_id}"])
    place = Places(table).find(rows[:1]).get(asset_id)
    recipes = {recipe_id: recipe(table.output, recipe_id) for recipe_id in {row["recipe_id"] for row in rows}}
    return Story(table, captions, failures, place, recipes)


def document(story: Story) -> dict[str, Any]:
    """The story for programs."""
    return {
        "asset": _asset(story),
        "where": _where(story.place),
        "captions": [_jsonable(row) | {"asked": story.turns(row)} for row in story.captions],
        "failures": [_jsonable(row) | _remedy(row) for row in story.failures],
        "recipes": story.recipes,
        "run": {
            name: story.table.snapshot.get(name) for name in ("run_id", "published_at", "previous_run_id")
        },
    }


def _asset(story: Story) -> dict[str, Any]:
    row = story.first
    told = {n: row[n] for n in ("asset_id", "dataset", "shard", "key", "media", "content_sha256", "unit_id")}
    told["asset_uuid"] = str(uuid.uuid5(NAMESPACE, row["asset_id"]))
    told["duplicate_of"] = row.get("duplicate_of")
    return told | (_facts(story.place) if story.place else {})


def _facts(place: Place) -> dict[str, Any]:
    """What the index knows: every size, where a row has only the first."""
    match place.asset.facts:
        case Clip(size, seconds, frames):
            return {"sizes": [[size.width, size.height]], "duration_s": seconds, "n_frames": frames}
        case tuple(sizes):
            return {"sizes": [[size.width, size.height] for size in sizes]}
    return {"sizes": []}


def _where(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    members = [{"name": m.name, "offset": m.offset, "size": m.size} for m in place.asset.members]
    told = {"shard": place.shard.path, "format": place.shard.format, "etag": place.shard.etag}
    return {
        **told,
        "shard_bytes": place.shard.bytes,
        "index": place.index,
        "members": members,
        "text": dict(place.asset.text),
    }


def _remedy(row: Row) -> dict[str, str]:
    means, remedy = (
        WORDS.get(Code(row["error_code"]), ("", "")) if row["error_code"] in set(Code) else ("", "")
    )
    return {"means": means, "remedy": remedy}


def _jsonable(row: Row) -> dict[str, Any]:
    return {name: told.isoformat() if isinstance(told, datetime) else told for name, told in row.items()}
