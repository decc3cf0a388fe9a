"""A run without Ray: the real steps in this process, three at a time, so that one takes a second or two.

`tests.faults.storage --ray` drives the same jobs through `jobs.run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

from actors.captioner import Captioner
from actors.indexer import Indexer
from actors.preprocessor import Preprocessor
from actors.sandbox import Sandbox
from jobs.preflight import Ready, check
from jobs.run import compose, write_plan
from pipeline import papers, publish, storage
from pipeline.commit import Committer, Parts, committed, manifest_uri
from pipeline.config import read
from pipeline.errors import RunError
from pipeline.index import read_index
from pipeline.plan import Plan
from pipeline.provenance import Context
from pipeline.recipe import recipe_uri
from pipeline.types import Shard, Unit
from tests.double import Double

AT_ONCE = 3
Hand = tuple[Sandbox, Preprocessor]


def _plan(ready: Ready, indexes: Sequence[str]) -> Plan:
    """The plan of an earlier start, else a new one."""
    output = ready.job.output.uri
    uri = papers.plan_uri(output, ready.run_id)
    if storage.exists(uri):
        return Plan.from_json(storage.read(uri), output, ready.run_id, ready.shards, indexes)
    return write_plan(ready, compose(ready, indexes))


class Inline:
    """Runs jobs that differ in nothing but their output; decoder processes are kept between them: use `with`."""

    def __init__(self) -> None:
        self._hands: SimpleQueue[Hand] = SimpleQueue()
        self._made = 0

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: object) -> None:
        while not self._hands.empty():
            for process in self._hands.get():
                process.close()

    def run(self, job_file: str) -> None:
        """Bring the output to the snapshot that the job describes. Raises what `jobs.run.run` raises."""
        ready = check(read(job_file))
        output = ready.job.output.uri
        if ready.published and ready.published["job_id"] == ready.job_id:
            publish.swap(output, ready.published["run_id"])
            return
        if storage.exists(manifest_uri(output, ready.run_id)):
            publish.swap(output, ready.run_id)
            return
        storage.put(recipe_uri(output, ready.recipe.recipe_id), ready.recipe.to_json().encode())
        with ThreadPoolExecutor(AT_ONCE) as pool:
            plan = _plan(ready, list(pool.map(lambda shard: self._index(ready, shard), ready.shards)))
            have = committed(output, plan.run_id, plan.unit_ids)
            todo = [unit for unit in plan.units if unit.unit_id not in have]
            list(pool.map(lambda unit: self._caption(ready, plan, unit), todo))
        if missing := publish.missing(output, plan):
            raise RunError(f"{len(missing)} units have no part; start the same command again")
        compactor = publish.Compactor(output, plan.run_id, plan.unit_ids, {}, plan.carried)
        done = [compactor.compact(p) for p in publish.partitions(plan.assets * len(ready.job.prompts))]
        publish.publish(output, plan, done, {})

    def _index(self, ready: Ready, shard: Shard) -> str:
        job = ready.job
        with self._hand(ready) as (sandbox, _):
            return Indexer(job.output.uri, job.input, lambda: sandbox.probes).index(shard)

    def _caption(self, ready: Ready, plan: Plan, unit: Unit) -> None:
        job = ready.job
        context = Context(
            job.input.dataset, plan.run_id, plan.recipe_id, ready.recipe.checkpoint, job.prompts
        )
        assets = read_index(plan.index_of(unit), unit.first, unit.count)
        commit = Committer(job.output.uri, context, {})
        if Parts(job.output.uri, plan.run_id).done(unit.unit_id):  # the listing lacked it
            commit.seen(unit)
            return
        with self._hand(ready) as (_, preprocessor):
            prepared = preprocessor.prepare(unit, assets)
        commit.commit(Captioner(Double, job.prompts, job.generation).caption(prepared))

    @contextmanager
    def _hand(self, ready: Ready) -> Iterator[Hand]:
        """Decoder processes that nobody else uses meanwhile."""
        if self._made < AT_ONCE:
            self._made += 1
            job = ready.job
            hand: Hand = (Sandbox(job.image, job.video), Preprocessor(job.image, job.video, ready.geometry))
        else:
            hand = self._hands.get()
        try:
            yield hand
        finally:
            self._hands.put(hand)
