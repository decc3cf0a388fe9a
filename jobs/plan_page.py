"""A plan on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.progress import duration
from pipeline.config import GIB
from pipeline.quality import caption_text

BAR = 20  # columns of the longest bar
KINDS = {"image": "single images", "images": "sets of images", "video": "videos"}
Row = tuple[str, str]


def tell(found: Mapping[str, Any], console: Console) -> None:
    """Print what `jobs.plan.plan` found."""
    run = (
        f"run {found['run_id']}"
        if found["run_id"]
        else "its weights are not here, so its run has no name yet"
    )
    console.print(Text(f"Plan of {caption_text(found['dataset'])}: {run}", "bold"))
    console.print(f"into {caption_text(found['output'])}", markup=False, soft_wrap=True)
    console.print()
    console.print(Columns([_section("input", _input(found)), _section("work", _work(found))], padding=(0, 4)))
    console.print()
    titles = {"crops": "crops an asset", "visual_tokens": "visual tokens an asset"}
    bars = [_bars(title, found[f"{name}_histogram"]) for name, title in titles.items()]
    console.print(Columns([own for own in bars if own], padding=(0, 4)))
    console.print()
    console.print(_section("time and money", _time(found["time"])))
    for line in _lines(found):
        console.print(line, markup=False)


def _section(title: str, rows: Iterable[Row]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(Text(title, "bold"), "")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _input(found: Mapping[str, Any]) -> Iterator[Row]:
    yield "shards", f"{found['shards']:,}"
    yield "assets", f"{found['assets']:,}"
    for kind, n in found["by_kind"].items():
        yield f"  {KINDS[kind]}", f"{n:,}"
    for code, n in found["unreadable"].items():
        yield f"  unreadable: {code}", f"{n:,}"
    for kind, n in found["not_asked"].items():
        yield f"  no prompt for {KINDS[kind]}", f"{n:,}"
    yield "same bytes as another", f"{found['duplicates']['assets']:,}"
    yield "  captions these save", f"{found['duplicates']['captions_saved']:,}"


def _work(found: Mapping[str, Any]) -> Iterator[Row]:
    prompts = found["prompt_tokens"]
    yield "captions", f"{found['captions']:,}"
    yield "units", f"{found['units']:,}"
    yield "crops", f"{found['crops']:,}"
    yield "  their pixels", f"{found['pixel_bytes'] / GIB:,.1f} GiB"
    yield "visual tokens", f"{found['visual_tokens']:,}"
    yield "prompt tokens", f"{prompts['visual'] + prompts['text_about']:,}"
    yield "  of text, about", f"{prompts['text_about']:,}"
    yield "  of padding", f"{prompts['padding']:,}"


def _time(told: Mapping[str, Any]) -> Iterator[Row]:
    many = f"{told['replicas']} × {told['gpus_per_replica']:g} {told['gpu']}"
    yield f"all of it on {many}", _long(told, "")
    if told["hours_left"] < told["hours"]:
        yield "what is left", _long(told, "_left")


def _long(told: Mapping[str, Any], which: str) -> str:
    words = [duration(told[f"hours{which}"] * 3600), f"{told[f'gpu_hours{which}']:,.2f} GPU hours"]
    money = told[f"money{which}"]
    return " · ".join(
        [*words, *([] if money is None else [f"{money:,.2f} at {told['gpu_hour_price']:g} an hour"])]
    )


def _bars(title: str, bins: Sequence[Mapping[str, int]]) -> RenderableType | None:
    """A histogram; None where there is nothing."""
    if not bins:
        return None
    most, whole = max(b["assets"] for b in bins), sum(b["assets"] for b in bins)
    table = Table.grid(padding=(0, 1, 0, 0))
    for justify in ("right", "left", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    for b in bins:
        label = f"{b['to']:,}" if b["from"] == b["to"] else f"{b['from']:,}–{b['to']:,}"
        bar = "▇" * max(b["assets"] > 0, round(BAR * b["assets"] / most))
        table.add_row(label, Text(bar, "cyan"), f"{b['assets']:,}", f"{100 * b['assets'] / whole:.0f} %")
    return Group(Text(title, "bold"), table)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What the time rests on, what is done, and what to do next."""
    told, done, measured = found["time"], found["done"], found["measured"]
    yield (
        f"Assumed: {told['new_tokens']:.3g} tokens a caption ({told['new_tokens_from']}), {told['slots']} captions "
        f"side by side, {told['compute_share']:.0%} of the GPU's peak rate, {told['bandwidth_share']:.0%} of its "
        "bandwidth, and that it never waits: `captionmill simulate` says what that takes."
    )
    if measured:
        yield _against(measured)
    if found["run_id"] is None:
        yield "Whether a part of it is done is known once the weights are on this machine."
    elif not found["left"]["units"]:
        yield "Nothing to do: this job is published, or all of its units are there."
    elif found["stands"]:
        yield _standing(found["stands"], found["left"])
    elif done["units"]:
        units = f"{done['units']:,} of {found['units']:,} units"
        yield f"Done: {units}, {done['assets']:,} assets; a run goes on from there."
    else:
        yield "Nothing of it is done yet."


def _standing(stands: Mapping[str, Any], left: Mapping[str, int]) -> str:
    """What of the published table stays, and why the rest does not."""
    anew = sorted({name for kind in stands["prompts"].values() for name in kind["anew"]})
    ended = sorted({name for kind in stands["prompts"].values() for name in kind["ended"]})
    parts = [f"{stands['assets']:,} assets are as they were; {left['assets']:,} are captioned"]
    parts += [f"asked anew: {', '.join(anew)}"] if anew else []
    parts += [f"not asked any more: {', '.join(ended)}"] if ended else []
    parts += [f"{reason}: {n:,} assets" for reason, n in stands["dropped"].items()]
    return f"After what is published: {'; '.join(parts)}."


def _against(measured: Mapping[str, Any]) -> str:
    values = [measured[f"rank_correlation_{name}"] for name in ("busy_s", "caption_s")]
    said = ["unknown" if value is None else f"{value:.3f}" for value in values]
    return (
        f"Measured: predicted against actual time of its {measured['units']:,} units, rank correlation {said[0]} with "
        f"the seconds that the model computed, {said[1]} with those in the captioner."
    )
