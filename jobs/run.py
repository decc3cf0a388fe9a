"""One run: index, plan, caption, publish; each step goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import SystemRandom
from typing import Any

import pyarrow as pa
from ray.exceptions import RayError
from rich.console import Console

from actors.captioner import Captioner, Generator
from actors.committer import Committer
from actors.ledger import SharedLedger
from actors.preprocessor import Preprocessor
from jobs import cluster, indexing, interrupt
from jobs.events import Events
from jobs.metrics import RunMetrics
from jobs.preflight import Ready
from jobs.progress import Progress, Stage
from pipeline import before, fit, flow, messages, papers, planner, publish, storage
from pipeline.commit import Parts, Receipt, committed, manifest_uri, receipt
from pipeline.errors import RunError, UnfinishedError
from pipeline.placement import selector
from pipeline.plan import Plan
from pipeline.pricing import Pricer, priced
from pipeline.provenance import Context
from pipeline.recipe import recipe_uri
from pipeline.types import Shard
from pipeline.units import longest_first

LOOK_S = 10.0  # between looks at what others have published


@dataclass(frozen=True, slots=True)
class Actors:
    """The three kinds of actor that a run is made of; tests pass their own captioner."""

    indexer: flow.Actor
    preprocessor: flow.Actor
    captioner: flow.Actor


def actors(ready: Ready) -> Actors:
    """The real ones. Ray is connected: a replica on CPU has as many threads as cores are set aside for it."""
    job, parts = ready.job, Parts(ready.job.output.uri, ready.run_id)
    model = replace(job.model, threads=job.model.threads or max(1, int(cluster.pools(job).replica.cpus)))
    replica = partial(
        _load, model, ready.geometry, job.generation.max_new_tokens, job.cluster.gpus_per_replica
    )
    return Actors(
        indexing.indexer(job),
        flow.Actor(
            Preprocessor,
            {"image": job.image, "video": job.video, "geometry": ready.geometry, "parts": parts},
        ),
        flow.Actor(
            Captioner,
            {
                "replica": replica,
                "prompts": job.prompts,
                "settings": job.generation,
                "ledger": SharedLedger(),
                "parts": parts,
            },
        ),
    )


def _load(*settings: Any) -> Generator:
    """The replica, where the captioner lives. The driver does without torch, 5 s and 350 MB."""
    from actors.replica import load

    return load(*settings)


def run(
    ready: Ready, made_of: Actors, console: Console, events: Events | None = None, *, each: bool = False
) -> dict[str, Any]:
    """Bring the output to the snapshot that the job describes, and return the snapshot. Ray is connected.

    How far it is goes to the console, with `each` a line for every unit too; to `events`, for programs; and to Ray's
    metrics.
    Raises ConfigError, StorageError, IntegrityError, RunError: OvertakenError, or, where this driver's share is done
    and others have units left, UnfinishedError. Whatever is committed by then is kept.
    """
    job, decided = ready.job, ready.recipe
    cluster.check(job.cluster, console)
    console.print(f"A replica holds {fit.said(ready.footprint, job.model)}")
    storage.put(recipe_uri(job.output.uri, decided.recipe_id), decided.to_json().encode())
    found = _planned(ready, made_of, console)
    if found is None:
        assert ready.published is not None  # or there would be a plan
        console.print("Nothing to do: all that is in the input has its rows.")
        return dict(ready.published)
    plan, have = found
    console.print(_said(plan))
    own = replace(plan, units=tuple(ready.share.units(plan.units))) if ready.share else plan
    have.intersection_update(own.unit_ids)
    events = events or Events()
    events.planned(own, len(have))
    counted = RunMetrics(plan.run_id, len(own.units), len(have))
    with (
        Progress(own, have, console, each=each) as progress,
        cluster.patient(job, console, replicas=True),
    ):
        watchers = (progress.add_unit, events.add_unit, counted.add_unit)
        _caption(ready, own, have, made_of, watchers)
    interrupt.check()
    with cluster.patient(job, console, replicas=False):
        return _publish(ready, plan, console)


def footer(ready: Ready, plan: Plan) -> dict[str, str]:
    """What every file of the run says of it."""
    return {
        "captionmill.run_id": plan.run_id,
        "captionmill.recipe_id": plan.recipe_id,
        **{f"captionmill.software.{name}": v for name, v in ready.recipe.software.items()},
    }


def committer(ready: Ready, plan: Plan) -> flow.Actor:
    """The actor that writes the plan's parts."""
    job = ready.job
    context = Context(job.input.dataset, plan.run_id, plan.recipe_id, ready.recipe.checkpoint, job.prompts)
    return flow.Actor(
        Committer, {"output": job.output.uri, "context": context, "metadata": footer(ready, plan)}
    )


def compactor(ready: Ready, plan: Plan) -> tuple[list[pa.Table], flow.Actor]:
    """The actor that makes the published files of the plan's parts, and the rows to give to it."""
    job = ready.job
    settings = {
        "output": job.output.uri,
        "run_id": plan.run_id,
        "unit_ids": plan.unit_ids,
        "metadata": footer(ready, plan),
        "carried": plan.carried,
    }
    parts = publish.partitions(plan.assets * len(job.prompts))
    rows = [pa.table({"number": [p.number], "of": [p.of]}) for p in parts]
    return rows, flow.Actor(publish.Compactor, settings)


