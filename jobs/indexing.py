"""The index step of a run and of a plan: which shards have none yet, and making it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from jobs import interrupt
from jobs.progress import Stage
from pipeline import messages, storage
from pipeline.config import Job
from pipeline.index import index_uri
from pipeline.types import Shard

if TYPE_CHECKING:  # importing it takes a second, and most plans find all indexes made
    from pipeline import flow


def addresses(job: Job, shards: Sequence[Shard]) -> list[str]:
    """The index address of each shard."""
    return [index_uri(job.output.uri, shard, job.input, _probe_id(job)) for shard in shards]


def missing(job: Job, shards: Sequence[Shard]) -> list[Shard]:
    """Those of the shards that have no index; one listing."""
    if not shards:
        return []
    there = {e.uri for e in storage.listing(storage.join(job.output.uri, "index"))}
    return [s for s, uri in zip(shards, addresses(job, shards), strict=True) if uri not in there]


def indexer(job: Job) -> flow.Actor:
    """The actor that makes the job's indexes."""
    from actors.indexer import Indexer
    from actors.sandbox import prober
    from pipeline import flow

    settings = {
        "output": job.output.uri,
        "config": job.input,
        "probe_factory": partial(prober, job.image, job.video),
        "probe_id": _probe_id(job),
    }
    return flow.Actor(Indexer, settings)


def make(
    shards: Sequence[Shard], actor: flow.Actor, console: Console, labels: Mapping[str, str] | None = None
) -> None:
    """Make the indexes of these shards on nodes with these labels, and show how far that is. Ray is connected."""
    from pipeline import flow

    if not shards:
        return
    with Stage("index", len(shards), "shard", console) as stage:
        for _ in flow.index([messages.shard_to_table(s) for s in shards], actor, labels or {}).iter_rows():
            stage.add(1)
            interrupt.check()


def _probe_id(job: Job) -> str:
    """What of the job decides which media the index calls readable."""
    return f"{job.image.max_pixels}-{job.video.max_pixels}"
