"""The cluster that a run is on: whether it can start there, and what it waits for when nodes go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray

from jobs import inside
from pipeline import flow, placement
from pipeline.config import ClusterConfig, Job
from pipeline.errors import ConfigError, RunError
from pipeline.placement import Claim, Node

if TYPE_CHECKING:
    from rich.console import Console

EVERY_S = 3.0  # between two looks at the nodes: one answer of the head, 0.1 MB for 100 of them


def nodes() -> list[Node]:
    """Those that live now. The cores that a Ray job's driver was given are not for its actors."""
    own, held = ray.get_runtime_context().get_node_id(), inside.held_cpus()
    return [node(said, held if said["NodeID"] == own else 0.0) for said in ray.nodes() if said["Alive"]]


def node(said: Mapping[str, Any], held: float = 0.0) -> Node:
    """What Ray says of a node, but for cores that are held there."""
    has = said["Resources"]
    memory, store = has.get("memory", 0.0), has.get("object_store_memory", 0.0)
    return Node(has.get("CPU", 0.0) - held, has.get("GPU", 0.0), memory, store, said["Labels"] or {})


def pools(job: Job, unit_bytes: int = 0) -> flow.Pools:
    """For the cluster as it is."""
    return flow.pools(nodes(), job.cluster, unit_bytes)


def check(wanted: ClusterConfig, console: Console) -> None:
    """Say how many replicas there is room for. ConfigError where there is none, and nobody will bring any."""
    there = nodes()
    replica = flow.pools(there, wanted).replica
    room = sum(replica.fits(node) for node in there)
    if not room and not _may_grow(wanted):
        raise ConfigError([_nowhere(replica, there)])
    if room < wanted.replicas:
        said = f"There is room for {room} of {wanted.replicas} replicas now; others start when nodes join"
        console.print(said, markup=False)
    free = ray.available_resources().get("GPU", 0.0)
    if room and free < min(1.0, wanted.gpus_per_replica):
        console.print("All GPUs are in use by others now; replicas start when they let go", markup=False)


def check_units(size: flow.Pools, unit_bytes: int) -> None:
    """ConfigError where no node has the memory, or no object store the room, for units of so many bytes of pixels."""
    if problems := [*placement.too_large(nodes(), size.replica, size.preprocessor, unit_bytes)]:
        raise ConfigError(problems)


@contextmanager
def patient(job: Job, console: Console, *, replicas: bool) -> Iterator[None]:
    """While a dataset is at work inside, say where no node can hold a reader (or a replica) any more.

    RunError where none has joined within `wait_s`.
    """
    size = pools(job)
    claims = {"reader": size.preprocessor} | ({"replica": size.replica} if replicas else {})
    with flow.watched(_Watch(claims, job.cluster.wait_s, console).look):
        yield


def _may_grow(wanted: ClusterConfig) -> bool:
    """Whether nodes may join: not where Ray was started for this run, on this machine."""
    return "RAY_ADDRESS" in os.environ and wanted.wait_s > 0


def _nowhere(replica: Claim, there: Sequence[Node]) -> str:
    most = max((node.gpus for node in there), default=0.0)
    has = f"of the cluster's {len(there)} nodes none has it (the most GPUs that one has: {most:g})"
    return (
        f"[cluster] a replica needs a node with {replica}, and {has}; lower gpus_per_replica (0: on CPU) or change "
        "replica_labels"
    )


class _Watch:
    """Looks at the nodes now and then, and knows since when there has been none for something."""

    def __init__(self, claims: Mapping[str, Claim], wait_s: float, console: Console) -> None:
        self._claims, self._wait_s, self._console = claims, wait_s, console
        self._looked = 0.0
        self._since: dict[str, float] = {}  # of what has no node: when this was seen first

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked < EVERY_S:
            return
        self._looked, there = now, nodes()
        for name, claim in self._claims.items():
            if any(claim.fits(node) for node in there):
                self._found(name)
            else:
                self._missed(name, claim, now)

    def _found(self, name: str) -> None:
        if self._since.pop(name, None) is not None:
            self._console.print(f"A node for a {name} has joined; the run goes on", markup=False)

    def _missed(self, name: str, claim: Claim, now: float) -> None:
        nobody = f"no node of the cluster can hold a {name} ({claim})"
        waited = now - self._since.setdefault(name, now)
        if waited >= self._wait_s:
            raise RunError(
                f"for {self._wait_s:g} s {nobody}\n"
                "What is committed is kept; start the same command again when there is one"
            )
        if not waited:
            said = f"Waiting: {nobody}; the run ends if none joins within {self._wait_s:g} s"
            self._console.print(said, markup=False)
