"""From what nodes saw to findings, each with its remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.doctor.probe import Seen
from pipeline import flow
from pipeline.config import Job
from pipeline.placement import UNITS_HELD, Node

SKEW_S = (
    10.0  # machines that keep time are within 0.1 s of one another; stores refuse what is signed 900 s off
)
FULL = 0.05  # of a disk; with less Ray spills no more (RAY_local_fs_capacity_threshold)
GB = 1e9
IMAGE = "start all nodes from one image"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that would harm a run. `node` is empty where it is of the whole cluster."""

    check: str
    node: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Told:
    """A node: what it has; what it saw, or in `silent` why that is not known; seconds its clock is ahead of ours."""

    name: str
    has: Node
    seen: Seen | None
    silent: str = ""
    ahead_s: float = 0.0


def findings(job: Job, here: Mapping[str, str], nodes: Sequence[Told], free_gpus: float) -> Iterator[Finding]:
    """All of them; `here` are the versions of the machine that asks."""
    for node in nodes:
        if node.seen is None:
            yield Finding(
                "answer",
                node.name,
                node.silent,
                "look at this node's Ray logs, and at its network; or remove it",
            )
            continue
        yield from _versions(node.name, here, node.seen.versions)
        yield from _storage(node.name, node.seen)
        yield from _model(node.name, node.seen)
        yield from _clock(node)
        yield from _room(job, node, node.seen)
    yield from _weights(nodes)
    yield from _gpus(job, nodes, free_gpus)


def _versions(name: str, here: Mapping[str, str], there: Mapping[str, str]) -> Iterator[Finding]:
    for package, ours in here.items():
        if (theirs := there.get(package, ours)) != ours:
            problem = f"{package} is {theirs}, and {ours} where the run starts"
            yield Finding("versions", name, problem, f"{IMAGE}: rows say one version for all of a run")


def _storage(name: str, seen: Seen) -> Iterator[Finding]:
    remedy = "give this node the others' role or credentials, AWS_ENDPOINT_URL and network, before its raylet starts"
    yield from (Finding("input", name, problem, remedy) for problem in seen.unread)
    yield from (Finding("output", name, problem, remedy) for problem in seen.unwritten)
    if seen.apart:
        problem = "what another node writes to the output is not seen here"
        yield Finding("output", name, problem, "give a bucket, or mount the same folder on every node")


def _model(name: str, seen: Seen) -> Iterator[Finding]:
    remedy = f"{IMAGE}, with the checkpoint at the same path (or a hub id), whole"
    yield from (Finding("checkpoint", name, problem, remedy) for problem in seen.unloadable)


def _clock(node: Told) -> Iterator[Finding]:
    if abs(node.ahead_s) > SKEW_S:
        way = "ahead of" if node.ahead_s > 0 else "behind"
        problem = f"its clock is {abs(node.ahead_s):.0f} s {way} the clock of the machine that asks"
        yield Finding("clock", node.name, problem, "keep time with NTP (chrony); stores refuse 15 minutes")


def _room(job: Job, node: Told, seen: Seen) -> Iterator[Finding]:
    if seen.disk_free < max(FULL * seen.disk, node.has.store):
        problem = (
            f"{seen.disk_free / GB:.1f} of {seen.disk / GB:.1f} GB of the disk that Ray spills to are free"
        )
        remedy = (
            f"free {max(FULL * seen.disk, node.has.store) / GB:.1f} GB, or start Ray with another --temp-dir"
        )
        yield Finding("disk", node.name, problem, remedy)
    if seen.devices is not None and seen.devices < node.has.gpus:
        problem = f"Ray counts {node.has.gpus:g} GPUs, torch sees {seen.devices}"
        yield Finding(
            "gpus", node.name, problem, "install torch's CUDA build and the driver, or mend --num-gpus"
        )
    need = UNITS_HELD * job.unit.max_pixel_bytes
    if _replicas(job, [node]) and node.has.store < need:
        problem = f"its object store has {node.has.store / GB:.2f} GB, and {UNITS_HELD} units may have {need / GB:.2f}"
        remedy = (
            f"start Ray with --object-store-memory={need}, or set [unit] max_pixel_bytes to at most "
            f"{int(node.has.store // UNITS_HELD)}"
        )
        yield Finding("object store", node.name, problem, remedy)


def _weights(nodes: Sequence[Told]) -> Iterator[Finding]:
    """Whoever has another checkpoint than most."""
    found = {node.name: node.seen.weights for node in nodes if node.seen and node.seen.weights}
    usual = Counter(found.values()).most_common(1)[0][0] if found else ""
    for name, weights in found.items():
        if weights != usual:
            problem = "its weights are others than those of most nodes: other files, sizes or tensors"
            yield Finding(
                "checkpoint", name, problem, "copy the checkpoint anew, or pin it as a hub id with a commit"
            )


def _gpus(job: Job, nodes: Sequence[Told], free: float) -> Iterator[Finding]:
    wanted, room = job.cluster, _replicas(job, nodes)
    if room < wanted.replicas:
        claim = flow.pools([node.has for node in nodes], wanted).replica
        problem = f"there is room for {room} of {wanted.replicas} replicas ({claim} each)"
        remedy = "add nodes, or lower [cluster] replicas or gpus_per_replica; a run starts with what there is"
        yield Finding("gpus", "", problem, remedy)
    there = sum(node.has.gpus for node in nodes)
    if free < min(there, wanted.replicas * wanted.gpus_per_replica):
        problem = f"{there - free:g} of {there:g} GPUs are held by others"
        yield Finding("gpus", "", problem, "wait for them, or end them (ray list actors names them)")


def _replicas(job: Job, nodes: Sequence[Told]) -> int:
    """How many of these nodes would hold."""
    claim = flow.pools([node.has for node in nodes], job.cluster).replica
    return sum(claim.fits(node.has) for node in nodes)
