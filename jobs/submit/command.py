"""The options of `captionmill submit`; the work is in the modules beside this one."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from jobs.exit_codes import INTERRUPTED, exit_codes
from jobs.job_file import JOB, SHARE, changes, changing, retrying, text

if TYPE_CHECKING:
    from jobs.submit.client import Client
    from jobs.submit.packing import Packed
    from pipeline.units import Share

OURS = ("--stop", "--no-wait")  # said of this call, not of the run
STOPPED_S = 60.0  # twice what Ray gives a driver to end


class Table(click.ParamType[dict[str, Any]]):
    """A JSON object, as `ray job submit` takes it."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The object; a usage error where it is none."""
        try:
            found = json.loads(value)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else self.fail(f"{value!r} is no JSON object", param, ctx)


@click.command()
@click.argument("job", type=JOB)
@click.option(
    "--address",
    required=True,
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
    show_envvar=True,
    metavar="URL",
    help="The cluster's dashboard: http://HOST:8265.",
)
@changing
@retrying
@click.option("--shards", "share", type=SHARE, help="As of run.")
@click.option("-q", "--quiet", "loudness", flag_value="--quiet", help="As of run.")
@click.option("-v", "--verbose", "loudness", flag_value="--verbose", help="As of run.")
@click.option(
    "--entrypoint-num-cpus",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Cores for the driver; 0 puts it on the head.",
)
@click.option("--entrypoint-memory", type=click.IntRange(min=1), help="Bytes for the driver.")
@click.option("--entrypoint-resources", type=Table(), help="Ray resources of the driver's node.")
@click.option(
    "--entrypoint-label-selector", type=Table(), help='Labels of its node: \'{"market-type": "on-demand"}\'.'
)
@click.option("--with-code", is_flag=True, help="Take this captionmill along, for nodes that have the rest.")
@click.option("--no-wait", is_flag=True, help="Print the submission's id, and do not follow it.")
@click.option("--stop", is_flag=True, help="Stop the run that is under way on the output instead.")
def submit(job: Path, address: str, **given: Any) -> None:
    """Run JOB on a Ray cluster, and follow it: the log goes to standard error, the exit code is that of the run.

    Where the same job is under way on its output, that run is followed and none begun. Ctrl-C leaves it running; the
    same command follows it again, and goes on with a run that was stopped or has failed. Exit code 3: the cluster could
    not be reached, or refused.

    A token is taken from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, with RAY_AUTH_MODE=token.
    """
    if given["codes"] and not given["retry_failed"]:
        raise click.UsageError("--code needs --retry-failed")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with exit_codes(console):
        from jobs.submit.client import connect  # Ray, 1.3 s
        from jobs.submit.packing import pack

        packed = pack(
            text(job), changes(given), ["run", *_run_options(**given)], with_code=given["with_code"]
        )
        client = connect(address)
        if given["stop"]:
            _stop(client, packed, console)
        else:
            _submit(client, packed, given, console)


def _run_options(
    retry_failed: bool, codes: Sequence[str], share: Share | None, loudness: str | None, **_: Any
) -> Iterator[str]:
    """What of our options the run is started with."""
    if retry_failed:
        yield "--retry-failed"
    for code in codes:
        yield from ("--code", code)
    if share:
        yield from ("--shards", f"{share.number}/{share.of}")
    if loudness:
        yield loudness


def _submit(client: Client, packed: Packed, given: dict[str, Any], console: Console) -> None:
    from jobs.submit import follow, runs

    asked = ("num_cpus", "memory", "resources", "label_selector")
    driver = {name: given[name] for name in (f"entrypoint_{key}" for key in asked) if given[name] is not None}
    begun = runs.begin(client, packed, driver)
    said = "is submitted" if begun.new else "is under way already, with this job"
    console.print(f"{begun.submission_id} {said}", markup=False)
    if given["no_wait"]:
        console.print(f"follow    {_again()}\nstop      {_again('--stop')}", markup=False)
        click.echo(begun.submission_id)
        return
    try:
        details = follow.follow(client, begun.submission_id, console, sys.stderr)
    except KeyboardInterrupt:
        console.print(f"{begun.submission_id} goes on without you", markup=False)
        console.print(f"follow    {_again()}\nstop      {_again('--stop')}", markup=False)
        sys.exit(INTERRUPTED)
    sys.exit(follow.outcome(details, _again(), console))


def _stop(client: Client, packed: Packed, console: Console) -> None:
    """Stop the run on this output, if there is one, and wait until it has ended."""
    from jobs.submit import runs
    from pipeline.errors import RunError

    found = runs.under_way(client, packed)
    if found is None:
        console.print("No run is under way on this output.")
        return
    client.stop_job(found)
    end = time.monotonic() + STOPPED_S
    while not client.get_job_info(found).status.is_terminal():
        if time.monotonic() > end:
            raise RunError(f"{found} has not ended {STOPPED_S:.0f} s after it was asked to; look at its log")
        time.sleep(0.5)
    console.print(f"{found} is stopped. What is committed is kept; go on with: {_again()}", markup=False)


def _again(*more: str) -> str:
    """This command, without what was said of this call."""
    return shlex.join(["captionmill", *(word for word in sys.argv[1:] if word not in OURS), *more])
