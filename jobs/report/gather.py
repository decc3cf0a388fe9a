"""What a report shows, from the output alone: counts, a sample, failures, recipes, time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pyarrow.compute as pc

from pipeline import gallery, storage, timeline
from pipeline.identical import Identical, Shared
from pipeline.lookup import Published
from pipeline.readback import batches, opened
from pipeline.recipe import recipe_uri
from pipeline.record import MISSHAPEN, NAME
from pipeline.tally import Tally
from pipeline.timeline import Timeline

EXAMPLES = 12  # failures of each code that are held
PARTLY = 1_000  # assets that failed under some prompts, whose captions are looked for too
RECIPES = 8  # that are shown in full
Row = Mapping[str, Any]


@dataclass(slots=True)
class Failed:
    """The failures table: rows by code, examples of each code, and the assets that may have captions too."""

    rows: int = 0
    assets: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    retriable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Row]] = field(default_factory=dict)
    partly: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gathered:
    """All of it. `rows` are those of the assets `chosen`, captions and failures, by asset_id."""

    table: Published
    tally: Tally
    shared: Shared
    failed: Failed
    chosen: tuple[str, ...]
    rows: Mapping[str, Sequence[Row]]
    recipes: Mapping[str, Mapping[str, Any]]
    timeline: Timeline | None


def gather(table: Published, count: int, seed: int) -> Gathered:
    """Read the published files once, and `count` of their assets to show, drawn with `seed`."""
    failed = _failed(table)
    turns = zip_longest(*failed.examples.values())
    some = [row for turn in turns for row in turn if row is not None]
    tally, identical = Tally(), Identical()
    sampler = gallery.Sampler(count, [*failed.partly, *(row["asset_id"] for row in some)])
    for rows in gallery.from_id(table.output, table.captions, gallery.start(seed)):
        tally.add(rows)
        identical.add(rows)
        sampler.add(rows)
    ids, captions = sampler.chosen()
    chosen = tuple(_with_failures(ids, [row["asset_id"] for row in some], count))
    shown: dict[str, list[Row]] = {asset_id: [] for asset_id in chosen}
    for row in (*captions.to_pylist(), *some):
        if row["asset_id"] in shown:
            shown[row["asset_id"]].append(row)
    recipes = _recipes(table.output, [*tally.recipes] or table.snapshot.get("recipe_ids", []))
    return Gathered(table, tally, identical.shared(), failed, chosen, shown, recipes, _timeline(table, tally))


def _failed(table: Published) -> Failed:
    found, last = Failed(), None
    for file in table.failures:
        with opened(storage.join(table.output, file.path)) as parquet:
            for _, rows in batches(parquet):
                found.rows += len(rows)
                found.assets += len(pc.unique(rows["asset_id"])) - (rows["asset_id"][0].as_py() == last)
                last = rows["asset_id"][-1].as_py()
                _add(found, rows.drop_columns(["asset_uuid"]).to_pylist())
    return found


def _add(found: Failed, rows: Sequence[Row]) -> None:
    for row in rows:
        code = str(row["error_code"])
        found.codes[code] += 1
        found.retriable[code] += bool(row["retriable"])
        examples = found.examples.setdefault(code, [])
        if len(examples) < EXAMPLES:
            examples.append(row)
        if row["prompt_id"] is not None and len(found.partly) < PARTLY:
            found.partly[row["asset_id"]] = None


def _with_failures(ids: Sequence[str], failed: Sequence[str], count: int) -> list[str]:
    """At most a quarter of the sample are failures, where there are captions: every fifth from the eighth on."""
    examples = list(dict.fromkeys(failed))[: max(count - len(ids), count // 4)]
    chosen = [asset_id for asset_id in ids if asset_id not in examples][: count - len(examples)]
    for place, asset_id in enumerate(examples):
        chosen.insert(7 + 5 * place, asset_id)
    return chosen


def _recipes(output: str, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What lies in recipes/ of them; an id without a readable document has an empty one."""
    found: dict[str, Mapping[str, Any]] = {}
    for recipe_id in ids[:RECIPES]:
        found[recipe_id] = recipe(output, recipe_id)
    return found


def recipe(output: str, recipe_id: str) -> Mapping[str, Any]:
    """The recipe in words; empty where it is not there, or is none."""
    if not NAME.fullmatch(recipe_id):
        return {}
    try:
        told = json.loads(storage.read(recipe_uri(output, recipe_id)))
        return {**told, "checkpoint": dict(told["checkpoint"]), "prompts": list(told["prompts"])}
    except (storage.MissingError, *MISSHAPEN):
        return {}


def _timeline(table: Published, tally: Tally) -> Timeline | None:
    """Of the run that published the table; rows that an earlier run made took their time then."""
    recorded = timeline.of_records(timeline.records(table.output, table.run_id))
    return recorded or timeline.of_rows(w for (run, _), w in tally.units.items() if run == table.run_id)
