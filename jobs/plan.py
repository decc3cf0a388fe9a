"""`captionmill plan`: what a run of a job would do, from the index alone; the index is made where it is missing.

Nothing else is written, and Ray is not started where the index is there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

import click
import numpy as np
from rich.console import Console
from tokenizers import Tokenizer

from actors import checkpoint
from jobs import indexing, plan_page
from jobs.preflight import Looked, Ready, look, ready
from jobs.start import check_dataset
from pipeline import before, fit, forecast, parquet, planner, publish, storage, unit_records
from pipeline.commit import Parts, committed
from pipeline.config import Loaded, PromptConfig
from pipeline.forecast import Floats, Pace, Survey
from pipeline.planner import Composed
from pipeline.pricing import Priced, Pricer, priced
from pipeline.roofline import GPUS, Roofline
from pipeline.types import Media, Unit


@dataclass(frozen=True, slots=True)
class Asked:
    """What the time is asked for: `replicas` (of the job where it is None) on such GPUs, what an hour of a GPU costs,
    and output tokens of a caption (of the published table, else half of `max_new_tokens`, where it is None)."""

    gpu: str
    price: float | None
    replicas: int | None
    new_tokens: float | None


def show(loaded: Loaded, asked: Asked, console: Console, *, as_json: bool) -> None:
    """Print the plan to standard output. ConfigError, StorageError and RunError as a run raises them."""
    found = plan(loaded, asked, console)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        plan_page.tell(found, Console(highlight=False))


def plan(loaded: Loaded, asked: Asked, console: Console) -> dict[str, Any]:
    """The plan as it is printed for programs. The index is there afterwards.

    Counts are of the whole input, as a first run has them; `left` is what a run would do now, after what is published,
    and `done` the difference.
    """
    looked = look(loaded, lambda section: storage.check_readable(_parent(section.uri)))
    job = looked.job
    check_dataset(looked)
    _index(looked, console)
    runnable = ready(looked) if checkpoint.here(job.model) else None
    found = _priced(looked)
    whole = Survey(planner.compose(found, job.prompts, job.unit, duplicates=job.input.duplicates))
    composed = _composed(looked, runnable, found)
    asks = forecast.asks(job.prompts, looked.geometry)
    pace, assumed = _pace(looked, asks, asked)
    due = forecast.due(composed.units, _have(runnable, composed.units))
    all_of_it = forecast.total(whole.units)
    left = forecast.total([unit for unit, wanted in zip(composed.units, due, strict=True) if wanted])
    all_s, left_s = pace.seconds(whole), pace.seconds(Survey(composed))[due]
    return {
        "dataset": job.input.dataset,
        "output": job.output.uri,
        "run_id": runnable.run_id if runnable else None,
        "recipe_id": runnable.recipe.recipe_id if runnable else None,
        "shards": len(looked.shards),
        **forecast.facts(whole, asks),
        "prompt_tokens": _prompt_tokens(whole, asks, pace),
        "stands": _stands(composed),
        "largest_unit": _largest(whole.units),
        "done": {name: max(0, n - left[name]) for name, n in all_of_it.items()},
        "left": left,
        "time": _time(looked, asked, (float(all_s.sum()), float(left_s.sum()))) | assumed,
        "measured": _measured(looked, whole, all_s),
    }


def _parent(uri: str) -> str:
    """What must be there for an output that may not be: its bucket; of a local one, the root."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else "/"


def _index(looked: Looked, console: Console) -> None:
    """Make the indexes that are missing, which takes Ray."""
    if missing := indexing.missing(looked.job, looked.shards):
        actor = indexing.indexer(
            looked.job
        )  # first: it imports Ray Data, which a session then tells to be quiet
        from jobs.session import session

        with session(console):
            indexing.make(missing, actor, console)


def _priced(looked: Looked) -> list[Priced]:
    indexes = indexing.addresses(looked.job, looked.shards)
    return priced(looked.shards, indexes, Pricer(looked.geometry, looked.job.video))


def _composed(looked: Looked, runnable: Ready | None, found: Sequence[Priced]) -> Composed:
    """What is to do: of all that is in the input where the weights, and so what stands, are not known yet."""
    job, after = looked.job, None
    if looked.published and runnable:
        after = (before.load(job.output.uri, looked.published), runnable.recipe, None)
    return planner.compose(found, job.prompts, job.unit, duplicates=job.input.duplicates, after=after)


def _stands(composed: Composed) -> dict[str, Any] | None:
    """What of the published table stays, and what is asked anew, by kind; None where nothing is published."""
    if composed.before is None or composed.rule is None:
        return None
    stands, rule = composed.todo.stands, composed.rule
    reasons = Counter(reason for t in composed.todo.dropped for reason in t["reason"].to_pylist())
    kinds = {
        kind: {"stay": rule.stays[kind], "anew": rule.asked[kind], "ended": rule.ended[kind]}
        for kind in Media
    }
    return {"assets": sum(int(rows.sum()) for rows in stands), "dropped": dict(reasons), "prompts": kinds}


