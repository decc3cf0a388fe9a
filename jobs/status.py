"""`captionmill status`: how far an output is, from any machine that can read it. Nothing is written, no Ray started."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.progress import BAR, duration, failures_in_words
from pipeline import storage, under_way
from pipeline.errors import StorageError
from pipeline.quality import caption_text
from pipeline.under_way import Found, UnderWay

Row = tuple[str, str]


def show(output: str, *, as_json: bool) -> None:
    """Print how far the output is to standard output. StorageError where there is nothing of captionmill's."""
    where, now = storage.absolute(output), time.time()
    found = under_way.look(where)
    if not (found.snapshot or found.runs or found.indexing):
        raise StorageError(
            f"{storage.redact(where)} holds no captions, no plan and no index; check the address"
        )
    if as_json:
        click.echo(json.dumps(described(where, found, now), indent=1))
    else:
        tell(where, found, now, Console(highlight=False))


def described(output: str, found: Found, now_s: float) -> dict[str, Any]:
    """For programs; times are UTC."""
    indexing = found.indexing
    return {
        "output": output,
        "looked_at": _utc(now_s),
        "snapshot": _snapshot(found.snapshot) if found.snapshot else None,
        "runs": [_run(run, now_s) for run in found.runs],
        "indexing": {"shards": indexing.shards, "last": _utc(indexing.last_s)} if indexing else None,
    }


def _snapshot(told: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("dataset", "run_id", "published_at", "assets", "output_tokens", "failures_by_code")
    return {name: told[name] for name in kept} | {
        name: told[name]["rows"] for name in ("captions", "failures")
    }


def _run(run: UnderWay, now_s: float) -> dict[str, Any]:
    told = asdict(run)
    times = {"planned": told.pop("planned_s"), "last_commit": told.pop("last_commit_s")}
    rate, left = told.pop("rate"), run.seconds_left
    return {
        **told,
        **{name: None if when is None else _utc(when) for name, when in times.items()},
        "visual_tokens_per_s": rate,
        "seconds_left": left,
        "stalled": run.stalled(now_s),
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def tell(output: str, found: Found, now_s: float, console: Console) -> None:
    """For people."""
    console.print(Text(caption_text(storage.redact(output)), "bold"), soft_wrap=True)
    published = (Text("published", "bold"), _published(found.snapshot, now_s))
    sections: list[tuple[RenderableType, Iterator[Row]]] = [published]
    sections += [(_bar(run, now_s), _under_way(run, now_s)) for run in found.runs]
    if found.indexing:
        ago = f"the last one {duration(now_s - found.indexing.last_s)} ago"
        words = f"{found.indexing.shards:,} indexed since the last plan, {ago}"
        sections.append((Text("indexing", "bold"), iter([("shards", words)])))
    for title, rows in sections:
        console.print()
        console.print(title)
        console.print(_grid(rows))


def _grid(rows: Iterator[Row]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, words in rows:
        table.add_row(Text(f"  {name}", "dim"), Text(words))
    return table


def _published(told: Mapping[str, Any] | None, now_s: float) -> Iterator[Row]:
    if told is None:
        yield "nothing", "so far"
        return
    ago = duration(now_s - datetime.fromisoformat(told["published_at"]).timestamp())
    yield "run", f"{told['run_id']} of {caption_text(told['dataset'])}, {ago} ago"
    yield "assets", f"{told['assets']:,}"
    yield "captions", f"{told['captions']['rows']:,}, {told['output_tokens']:,} tokens"
    if told["failures"]["rows"]:
        yield "failures", failures_in_words(told["failures_by_code"])


def _bar(run: UnderWay, now_s: float) -> Table:
    share, left = run.visual_tokens.done / max(1, run.visual_tokens.planned), run.seconds_left
    table = Table.grid(padding=(0, 2, 0, 0))
    if run.units.done == run.units.planned:
        said = Text("to be published")
    elif run.stalled(now_s):
        said = Text("stalled?", "yellow")
    else:
        said = Text("time left unknown yet" if left is None else f"{duration(left)} left")
    bar = ProgressBar(total=1.0, completed=share, width=BAR)
    table.add_row(Text(f"run {run.run_id}", "bold"), bar, f"{100 * share:.0f} %", said)
    return table


def _under_way(run: UnderWay, now_s: float) -> Iterator[Row]:
    commit = run.last_commit_s
    last = f"planned {duration(now_s - run.planned_s)} ago"
    if commit is not None:
        last = f"the last one {duration(now_s - commit)} ago"
    yield "assets", f"{run.assets.done:,} of {run.assets.planned:,}"
    yield "units", f"{run.units.done:,} of {run.units.planned:,}, {last}"
    if run.rate:
        yield "pace", f"{run.rate:,.0f} visual tokens/s at the last commits"
    if run.counted:
        of = "" if run.counted == run.units.done else f" in {run.counted:,} of these units"
        yield "captions", f"{run.captions:,}, {run.output_tokens:,} tokens{of}"
    if run.failures_by_code:
        yield "failures", failures_in_words(run.failures_by_code)
    if run.files:
        yield "files", f"{run.files:,} of captions are there; the snapshot is swapped when all are"
    if run.stalled(now_s):
        yield "next", "where nobody is at it, the command that started it goes on from here"
