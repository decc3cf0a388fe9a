"""`captionmill verify`: the checks of `pipeline.verify`, and with a job file its input and its model once more."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs import interrupt
from jobs.preflight import Ready, check
from jobs.progress import EVERY_S
from pipeline import config, lookup, remake, storage, verify, verify_one
from pipeline import record as records
from pipeline.config import Loaded
from pipeline.errors import ConfigError, IntegrityError
from pipeline.findings import REMEDIES, Finding, Kind, Step
from pipeline.provenance import Context
from pipeline.quality import caption_text
from pipeline.record import Record
from pipeline.toml import toml

if TYPE_CHECKING:
    from actors.captioner import Generator

SAMPLE = 20
KEPT = 20  # findings of each kind that are told; the rest is counted
NOWHERE = "memory://captionmill-verify"  # the job's own output, which nothing is written to


def loaded_replica(ready: Ready) -> Generator:
    """The job's own checkpoint, in this process."""
    from actors.replica import load  # torch takes seconds, and most checks do not need it

    job = ready.job
    return load(job.model, ready.geometry, job.generation.max_new_tokens, job.cluster.gpus_per_replica)


@dataclass(frozen=True, slots=True)
class Again:
    """What is read and made again. `count` assets (None: all) are drawn with `seed`; `captions`: not bytes alone."""

    job: Loaded
    count: int | None
    seed: int
    captions: bool
    replica: Callable[[Ready], Generator] = loaded_replica


def elsewhere(job: str, given: Sequence[str] = ()) -> Loaded:
    """A job file whose output is nowhere: what is made again must not be written where the table lies."""
    return config.read(job, [*given, f"output.uri={toml(NOWHERE)}"])


@dataclass(slots=True)
class Report:
    """What was checked and found; of each kind the first `KEPT`."""

    run_id: str = ""
    assets: int = 0
    rows: int = 0
    again: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Count it, and keep it if it is among the first of its kind."""
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= KEPT:
            self.findings.append(finding)

    def to_json(self) -> str:
        """The report for programs."""
        told = asdict(self) | {"holds": not self.findings, "counts": dict(self.counts)}
        return json.dumps(told, indent=1)


def inspect(output: str, again: Again | None, console: Console) -> Report:
    """Check the published table of `output`. Raises ConfigError where the job is not the table's own."""
    report = Report()
    ready = check(again.job) if again else None
    try:
        record = _record(storage.absolute(output), report, console)
        if ready is not None:
            _same(ready, record)
        _all(verify.steps(record), report, console)
        if again and ready:
            _again(record, ready, again, report, console)
    except records.Unusable as error:
        report.add(error.finding)
    return report


def inspect_one(output: str, asset_id: str, again: Again | None, console: Console) -> Report:
    """Check the rows of one asset; with a job, its bytes and captions once more. Errors as `inspect`."""
    report = Report()
    ready = check(again.job) if again else None
    table = lookup.published(storage.absolute(output))
    captions, failures = lookup.rows_of_one(table, lookup.asset_id_of(table, asset_id))
    try:
        record = _record(table.output, report, console)
        report.assets, report.rows = 1, len(captions) + len(failures)
        if ready is not None:
            _same(ready, record)
        _take(Step("rows", verify_one.findings(record, captions, failures)), report)
        found = verify_one.place(record, [*captions, *failures])
        if again and ready and found:
            _places_again(record, [found[0]], ready, again, report, console)
    except records.Unusable as error:
        report.add(error.finding)
    return report


def _record(output: str, report: Report, console: Console) -> Record:
    record, findings = records.load(output)
    report.run_id, report.assets = record.run_id, record.assets
    report.rows = sum(f.rows for files in record.files.values() for f in files)
    console.print(f"Checking run {report.run_id}: {report.assets:,} assets, {report.rows:,} rows")
    _take(Step("documents", iter(findings)), report)
    return record


def _again(record: Record, ready: Ready, again: Again, report: Report, console: Console) -> None:
    if report.counts[Kind.RECORD]:
        console.print("Nothing is read again: what the output says of itself must be right first")
        return
    _places_again(record, remake.sample(record, again.count, again.seed), ready, again, report, console)


def _places_again(
    record: Record, places: Sequence[int], ready: Ready, again: Again, report: Report, console: Console
) -> None:
    report.again = len(places)
    with ExitStack() as stack:
        _all(remake.steps(record, places, _source(record.run_id, ready, again, stack)), report, console)


def _source(run_id: str, ready: Ready, again: Again, stack: ExitStack) -> remake.Source:
    job, recipe = ready.job, ready.recipe
    context = Context(job.input.dataset, run_id, recipe.recipe_id, recipe.checkpoint, job.prompts)
    shards = {shard.path: shard for shard in ready.shards}
    if not again.captions:
        return remake.Source(shards, context, None)
    from actors.captioner import Captioner  # these take a second to import, and most checks need neither
    from actors.preprocessor import Preprocessor

    preprocessor = stack.enter_context(Preprocessor(job.image, job.video, ready.geometry))
    captioner = Captioner(partial(again.replica, ready), job.prompts, job.generation)
    return remake.Source(
        shards, context, lambda unit, assets: captioner.caption(preprocessor.prepare(unit, assets))
    )


def _all(steps: Iterator[Step], report: Report, console: Console) -> None:
    said = time.monotonic()
    for step in steps:
        interrupt.check()
        _take(step, report)
        if time.monotonic() - said >= EVERY_S:
            said = time.monotonic()
            console.print(f"  {caption_text(step.title)}: done", markup=False)


def _take(step: Step, report: Report) -> None:
    for finding in step.findings:
        report.add(finding)


def _same(ready: Ready, record: Record) -> None:
    """ConfigError, naming every difference, unless the job has the table's dataset and recipe."""
    problems = []
    if ready.job.input.dataset != record.dataset:
        problems.append(
            f"[input] dataset: the job has {ready.job.input.dataset!r}, the table {record.dataset!r}"
        )
    if ready.recipe.recipe_id != record.recipe_id:
        ours, theirs = dict(_leaves(json.loads(ready.recipe.to_json()))), dict(_leaves(record.recipe))
        names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        problems += [f"{n}: the job has {ours.get(n)!r}, the table {theirs.get(n)!r}" for n in names]
        problems.append(f"this job's recipe is {ready.recipe.recipe_id}, the table's {record.recipe_id}")
    if problems:
        raise ConfigError(problems)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a JSON document's objects."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def tell(report: Report, console: Console) -> None:
    """Say what was found. Raises IntegrityError where it is anything."""
    for kind, remedy in REMEDIES.items():
        kept = [finding for finding in report.findings if finding.kind is kind]
        for finding in kept:
            console.print(f"✗ {kind}: {caption_text(str(finding))}", markup=False)
        if (more := report.counts[kind] - len(kept)) > 0:
            console.print(f"  and {more:,} more of this kind")
        if kept:
            console.print(f"  {remedy}")
    if report.counts:
        raise IntegrityError(f"findings: {sum(report.counts.values()):,}; what to do is said below each kind")
    again = f"; {report.again:,} assets read again" if report.again else ""
    console.print(f"{report.assets:,} assets in {report.rows:,} rows: each once, and all as published{again}")
