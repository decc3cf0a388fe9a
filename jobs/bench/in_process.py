"""The steps of a run, one row after the other in this process: what a run is without Ray Data."""

from __future__ import annotations

from typing import Any

from actors.sandbox import Sandbox
from jobs import indexing
from jobs.preflight import Ready
from jobs.run import Actors, committer, compactor, compose, footer, write_plan
from pipeline import flow, messages, publish


def run(ready: Ready, made_of: Actors) -> dict[str, Any]:
    """As `jobs.run.run`, into an output that has nothing yet. The decoders' processes have ended afterwards."""
    with Sandbox(ready.job.image, ready.job.video) as sandbox:
        index = _made(made_of.indexer, probe_factory=lambda: sandbox.probes)
        for shard in ready.shards:
            index(messages.shard_to_table(shard))
    plan = write_plan(ready, compose(ready, indexing.addresses(ready.job, ready.shards)))
    with _made(made_of.preprocessor) as prepare:
        caption, commit = _made(made_of.captioner), _made(committer(ready, plan))
        for unit in plan.units:
            commit(caption(prepare(messages.unit_to_table(unit, plan.index_of(unit)))))
    rows, actor = compactor(ready, plan)
    compact = _made(actor)
    done = [publish.done(row) for part in rows for row in compact(part).to_pylist()]
    return publish.publish(ready.job.output.uri, plan, done, footer(ready, plan))


def _made(actor: flow.Actor, **others: Any) -> Any:
    return actor.cls(**{**actor.kwargs, **others})
