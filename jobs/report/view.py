"""From what was gathered to what the template shows: figures, charts, tables, and what a reader should notice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.report.cards import value, words
from jobs.report.charts import Chart, chart, histogram
from jobs.report.gather import Failed, Gathered
from pipeline.failures import WORDS
from pipeline.quality import RULES
from pipeline.tally import LOGPROB, PIXELS, Tally
from pipeline.timeline import Timeline
from pipeline.types import Code

MUCH = 0.01  # share of failed assets, or of captions with a flag, that a reader is told of
EXAMPLES = 5
KINDS = {"image": "single images", "images": "several images", "video": "videos"}


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of one GPU costs, and how many the run held."""

    gpu_hour: float
    gpus: float = 1.0


def figures(g: Gathered) -> Iterator[tuple[str, str, str]]:
    """The first line: what, how many, and a word about it."""
    tally, failed = g.tally, g.failed
    assets = int(g.table.snapshot.get("assets", tally.assets))
    kinds = ", ".join(f"{n:,} {KINDS.get(k, words(k))}" for k, n in tally.media.most_common())
    yield "assets", f"{assets:,}", kinds
    yield "captions", f"{tally.captions:,}", f"under {_count(len(tally.prompts), 'prompt')}"
    share = f"{failed.assets / assets:.2%} of the assets" if assets else ""
    yield "failures", f"{failed.rows:,}", share if failed.rows else "none"
    yield "output tokens", f"{sum(tally.tokens_of.values()):,}", _mean(tally.tokens, "a caption")
    yield "flagged", _share(tally.flagged, tally.captions), f"{tally.flagged:,} captions"
    yield (
        "identical",
        f"{'' if g.shared.exact else '≥ '}{g.shared.share:.1%}",
        "say the same as another asset's",
    )
    if tally.copies:
        yield "copies", f"{tally.copies:,}", "captioned once for the same bytes"


def notices(g: Gathered) -> Iterator[str]:
    """What somebody should look at before the captions are used."""
    tally, failed = g.tally, g.failed
    assets = max(1, int(g.table.snapshot.get("assets", tally.assets)))
    if not tally.captions:
        yield "There is not a single caption in this table."
    if failed.assets > assets * MUCH:
        code, n = failed.codes.most_common(1)[0]
        yield f"{failed.assets / assets:.1%} of the assets failed, most often with {words(code)} ({_count(n, 'row')})."
    for flag, n in tally.flags.most_common():
        if n > tally.captions * MUCH:
            yield f"{n / tally.captions:.1%} of the captions are flagged {words(flag)}."
    for found in g.shared.suspicious()[:3]:
        share, said = (
            found.rows / tally.prompts[found.prompt_id],
            words(found.caption)[:80] or "nothing at all",
        )
        yield f"{share:.1%} of the captions under “{words(found.prompt_id)}” are the same: “{said}”"
    if len(tally.recipes) > 1:
        yield f"The captions are of {len(tally.recipes)} recipes; each row names its own."


def charts(g: Gathered) -> list[Chart]:
    """Distributions over all captions, and over all assets with one."""
    t = g.tally
    names = [f"under {_pixels(PIXELS[0])}", *(f"from {_pixels(p)}" for p in PIXELS)]
    sizes = [
        (names[i], float(t.sizes[i])) for i in range(min(t.sizes, default=0), max(t.sizes, default=-1) + 1)
    ]
    found = [
        histogram("Caption length", "characters", t.lengths),
        histogram("Output tokens", "tokens a caption, its end included", t.tokens),
        histogram("Mean log-probability", "of a caption's tokens; near 0 is sure", t.logprobs, LOGPROB),
        histogram("Crops", "an asset gives to the vision tower", t.crops),
        chart("Picture size", "pixels of an asset's first picture", sizes),
    ]
    return [c for c in found if c.bars]


def over_time(timeline: Timeline | None) -> list[Chart]:
    """Throughput and, where it was recorded, how busy the replicas were."""
    if timeline is None:
        return []
    moments = timeline.moments
    when = "%H:%M:%S" if timeline.seconds < 6 * 3600 else "%m-%d %H:%M"
    names = [f"{m.at:{when}}" for m in moments]
    how = "output tokens a second" if timeline.recorded else "output tokens a second, by the time of commits"
    found = [chart("Throughput", how, [*zip(names, (m.tokens_a_second for m in moments), strict=True)])]
    busy = [(n, m.busy) for n, m in zip(names, moments, strict=True) if m.busy is not None]
    idle = [(n, m.idle) for n, m in zip(names, moments, strict=True) if m.idle is not None]
    if busy:
        found.append(
            chart("Busy", "share of the captioner's time in which the model computed", busy, "{:.0%}")
        )
    if idle:
        found.append(chart("Idle slots", "share of decoding slots that held no caption", idle, "{:.0%}"))
    return found


