"""From a parsed job file to its run. What can be wrong is said before ray and torch, seconds to import, are loaded."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs import inside
from jobs.events import Events
from jobs.preflight import Looked, Ready, check
from pipeline import publish, storage
from pipeline.config import Job, Loaded
from pipeline.errors import ConfigError, OvertakenError, RunError, UnfinishedError
from pipeline.provenance import RETRIABLE
from pipeline.publish import File
from pipeline.quality import caption_text
from pipeline.types import Code
from pipeline.units import Share

if TYPE_CHECKING:  # importing it takes seconds, and a job with mistakes is told them at once
    from jobs.run import Actors


class Loudness(Enum):
    """What a run says beside problems and its last summary: nothing, how far it is, or a line for each unit too."""

    QUIET = 0
    USUAL = 1
    VERBOSE = 2


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a run beside its job.

    `again` are codes of failures that are tried once more, none for all of them; None leaves failures as they are. With
    a `share` only that of the run is done. `events` is told what programs may want to know. Other actors than the real
    ones are of `made_of`.
    """

    loudness: Loudness = Loudness.USUAL
    again: Sequence[str] | None = None
    share: Share | None = None
    events: Events = field(default_factory=Events)
    made_of: Callable[[Ready], Actors] | None = None


def start(loaded: Loaded, console: Console, options: Options = Options()) -> dict[str, Any] | None:
    """Check the job, bring its output to the snapshot that it describes, print the summary, return the snapshot.

    None where this driver's share is done and others have units left. Where another run publishes meanwhile, what that
    leaves to do is planned anew.
    Raises ConfigError before anything is started, and RunError where the failure budget is spent.
    """
    begun = time.monotonic()
    loaded = replace(loaded, problems=(*loaded.problems, *inside.problems(loaded)))
    codes = None if options.again is None else tuple(sorted(options.again))
    while True:
        ready = replace(check(loaded), again=codes, share=options.share)
        check_dataset(ready)
        try:
            snapshot, found = _brought(ready, console, options)
            break
        except OvertakenError:
            console.print("Another run has published its table meanwhile; planning anew what is left to do.")
    if snapshot is None:
        return None
    seconds = time.monotonic() - begun
    options.events.published(snapshot, seconds)
    for line in (*summary(snapshot, ready.job.output.uri, seconds), *found):
        console.print(line, markup=False)
    _check_budget(snapshot, ready.job)
    return snapshot


def _brought(ready: Ready, console: Console, options: Options) -> tuple[dict[str, Any] | None, Iterator[str]]:
    """The snapshot that the job describes, and what is odd about it."""
    output, published = ready.job.output.uri, ready.published
    if ready.again is None and published and published["job_id"] == ready.job_id:
        console.print("Nothing to do: this job is published; neither its input nor its recipe has changed.")
        return publish.swap(output, published["run_id"]), iter(())
    try:
        snapshot = _run(ready, console, options)
    except UnfinishedError:
        if ready.share is None:
            raise
        console.print("This share is done, others are not yet. The one that ends last publishes.")
        console.print(f"how far   captionmill status {shlex.quote(output)}", markup=False)
        return None, iter(())
    return snapshot, alike(snapshot, output)


def _run(ready: Ready, console: Console, options: Options) -> dict[str, Any]:
    from jobs.run import actors, run
    from jobs.session import session

    quiet, each = options.loudness is Loudness.QUIET, options.loudness is Loudness.VERBOSE
    with session(console, quiet=quiet):
        shown = Console(stderr=True, quiet=True) if quiet else console
        return run(ready, (options.made_of or actors)(ready), shown, options.events, each=each)


def check_dataset(ready: Looked) -> None:
    """ConfigError where the output holds another dataset's captions."""
    job, published = ready.job, ready.published
    if published and "job_id" not in published:
        raise ConfigError(
            [
                f"[output] uri: what {job.output.uri} holds is of an unfinished version of captionmill; "
                "give another output"
            ]
        )
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


def alike(snapshot: Mapping[str, Any], output: str) -> Iterator[str]:
    """A line for each caption that stands on so many assets that something must be wrong."""
    from pipeline.identical import glance  # reads Parquet, which only a run that ended has

    shared = glance(output, [File(**file) for file in snapshot["captions"]["files"]])
    for found in shared.suspicious():
        share, said = found.rows / shared.rows_of[found.prompt_id], caption_text(found.caption)[:80]
        yield f"caution   {share:.1%} of the captions under {caption_text(found.prompt_id)} say: {said or '(nothing)'}"


def summary(snapshot: Mapping[str, Any], output: str, seconds: float) -> Iterator[str]:
    """The last lines of a run, ten at most."""
    captions, failures, removed = snapshot["captions"], snapshot["failures"], snapshot["removed"]
    yield f"{captions['rows']:,} captions of {snapshot['assets']:,} assets, {snapshot['output_tokens']:,} tokens"
    codes = ", ".join(f"{code} {n:,}" for code, n in snapshot["failures_by_code"].items())
    yield f"{failures['rows']:,} failures" + (f": {codes}" if codes else "")
    if snapshot["previous_run_id"]:
        rows = captions["rows"] + failures["rows"]
        yield f"{snapshot['new_rows']:,} rows are new or changed, {rows - snapshot['new_rows']:,} stand as they were"
    if snapshot["copies"]:
        yield f"{snapshot['copies']:,} assets have the caption of another with the same bytes"
    if removed["rows"]:
        yield f"{removed['rows']:,} rows are gone: {storage.join(output, removed['path'])}"
    yield f"run {snapshot['run_id']}, recipe {', '.join(snapshot['recipe_ids'])}, {seconds:.1f} s"
    yield f"captions  {storage.join(output, 'captions', snapshot['run_id'])}"
    if failures["rows"]:
        yield f"failures  {storage.join(output, 'failures', snapshot['run_id'])}"
    yield f"snapshot  {storage.join(output, 'snapshot.json')}"
    yield from _next(snapshot, shlex.quote(output))


def _next(snapshot: Mapping[str, Any], output: str) -> Iterator[str]:
    """Commands that may come next."""
    yield f"check it  captionmill verify {output}"
    yield f"look      captionmill report {output} --job JOB.toml"
    if any(Code(code) in RETRIABLE for code in snapshot["failures_by_code"]):
        yield "again     captionmill run JOB.toml --retry-failed"
