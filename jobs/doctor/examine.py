"""Asking every node at once, from where a run would be started."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs import cluster
from jobs.doctor.judge import Finding, Told, findings
from jobs.doctor.probe import Asked, Probe, leaving_nothing, versions
from jobs.preflight import look, placed
from pipeline import flow, storage
from pipeline.config import Job, Loaded, OutputConfig
from pipeline.errors import CaptionmillError, ConfigError
from pipeline.placement import allows
from pipeline.types import Shard

READS = 8  # folders of the input, of each of which a node reads one byte
PINGS = 3


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what is wrong."""

    nodes: Sequence[Told]
    findings: Sequence[Finding]


def examine(loaded: Loaded, patience_s: float) -> Report:
    """Let every node that lives try what a run of this job would ask of it. Ray is connected.

    Nodes that have not answered after `patience_s` are findings. Nothing is left on the output.
    """
    job, wrong = loaded.job(), list[Finding]()
    try:
        looked = look(loaded, _write)
        job, shards = looked.job, looked.shards
    except ConfigError as error:
        wrong += [Finding("here", "", problem, "mend it where the run starts") for problem in error.problems]
        shards = ()
    with _marked(job.output.uri) as mark:
        told = _ask(job, _samples(job, shards), mark, patience_s)
    free = ray.available_resources().get("GPU", 0.0)
    return Report(told, [*wrong, *findings(job, versions(job.model), told, free)])


def _write(section: OutputConfig) -> None:
    with leaving_nothing(section.uri):
        storage.check_writable(section.uri)


def _samples(job: Job, shards: Sequence[Shard]) -> tuple[str, ...]:
    """A shard of each folder of the input, the first of `READS` folders."""
    folders: dict[str, str] = {}
    for shard in shards:
        folders.setdefault(shard.uri.rpartition("/")[0], shard.uri)
    return tuple(folders.values())[:READS]


@contextmanager
def _marked(output: str) -> Iterator[str]:
    """The address of an object that is there meanwhile; none where this machine cannot write."""
    mark = storage.join(output, f".captionmill-doctor-{secrets.token_hex(8)}")
    with leaving_nothing(output):
        try:
            _write(OutputConfig(output))
            storage.put(mark, b"captionmill")
        except CaptionmillError:
            yield ""
            return
        try:
            yield mark
        finally:
            storage.delete(mark)


def _ask(job: Job, reads: tuple[str, ...], mark: str, patience_s: float) -> list[Told]:
    """Every node at once."""
    there = [node for node in ray.nodes() if node["Alive"]]
    size = flow.pools(cluster.nodes(), job.cluster)
    remote: Any = ray.remote(Probe)
    actors, answers = [], []
    for node in there:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = remote.options(num_cpus=0, scheduling_strategy=where).remote()
        has = cluster.node(node)
        hosts, works = size.replica.fits(has) > 0, allows(size.preprocessor.labels, has.labels)
        asked = Asked(
            reads if hosts or works else (),
            job.output.uri if hosts or works else "",
            mark,
            placed(job.model) if hosts else None,
            job.cluster,
            hosts and job.cluster.gpus_per_replica > 0,
        )
        actors.append(actor)
        answers.append(actor.look.remote(asked))
    ready, _ = ray.wait(answers, num_returns=len(answers), timeout=patience_s)
    told = [
        _told(node, actor, answer, answer in ready, patience_s)
        for node, actor, answer in zip(there, actors, answers, strict=True)
    ]
    for actor in actors:
        ray.kill(actor)
    return told


def _told(node: Mapping[str, Any], actor: Any, answer: Any, ready: bool, patience_s: float) -> Told:
    name, has = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})", cluster.node(node)
    if not ready:
        return Told(name, has, None, f"it did not answer within {patience_s:g} s")
    try:
        return Told(name, has, ray.get(answer), ahead_s=_ahead(actor, patience_s))
    except RayError as error:
        return Told(name, has, None, f"captionmill does not run there: {_last_line(error)}")


def _ahead(actor: Any, patience_s: float) -> float:
    """Seconds that a node's clock is ahead of ours, by the fastest of a few questions."""
    asked = []
    for _ in range(PINGS):
        sent = time.time()
        clock = ray.get(actor.clock.remote(), timeout=patience_s)
        came = time.time()
        asked.append((came - sent, clock - (sent + came) / 2))
    return float(min(asked)[1])


def _last_line(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line and not line.startswith("File")), lines[-1])[:300]
