"""`captionmill report`: one page of a published table, to be looked at, mailed or kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jobs.report import view
from jobs.report.cards import Card, cards
from jobs.report.gather import Gathered, gather
from jobs.report.page import render
from jobs.report.pictures import Shown, Source, pictures
from jobs.report.view import Price
from pipeline import storage
from pipeline.config import InputConfig
from pipeline.lookup import Places, published, readable

THUMBNAILS = 200
HOW = "no picture: the report was made without --job or --input"


@dataclass(frozen=True, slots=True)
class Asked:
    """How many assets to show, drawn with `seed`; where their pictures are, if known; and what an hour costs."""

    count: int = THUMBNAILS
    seed: int = 0
    source: InputConfig | None = None
    price: Price | None = None


def write(output: str, target: Path, asked: Asked, console: Console) -> None:
    """Write the page. Raises ConfigError where nothing is published in `output`, or the input is not there."""
    began = time.monotonic()
    source = Source.of(asked.source) if asked.source else None
    with readable(output):
        gathered = gather(published(storage.absolute(output)), asked.count, asked.seed)
    shown = _pictures(gathered, source)
    text = page(gathered, shown, asked)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    said = f"{gathered.tally.captions:,} captions, {len(gathered.chosen):,} assets shown"
    if source:
        seen = sum(not isinstance(found, str) for found in shown.values())
        said += f", {seen:,} with pictures"
    console.print(f"{said}, {len(text.encode()) / 1e6:.1f} MB, {time.monotonic() - began:.1f} s")
    console.print(f"report    {target}", markup=False)
    if source is None:
        console.print("For pictures, say where the input is: --job JOB.toml, or --input URI")


def _pictures(gathered: Gathered, source: Source | None) -> Mapping[str, Shown]:
    if source is None:
        return {}
    rows = [rows[0] for rows in gathered.rows.values() if rows]
    places = Places(gathered.table).find(rows)
    recipe = next(iter(gathered.recipes.values()), {})
    gone = {str(row["asset_id"]): "its index is gone" for row in rows}
    return {**gone, **dict(pictures(places, source, recipe))}


def page(gathered: Gathered, shown: Mapping[str, Shown], asked: Asked) -> str:
    """The page's text."""
    made = cards(gathered, shown, HOW)
    told = gathered.table.snapshot
    return render(
        "report.html.j2",
        g=gathered,
        dataset=str(told["dataset"]),
        run=gathered.table.run_id,
        when=str(told["published_at"])[:16].replace("T", " "),
        models=[r["checkpoint"] for r in gathered.recipes.values() if r],
        figures=[*view.figures(gathered)],
        notices=[*view.notices(gathered)],
        charts=view.charts(gathered),
        over_time=view.over_time(gathered.timeline),
        flags=view.flags(gathered.tally),
        prompts=view.prompts(gathered),
        identical=view.identical(gathered),
        failures=view.failures(gathered.failed),
        cost=view.cost(gathered, asked.price),
        recipes={name: view.recipe_lines(told) for name, told in gathered.recipes.items()},
        cards=made,
        options=view.options(made),
        details=_details(made),
        seed=asked.seed,
        how="" if asked.source else HOW,
    )


def _details(made: list[Card]) -> dict[str, list[tuple[str, str]]]:
    return {card.asset_id: list(card.details) for card in made}
