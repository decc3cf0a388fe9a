"""The pipeline, each arrow one Ray Data expression.

    shards ──index──► asset index ──plan──► units ──caption──► unit parts ──publish──► published files

One row is one block is one task at every step (`batch_size=1`): Ray replays a task that died and skips the outputs
it has already seen, so a step must return exactly one block, made at its end. Rows are never dropped
(`max_errored_blocks=0`): what fails for one asset is a row of the failures table, what fails otherwise ends the run,
and the run goes on from the parts that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.config import ClusterConfig
from pipeline.placement import UNITS_HELD, Claim, Node, allows, reader_memory, selector

FEEDERS = 16  # preprocessors for one replica, at most: clips of a minute may need ten beside an H100
COMMITTED = 64  # replicas for one committer: a unit in half a minute each, and 0.05 s of its CPU for a unit
PUTS = 8  # units that a committer has under way
# For replicas on CPU, read by glibc when a process starts. Left to itself it takes tensors above 32 MB from the kernel
# anew each time, page by page: 29.0 s of captions became 24.2. Calls of mallopt come too late for threads' arenas.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
}

Labels = Mapping[str, str]  # of the nodes where a step may run, as `pipeline.placement.selector` makes them
NO_LABELS: Labels = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Actor:
    """A callable class that holds state on a worker, with the keywords it is made with."""

    cls: type
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pools:
    """How many actors of each kind, preprocessors at most, and what each claims of its node (see `pools`)."""

    replicas: int
    replica: Claim
    preprocessors: int
    preprocessor: Claim


def pools(nodes: Sequence[Node], wanted: ClusterConfig, unit_bytes: int = 0) -> Pools:
    """Sizes with which no pool can starve another, for units of at most so many bytes of pixels.

    Replicas on CPU take three quarters of the cores between them, whole cores where they get more than one: their
    threads wait for one another, and two that share a core with a decoder made the demo 7 times slower.
    Preprocessors take the rest, one core each or less. How many there may be does not depend on the nodes of now:
    Ray Data starts as many as there are cores for, and more when nodes join.
    """
    hosts, readers = selector(wanted.replica_labels), selector(wanted.reader_labels)
    at = [node.cpus for node in nodes if allows(hosts, node.labels)] or [1.0]
    share = 0.75 * min(sum(at) / wanted.replicas, max(at))  # of one node, whatever others have
    replica_cpus = 0.0 if wanted.gpus_per_replica else float(int(share)) if share >= 1 else share
    held = [wanted.replicas * replica_cpus] if hosts == readers else []
    free = max(0.0, sum(node.cpus for node in nodes if allows(readers, node.labels)) - sum(held))
    count = wanted.preprocessors or max(1, int(free))
    return Pools(
        wanted.replicas,
        Claim(replica_cpus, wanted.gpus_per_replica, labels=hosts),
        wanted.preprocessors or max(FEEDERS * wanted.replicas, 1 if wanted.gpus_per_replica else count),
        Claim(min(1.0, free / count) or 1.0, memory=reader_memory(unit_bytes), labels=readers),
    )


def replica_environment(gpus: float) -> dict[str, str]:
    """What a replica's process has in its environment besides."""
    return {} if gpus else KEEP_MEMORY


def index(shards: Sequence[pa.Table], indexer: Actor, labels: Labels = NO_LABELS) -> Dataset:
    """One row per shard in, {shard}; one row per shard out, {index_uri}, when its index object exists."""
    _context()
    return _rows(shards).map_batches(
        # CPU: stream the shard, probe headers in a child process, PUT the index
        indexer.cls,
        fn_constructor_kwargs=dict(indexer.kwargs),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        label_selector=dict(labels),
        compute=ActorPoolStrategy(min_size=1, max_size=max(1, int(_cpus()) - 1)),
    )


