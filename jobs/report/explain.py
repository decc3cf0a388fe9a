"""`captionmill explain`: one asset, in the terminal, as JSON, or as a page with its crops drawn on the picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jobs.report import story as stories
from jobs.report.cards import Picture, details, facts, said, value, words
from jobs.report.gather import Row
from jobs.report.page import render
from jobs.report.pictures import Source, data_uri, pictures
from jobs.report.story import Story
from jobs.report.view import recipe_lines
from pipeline import storage
from pipeline.config import InputConfig
from pipeline.lookup import asset_id_of, asset_id_of_key, published, readable

SIDE = 1024  # pixels of the picture on the page
UNIT = 100.0  # of the drawing, for a tile


@dataclass(frozen=True, slots=True)
class Asked:
    """Which asset, and what is wanted of it."""

    asset: str
    source: InputConfig | None = None
    by_key: bool = False
    target: Path | None = None
    verify: bool = False
    as_json: bool = False
    job: str | None = None  # text of the job file, to make captions again


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture as the checkpoint cut it: the canvas of tiles, where the picture lies on it, in `UNIT`s a tile."""

    picture: Picture
    columns: int
    rows: int
    x: float
    y: float
    width: float
    height: float


def show(output: str, asked: Asked, console: Console) -> None:
    """Print the story, write the page, check the row, as asked. Raises ConfigError where there is no such asset."""
    table = published(storage.absolute(output))
    find = asset_id_of_key if asked.by_key else asset_id_of
    with readable(output):
        story = stories.tell(table, find(table, asked.asset))
    if asked.as_json:
        click.echo(json.dumps(stories.document(story), indent=1, ensure_ascii=False))
    else:
        for line in lines(story):
            console.print(line, markup=False)
    if asked.target:
        asked.target.write_text(page(story, asked), encoding="utf-8")
        console.print(f"page      {asked.target}", markup=False)
    if asked.verify:
        _verify(story, asked, console)


def _verify(story: Story, asked: Asked, console: Console) -> None:
    from jobs import verify  # takes a second to import

    again = None
    if asked.job is not None:
        again = verify.Again(verify.elsewhere(asked.job), None, 0, captions=True)
    report = verify.inspect_one(story.table.output, story.first["asset_id"], again, console)
    verify.tell(report, console)


def lines(story: Story) -> Iterator[str]:
    """The story for a terminal, line by line."""
    first = story.first
    yield f"{words(first['key']) or '(whole shard)'}  {first['asset_id']}"
    yield from (f"  {name:<16} {told}" for name, told in _asset(story))
    for row in story.rows:
        told = said(row, longest=1 << 20)
        yield ""
        yield f"{told.prompt}{': ' + told.code if told.code else ''}{''.join(f' [{flag}]' for flag in told.flags)}"
        yield from (f"  {turn['role']:<10} {words(turn['text'])}" for turn in story.turns(row))
        yield f"  {'failure' if told.code else 'caption':<10} {told.text or '(empty)'}"
        yield from (f"  {name:<16} {value(row[name])}" for name in _NUMBERS if row.get(name) is not None)
    for recipe_id, recipe in story.recipes.items():
        yield ""
        yield f"recipe {words(recipe_id)}"
        yield from (f"  {name:<34} {told}" for name, told in recipe_lines(recipe))


_NUMBERS = (
    "finish_reason",
    "n_prompt_tokens",
    "n_visual_tokens",
    "n_output_tokens",
    "attempt",
    "mean_logprob",
    "stage",
    "retriable",
)
_RUN = ("unit_id", "run_id", "created_at", "model", "model_revision")


def _asset(story: Story) -> Iterator[tuple[str, str]]:
    """What is the same for all prompts."""
    first, place = story.first, story.place
    yield "kind", words(str(first["media"] or "a whole shard"))
    yield "shard", words(first["shard"])
    if place is None:
        yield "bytes", "unknown: the index, or the plan that names it, is gone"
    else:
        where = {"tar": "at byte {:,}", "parquet": "in row {:,}", "folder": "a file"}[place.shard.format]
        for member in place.asset.members:
            yield "member", f"{words(member.name)}, {member.size:,} bytes {where.format(member.offset)}"
        yield from ((f"field {words(name)}", words(text)[:200]) for name, text in place.asset.text.items())
        yield "index", place.index
    if first["content_sha256"]:
        yield "sha256", words(first["content_sha256"])
    if told := facts(first):
        yield "looked at", told
    if first.get("frame_pts_s"):
        yield "frames at", ", ".join(f"{at:.2f}" for at in first["frame_pts_s"]) + " s"
    if first.get("duplicate_of"):
        yield "copy of", f"{words(first['duplicate_of'])}, which was captioned for it"
    yield from ((name, value(first[name])) for name in _RUN if first.get(name) is not None)


def page(story: Story, asked: Asked) -> str:
    """The story as a page."""
    shown, missing = _pictures(story, asked)
    return render(
        "explain.html.j2",
        key=words(story.first["key"]) or "(whole shard)",
        asset_id=words(story.first["asset_id"]),
        dataset=words(story.first["dataset"]),
        asset=[*_asset(story)],
        drawings=[*_drawings(story, shown)],
        frames=[p for p in shown if p.at],
        missing=missing,
        rows=[_row(story, row) for row in story.rows],
        recipes={name: recipe_lines(told) for name, told in story.recipes.items()},
    )


def _row(story: Story, row: Row) -> dict[str, Any]:
    raw = row.get("caption")
    return {
        "said": said(row, longest=1 << 20),
        "raw": "" if raw is None or raw == row["caption_text"] else repr(raw),
        "turns": [{"role": turn["role"], "text": words(turn["text"])} for turn in story.turns(row)],
        "details": [*details([row])],
    }


def _pictures(story: Story, asked: Asked) -> tuple[list[Picture], str]:
    """The pictures, or why there are none."""
    if asked.source is None:
        return [], "no picture: it was made without --job or --input"
    if story.place is None:
        return [], "its index is gone"
    found = pictures({"": story.place}, Source.of(asked.source), story.recipe(story.first), SIDE)
    shown = next((shown for _, shown in found), "its shard has no bytes of it")
    if isinstance(shown, str):
        return [], words(shown)
    at = [f"{t.at_s:.2f} s" if t.at_s is not None else "" for t in shown]
    return [Picture(data_uri(t), t.size.width, t.size.height, a) for t, a in zip(shown, at, strict=True)], ""


def _drawings(story: Story, shown: list[Picture]) -> Iterator[Drawing]:
    """Images on the grid of their tiles; one of several, and one without a grid, on a square."""
    grid = (story.first.get("grid_cols") or 1, story.first.get("grid_rows") or 1)
    for picture in (p for p in shown if not p.at):
        columns, rows = grid
        scale = UNIT * min(columns / picture.width, rows / picture.height)
        width, height = picture.width * scale, picture.height * scale
        x, y = (UNIT * columns - width) / 2, (UNIT * rows - height) / 2
        yield Drawing(picture, columns, rows, x, y, width, height)