def flags(tally: Tally) -> list[dict[str, Any]]:
    """Every flag, its rule, its captions and their share."""
    return [
        {"name": name, "rule": rule, "rows": tally.flags[name], "share": _share(tally.flags[name], tally.captions)}
        for name, rule in RULES.items()
    ]  # fmt: skip


def prompts(g: Gathered) -> list[dict[str, Any]]:
    """Every prompt: its words, captions, tokens and flags."""
    asked = {
        p.get("id"): p for r in g.recipes.values() for p in r.get("prompts", ()) if isinstance(p, Mapping)
    }
    return [
        {
            "id": words(name),
            "text": question(asked.get(name, {})),
            "rows": n,
            "tokens": f"{g.tally.tokens_of[name] / n:.1f}",
            "flagged": _share(g.tally.flagged_of[name], n),
        }
        for name, n in sorted(g.tally.prompts.items())
    ]


def question(prompt: Mapping[str, Any]) -> str:
    """A prompt's turns in words; of those for kinds of assets, the first that there are."""
    for kind in ("turns", "image", "images", "video"):
        turns = [turn for turn in prompt.get(kind) or () if isinstance(turn, Mapping)]
        if turns:
            alone = len(turns) == 1
            said = (
                str(turn.get("text", "")) if alone else f"{turn.get('role')}: {turn.get('text')}"
                for turn in turns
            )
            return words(" ".join(said))
    return ""


def identical(g: Gathered) -> list[dict[str, Any]]:
    """The captions on most rows."""
    return [
        {
            "prompt": words(found.prompt_id),
            "caption": words(found.caption)[:300],
            "rows": found.rows,
            "share": _share(found.rows, g.tally.prompts[found.prompt_id]),
            "example": words(found.example),
        }
        for found in g.shared.largest
    ]


def failures(failed: Failed) -> list[dict[str, Any]]:
    """Every code that occurred, the most frequent first."""
    return [
        {
            "code": words(code),
            "rows": rows,
            "share": _share(rows, failed.rows),
            "retriable": failed.retriable[code],
            "means": _words(code)[0],
            "remedy": _words(code)[1],
            "examples": [_example(row) for row in failed.examples[code][:EXAMPLES]],
        }
        for code, rows in failed.codes.most_common()
    ]


def _example(row: Mapping[str, Any]) -> dict[str, str]:
    where = f"{row['shard']} · {row['key'] or '(whole shard)'}"
    return {"id": words(row["asset_id"]), "where": words(where), "message": words(row["error_message"])}


def _words(code: str) -> tuple[str, str]:
    known = {member.value: member for member in Code}
    return WORDS[known[code]] if code in known else ("a code that this captionmill does not know", "")


def cost(g: Gathered, price: Price | None) -> list[tuple[str, str]]:
    """What is known of the run's time, and its price where one is given."""
    t = g.timeline
    if t is None:
        return []
    hours = t.seconds / 3600
    how = "first beginning to last end of a unit" if t.recorded else "first to last commit of a unit"
    told = [("time", f"{_duration(t.seconds)}, from the {how}")]
    if t.seconds:
        told.append(("output tokens a second", f"{t.tokens / t.seconds:,.1f}"))
    if t.busy_s is not None:
        told.append(("replicas computed", f"{_duration(t.busy_s)} in all"))
    if price is not None:
        money = hours * price.gpus * price.gpu_hour
        said = f"{money:,.2f} = {hours:,.3f} h × {price.gpus:g} × {price.gpu_hour:g} an hour"
        told.append(("cost", said))
        if g.tally.captions:
            told.append(("cost of 1,000 captions", f"{1000 * money / g.tally.captions:,.4f}"))
    return told


def recipe_lines(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A recipe's settings, name and value, without the prompts."""
    return [(words(name), words(said)) for name, said in _leaves({**recipe, "prompts": {}})]


def _leaves(told: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in told.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{name}{key}.")
        else:
            yield f"{name}{key}", value(inner)


def _mean(counts: Mapping[int, int], what: str) -> str:
    n = sum(counts.values())
    return f"{sum(k * v for k, v in counts.items()) / n:.1f} {what}" if n else ""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0%"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _pixels(n: int) -> str:
    return f"{n / 1e6:g} MP"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def options(cards: Sequence[Any]) -> dict[str, list[str]]:
    """What the gallery can be filtered by: the values that occur on its cards."""
    tags = sorted({tag for card in cards for tag in card.tags.split("\n")})
    groups = ("media", "flag", "code")
    return {g: [t.partition(":")[2] for t in tags if t.startswith(f"{g}:")] for g in groups} | {
        "copy": ["copies"] if "copy" in tags else []
    }