def caption(
    units: Sequence[pa.Table], preprocessor: Actor, captioner: Actor, committer: Actor, size: Pools
) -> Dataset:
    """One row per unit in, {unit, index_uri}, longest first; one receipt per unit out, when its part exists."""
    _context()
    return (
        _rows(units)
        .map_batches(
            # CPU: range-read, decode in a child process, cut crops → {unit, assets, views, answers, pixels}
            preprocessor.cls,
            fn_constructor_kwargs=dict(preprocessor.kwargs),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=size.preprocessor.cpus,
            memory=size.preprocessor.memory,
            label_selector=dict(size.preprocessor.labels),
            compute=ActorPoolStrategy(min_size=1, max_size=size.preprocessors),
        )
        .map_batches(
            # GPU: bucket, prefill, decode, scatter back → {unit, assets, views, answers}
            captioner.cls,
            fn_constructor_kwargs=dict(captioner.kwargs),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=size.replica.cpus,
            num_gpus=size.replica.gpus,
            label_selector=dict(size.replica.labels),
            runtime_env=_runtime_env(size),
            # Several units at once, so that the tails of some overlap the head of the next. All replicas are asked for
            # at once: those that find no node wait for one, and start when it joins.
            compute=ActorPoolStrategy(
                size=size.replicas,
                max_tasks_in_flight_per_actor=UNITS_HELD,
                max_concurrent_calls_per_actor=UNITS_HELD,
                enable_true_multi_threading=True,
            ),
        )
        .map_batches(
            # CPU: check, one PUT → receipt; milliseconds and a wait. They ask for no share of a core, or actors that
            # Ray starts again on what is left of a cluster could take the last one, and the run would stand for ever.
            # Actors, not tasks: between two units Ray ends the process of a task, and the next one's start takes 1.8 s
            # of CPU, 7 ms an asset. One, which waits for several PUTs at once, does for many replicas.
            committer.cls,
            fn_constructor_kwargs=dict(committer.kwargs),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=0,
            label_selector=dict(size.preprocessor.labels),
            compute=ActorPoolStrategy(
                size=1 + size.replicas // COMMITTED,
                max_tasks_in_flight_per_actor=2 * PUTS,
                max_concurrent_calls_per_actor=PUTS,
                enable_true_multi_threading=True,
            ),
        )
    )


def publish(partitions: Sequence[pa.Table], compactor: Actor, labels: Labels = NO_LABELS) -> Dataset:
    """One row per partition in, {number, of}; its files' description out, {done}, when they exist."""
    _context()
    return _rows(partitions).map_batches(
        # CPU: read parts, sort, PUT
        compactor.cls,
        fn_constructor_kwargs=dict(compactor.kwargs),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        label_selector=dict(labels),
        # One partition each at a time, or the first to start would hold one back that others are free for.
        compute=ActorPoolStrategy(
            size=max(1, min(len(partitions), int(_cpus()))), max_tasks_in_flight_per_actor=1
        ),
    )


@contextmanager
def watched(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` some ten times a second while a dataset of this process is at work; what it raises ends the work."""
    EachStep.look = look
    with called_back(EachStep):
        yield


@contextmanager
def called_back(kind: type[ExecutionCallback]) -> Iterator[None]:
    """Each dataset of this process that starts inside has such a callback."""
    context = DataContext.get_current()
    before = context.custom_execution_callback_classes
    context.custom_execution_callback_classes = [*before, kind]
    try:
        yield
    finally:
        context.custom_execution_callback_classes = before


class EachStep(ExecutionCallback):
    """What Ray Data calls in its loop. A class, and not a closure: it travels to workers, by its name."""

    look: ClassVar[Callable[[], None]]

    def on_execution_step(self, executor: object) -> None:
        """Each step, in the thread of the loop."""
        type(self).look()


def _rows(tables: Sequence[pa.Table]) -> Dataset:
    """A dataset of these tables, a block each.

    Not `from_arrow`: it starts a task for each table to ask how long it is. For 2,000 units these took 52 s, where this
    takes 12, and they wait for a core, which on a cluster that another driver fills may be for hours.
    """
    dataset: Dataset = ray.data.from_blocks(list(tables))
    return dataset


def _runtime_env(size: Pools) -> dict[str, dict[str, str]] | None:
    """Of replicas, for Ray."""
    own = replica_environment(size.replica.gpus)
    return {"env_vars": own} if own else None


def _cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 1.0))


def _context() -> None:
    """Settings of this process's Ray Data, read when a dataset is made."""
    context = DataContext.get_current()
    context.max_errored_blocks = 0
    context.raise_original_map_exception = True  # else the driver gets a text of Ray's in its place
    context.target_max_block_size = None  # a unit never splits into two blocks
    context.execution_no_progress_timeout_s = 3600  # longer than loading a model and the longest unit
    context.max_consecutive_actor_init_deaths = 3
    context.enable_progress_bars = False  # our own progress counts assets and tokens
    context.execution_options.preserve_order = False