def _have(runnable: Ready | None, units: Sequence[Unit]) -> Collection[str]:
    """The units that need no more work. None do where the weights, and so the run, are not known yet."""
    if runnable is None:
        return ()
    output, named = runnable.job.output.uri, [unit.unit_id for unit in units]
    if Parts(output, runnable.run_id).published():
        return named
    return committed(output, runnable.run_id, named)


def _pace(looked: Looked, asks: Mapping[Media, int], asked: Asked) -> tuple[Pace, dict[str, Any]]:
    """How captions are made, and what was assumed for it. ConfigError where the model does not fit such a GPU."""
    job, share = looked.job, looked.job.cluster.gpus_per_replica or 1.0
    gpu = GPUS[asked.gpu].times(share)
    roofline = Roofline(looked.footprint, job.model.dtype, job.model.quantization, gpu)
    tokens = fit.batch_tokens(looked.footprint, job.model, job.generation, int(gpu.memory))
    slots = max(1, min(job.generation.batch_size, tokens // fit.longest(looked.footprint)))
    new_tokens, source = _new_tokens(looked, asked)
    tokenizer = Tokenizer.from_file(str(checkpoint.settings(job.model) / "tokenizer.json"))
    asked_of = {media: [p for p in job.prompts if n and p.asked(media)] for media, n in asks.items()}
    texts = {m: {p.id: _text_tokens(tokenizer, p, m) for p in own} for m, own in asked_of.items()}
    assumed = {"new_tokens": new_tokens, "new_tokens_from": source, "slots": slots}
    assumed |= {"compute_share": gpu.compute, "bandwidth_share": gpu.stream}
    return Pace(roofline, texts, new_tokens, slots), assumed


def _new_tokens(looked: Looked, asked: Asked) -> tuple[float, str]:
    """Output tokens of a caption, and where the number is from."""
    if asked.new_tokens is not None:
        return asked.new_tokens, "--new-tokens"
    published = publish.snapshot(looked.job.output.uri)
    if published and published["captions"]["rows"]:
        return published["output_tokens"] / published["captions"]["rows"], "the published captions' mean"
    return looked.job.generation.max_new_tokens / 2, "half of [generation] max_new_tokens"


def _text_tokens(tokenizer: Tokenizer, prompt: PromptConfig, media: Media) -> int:
    """Tokens of the prompt's own words; the chat template adds a few, and fields are counted by their names."""
    said = "\n".join(turn.text for turn in prompt.asked(media))
    return len(tokenizer.encode(said, add_special_tokens=False).ids)


def _prompt_tokens(surveyed: Survey, asks: Mapping[Media, int], pace: Pace) -> dict[str, int]:
    """Of all prompts together: visual ones, which are exact, and about how many of text. None are padding."""
    visual = int((surveyed.due(asks) * surveyed.costs[:, 0]).sum())
    text = sum(n * sum(pace.texts[Media(media)].values()) for media, n in surveyed.by_kind().items())
    return {"visual": visual, "text_about": text, "padding": 0}


def _largest(units: Sequence[Unit]) -> dict[str, Any] | None:
    """The unit of the most visual tokens."""
    most = max(units, key=lambda unit: unit.cost.visual_tokens, default=None)
    return None if most is None else {"unit_id": most.unit_id, "assets": most.count, **asdict(most.cost)}


def _time(looked: Looked, asked: Asked, seconds: tuple[float, float]) -> dict[str, Any]:
    """Hours and money, given a replica's seconds for all units and for those that are left."""
    cluster = looked.job.cluster
    gpus, replicas = cluster.gpus_per_replica or 1.0, asked.replicas or cluster.replicas
    hours = [s / 3600 for s in seconds]
    cost = [None if asked.price is None else h * gpus * asked.price for h in hours]
    return {
        "gpu": asked.gpu,
        "gpus_per_replica": gpus,
        "replicas": replicas,
        "gpu_hour_price": asked.price,
        "gpu_hours": hours[0] * gpus,
        "hours": hours[0] / replicas,
        "money": cost[0],
        "gpu_hours_left": hours[1] * gpus,
        "hours_left": hours[1] / replicas,
        "money_left": cost[1],
    }


def _measured(looked: Looked, whole: Survey, seconds: Floats) -> dict[str, Any] | None:
    """The predicted time of each unit against what it took, where a first run is published: see `rank_correlation`."""
    job, published = looked.job, looked.published
    if published is None or published["previous_run_id"] is not None:
        return None
    try:
        data = storage.read(unit_records.uri(job.output.uri, published["run_id"]))
    except storage.MissingError:
        return None
    took = {row["unit_id"]: row for row in parquet.read(data).to_pylist()}
    predicted = zip(whole.units, seconds.tolist(), strict=True)
    both = [(took[unit.unit_id], seconds) for unit, seconds in predicted if unit.unit_id in took]
    told: dict[str, Any] = {"units": len(both)}
    for name in ("caption_s", "busy_s"):
        value = forecast.rank_correlation(
            np.array([seconds for _, seconds in both]), np.array([row[name] for row, _ in both])
        )
        told[f"rank_correlation_{name}"] = None if isnan(value) else value
    return told