def _planned(ready: Ready, made_of: Actors, console: Console) -> tuple[Plan, set[str]] | None:
    """The plan, and its units that have a part. None where the published table is what the plan would make."""
    plan = _earlier(ready)
    ids = plan.unit_ids if plan else []
    have = committed(ready.job.output.uri, ready.run_id, ids).intersection(ids) if plan else set[str]()
    with cluster.patient(ready.job, console, replicas=False):
        _index(ready, _left(plan, have) if plan else ready.shards, made_of.indexer, console)
    if plan is None:
        composed = compose(ready, indexing.addresses(ready.job, ready.shards))
        if ready.published and not composed.changes:
            return None
        plan = write_plan(ready, composed)
    return plan, have


def _earlier(ready: Ready) -> Plan | None:
    """The plan that an earlier start made, if there was one: the run's id is a digest of all that decides it.

    That takes as long as there are units, and no index is looked at.
    """
    run_id = ready.run_id  # 10 us a shard
    uri = papers.plan_uri(ready.job.output.uri, run_id)
    if not storage.exists(uri):
        return None
    return Plan.from_json(
        storage.read(uri),
        ready.job.output.uri,
        run_id,
        ready.shards,
        indexing.addresses(ready.job, ready.shards),
    )


def _index(ready: Ready, shards: Sequence[Shard], indexer: flow.Actor, console: Console) -> None:
    """Make the indexes that are missing: those of this driver's share, then what others have not made meanwhile."""
    labels = selector(ready.job.cluster.reader_labels)
    if ready.share:
        indexing.make(indexing.missing(ready.job, ready.share.taken(shards)), indexer, console, labels)
    indexing.make(indexing.missing(ready.job, shards), indexer, console, labels)


def _left(plan: Plan, have: Collection[str]) -> list[Shard]:
    """The shards that have units without a part."""
    return list({u.shard.path: u.shard for u in plan.units if u.unit_id not in have}.values())


def compose(ready: Ready, indexes: Sequence[str]) -> planner.Composed:
    """What the job asks of its shards, whose indexes are there, after what is published."""
    job, published = ready.job, ready.published
    after = (before.load(job.output.uri, published), ready.recipe, ready.again) if published else None
    found = priced(ready.shards, indexes, Pricer(ready.geometry, job.video))
    return planner.compose(found, job.prompts, job.unit, duplicates=job.input.duplicates, after=after)


def write_plan(ready: Ready, composed: planner.Composed) -> Plan:
    """Make the plan of this run, and write it down."""
    job = ready.job
    names = planner.Names(job.output.uri, ready.run_id, ready.job_id, job.input.dataset)
    needs = fit.needs(ready.footprint, job.model, job.generation.max_new_tokens)
    plan = planner.plan(names, composed, ready.recipe, needs)
    planner.write(names, composed, plan)
    return plan


def _said(plan: Plan) -> str:
    """What the run has to do."""
    counts = planner.counts(plan)
    parts = [f"{counts['planned']:,} of {plan.assets:,} assets to caption"]
    parts += [f"{counts['stand']:,} stand as they are"] if counts["stand"] else []
    parts += [f"{counts['copies']:,} are copies of others"] if counts["copies"] else []
    return "; ".join(parts)


def _caption(
    ready: Ready,
    plan: Plan,
    have: set[str],
    made_of: Actors,
    watchers: Sequence[Callable[[Receipt], None]],
) -> None:
    """Caption the units that are not among those that `have` a part; tell the watchers of each."""
    job = ready.job
    todo = longest_first([u for u in plan.units if u.unit_id not in have], SystemRandom())
    if not todo:
        return
    rows = [messages.unit_to_table(u, plan.index_of(u)) for u in todo]
    largest = max(u.cost.pixel_bytes for u in todo)
    size = cluster.pools(job, largest)
    cluster.check_units(size, largest)
    looked = time.monotonic()
    done = flow.caption(rows, made_of.preprocessor, made_of.captioner, committer(ready, plan), size)
    for row in done.iter_rows():
        given = receipt(row)
        for tell in watchers:
            tell(given)
        interrupt.check()
        if time.monotonic() - looked >= LOOK_S:
            if publish.published(job.output.uri, plan):
                break  # what is left to do here is done
            looked = time.monotonic()


def _publish(ready: Ready, plan: Plan, console: Console) -> dict[str, Any]:
    """Publish, unless another driver has: what is published once does not change."""
    output = ready.job.output.uri
    manifest = manifest_uri(output, plan.run_id)
    try:
        if not storage.exists(manifest):
            done = _compact(ready, plan, console)
            return publish.publish(output, plan, done, footer(ready, plan))
    except (storage.MissingError, RayError, RunError):  # the parts are gone: another driver was first
        if not storage.exists(manifest):
            raise
    console.print("Another driver has published this run meanwhile.")
    return publish.follow(output, plan)


def _compact(ready: Ready, plan: Plan, console: Console) -> list[publish.Done]:
    """Write the published files, and describe them."""
    if missing := publish.missing(ready.job.output.uri, plan):
        raise UnfinishedError(
            f"{len(missing):,} of {len(plan.units):,} units have no part; start the same command again"
        )
    rows, actor = compactor(ready, plan)
    readers = selector(ready.job.cluster.reader_labels)
    done: list[publish.Done] = []
    with Stage("publish", len(rows), "file pair", console) as stage:
        for row in flow.publish(rows, actor, readers).iter_rows():
            done.append(publish.done(row))
            stage.add(1)
            interrupt.check()
    return done
