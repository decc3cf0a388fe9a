"""From a parsed job file to its run. What can be wrong is said before ray and torch, seconds to import, are loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from jobs.preflight import Ready, check
from pipeline import publish, storage
from pipeline.commit import manifest_uri
from pipeline.config import Job, Loaded
from pipeline.errors import ConfigError, RunError


def start(loaded: Loaded, console: Console) -> dict[str, Any]:
    """Check the job, bring its output to the snapshot that it describes, print the summary, return the snapshot.

    Raises ConfigError before anything is started, and RunError where the failure budget is spent.
    """
    begun = time.monotonic()
    ready = check(loaded)
    output = ready.job.output.uri
    _check_dataset(ready.job)
    if storage.exists(manifest_uri(output, ready.run_id)):
        console.print("Nothing to do: this job is published; neither its input nor its recipe has changed.")
        snapshot = publish.swap(output, ready.run_id)
    else:
        snapshot = _run(ready, console)
    for line in summary(snapshot, output, time.monotonic() - begun):
        console.print(line, markup=False)
    _check_budget(snapshot, ready.job)
    return snapshot


def _run(ready: Ready, console: Console) -> dict[str, Any]:
    from jobs.run import actors, run
    from jobs.session import session

    with session(console):
        return run(ready, actors(ready), console)


def _check_dataset(job: Job) -> None:
    published = publish.snapshot(job.output.uri)
    if published and published["dataset"] != job.input.dataset:
        raise ConfigError(
            [
                f"[output] uri: {job.output.uri} holds the captions of dataset {published['dataset']!r}, "
                f"this job is for {job.input.dataset!r}; give each dataset an output of its own"
            ]
        )


def _check_budget(snapshot: Mapping[str, Any], job: Job) -> None:
    failed, assets = snapshot["failures"]["rows"], max(1, snapshot["assets"])
    if failed / assets > job.output.max_failure_rate:
        raise RunError(
            f"{failed:,} failures for {assets:,} assets, and [output] max_failure_rate allows "
            f"{job.output.max_failure_rate:g}; the captions that were made are published"
        )


def summary(snapshot: Mapping[str, Any], output: str, seconds: float) -> Iterator[str]:
    """The last lines of a run, ten at most."""
    captions, failures, removed = snapshot["captions"], snapshot["failures"], snapshot["removed"]
    yield f"{captions['rows']:,} captions of {snapshot['assets']:,} assets, {snapshot['output_tokens']:,} tokens"
    codes = ", ".join(f"{code} {n:,}" for code, n in snapshot["failures_by_code"].items())
    yield f"{failures['rows']:,} failures" + (f": {codes}" if codes else "")
    if removed["rows"]:
        yield f"{removed['rows']:,} assets left the input: {storage.join(output, removed['path'])}"
    yield f"run {snapshot['run_id']}, recipe {', '.join(snapshot['recipe_ids'])}, {seconds:.1f} s"
    yield f"captions  {storage.join(output, 'captions', snapshot['run_id'])}"
    if failures["rows"]:
        yield f"failures  {storage.join(output, 'failures', snapshot['run_id'])}"
    yield f"snapshot  {storage.join(output, 'snapshot.json')}"
