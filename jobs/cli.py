"""The command line. Words for people go to standard error, data to standard output.

Exit codes: 0 done, 1 the run failed or its failure budget is spent, 2 a configuration or usage error, 3 (`submit` and
`doctor`) the cluster could not be reached, 130 interrupted, in which case the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from jobs.bench.commands import bench, simulate
from jobs.doctor.command import doctor
from jobs.events import Events
from jobs.exit_codes import exit_codes as _exit_codes
from jobs.export import FORMATS
from jobs.job_file import JOB, SHARE, changing, loaded, override, retrying, text
from jobs.report.commands import explain, report
from jobs.submit.command import submit
from pipeline.roofline import GPUS
from pipeline.units import Share

if TYPE_CHECKING:
    from jobs.verify import Again


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="captionmill")
def main() -> None:
    """Caption millions of images and videos with LLaVA-OneVision, and lose none of them."""


main.add_command(report)
main.add_command(explain)
main.add_command(bench)
main.add_command(simulate)
main.add_command(submit)
main.add_command(doctor)


@main.command()
@click.argument("job", type=JOB)
@changing
@retrying
@click.option(
    "--shards", "share", type=SHARE, help="Do the Ith part of N; the part that ends last publishes."
)
@click.option("-q", "--quiet", "loudness", flag_value="QUIET", help="Only problems and the last summary.")
@click.option("-v", "--verbose", "loudness", flag_value="VERBOSE", help="A line for each unit.")
@click.option(
    "--json", "as_json", is_flag=True, help="For programs: a line of JSON for each unit on standard output."
)
def run(
    job: Path,
    retry_failed: bool,
    codes: Sequence[str],
    loudness: str | None,
    share: Share | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Index, plan, caption and publish what JOB describes; goes on where an earlier run stopped.

    What is published already and has not changed is not done again.
    """
    if codes and not retry_failed:
        raise click.UsageError("--code needs --retry-failed")
    from jobs.start import Loudness, Options, start  # half a second, which commands that only read do without

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    again = tuple(codes) if retry_failed else None
    with _exit_codes(console):
        events = Events(sys.stdout if as_json else None)
        options = Options(Loudness[loudness or "USUAL"], again, share, events)
        start(loaded(job, given), console, options)


@main.command()
@click.argument("job", type=JOB)
@changing
@click.option("--gpu", type=click.Choice(sorted(GPUS)), default="h100", show_default=True)
@click.option("--gpu-hour-price", "price", type=click.FloatRange(min=0), help="Of one GPU, in any currency.")
@click.option("--replicas", type=click.IntRange(min=1), help="Instead of [cluster] replicas.")
@click.option(
    "--new-tokens",
    type=click.FloatRange(min=1),
    help="Expected of a caption.  [default: of the published ones, else half of max_new_tokens]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def plan(job: Path, as_json: bool, **given: Any) -> None:
    """Say what a run of JOB would do, and how long it would take, from the index alone, which is made if absent."""
    from jobs import plan as planning

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _exit_codes(console):
        planning.show(loaded(job, given), planning.Asked(**given), console, as_json=as_json)


@main.command()
@click.argument("output")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(output: str, as_json: bool) -> None:
    """Say what of OUTPUT is published and how far runs are that are under way, from the output alone."""
    from jobs import status as standing

    with _exit_codes(Console(stderr=True, soft_wrap=True, highlight=False)):
        standing.show(output, as_json=as_json)


@main.command()
@click.argument("output")
@click.option(
    "--job",
    type=JOB,
    help="Read assets again from this job's input, and make their captions again with its model.",
)
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="With --job: so many assets.  [default: 20]"
)
@click.option("--all", "everything", is_flag=True, help="With --job: all assets.")
@click.option("--seed", type=int, default=0, help="With --job: decides which assets.")
@click.option("--asset", metavar="ASSET_ID", help="Only this one.")
@click.option("--digests", is_flag=True, help="With --job: compare bytes alone and load no model.")
@click.option("--input", "inputs", multiple=True, metavar="URI", help="Instead of the job's [input] uris.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key of the job."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on standard output.")
def verify(output: str, job: Path | None, asset: str | None, as_json: bool, **given: Any) -> None:
    """Check that the published table of OUTPUT is whole, unchanged, and what its recipe says."""
    from jobs import verify as verifying  # the other commands start a moment sooner without it

    if job is None and any(given.values()):
        raise click.UsageError("--sample, --all, --seed, --digests, --input and --set need --job")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _exit_codes(console):
        again = _again(job, given) if job else None
        whole, one = verifying.inspect, verifying.inspect_one
        report = one(output, asset, again, console) if asset else whole(output, again, console)
        if as_json:
            click.echo(report.to_json())
        verifying.tell(report, console)


def _again(job: Path, given: Mapping[str, Any]) -> Again:
    """What `verify` is to read and make again. Nothing is written where the job's own output is."""
    from jobs.verify import SAMPLE, Again, elsewhere

    where = override("input.uris", list(given["inputs"]))
    count = None if given["everything"] else given["sample"] or SAMPLE
    loaded = elsewhere(text(job), [*given["overrides"], *where])
    return Again(loaded, count, given["seed"], not given["digests"])


@main.command()
@click.argument("output")
@click.argument("words")
@click.option("--limit", type=click.IntRange(min=1, max=10_000), default=20, show_default=True)
@click.option("--prompt", metavar="ID", help="Only captions under this prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def search(output: str, words: str, limit: int, prompt: str | None, as_json: bool) -> None:
    """Search the captions published in OUTPUT for WORDS, the best first.

    +word must be there, -word must not; "in quotes" is a phrase. The first search of a table makes an index of it in
    your cache folder; when the table has changed, only the changes are put there.
    """
    from jobs.search import command

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _exit_codes(console):
        found = command.search(output, words, limit, prompt, console)
        if as_json:
            click.echo(found.to_json())
        else:
            command.tell(found, console, Console(soft_wrap=True, highlight=False))


@main.command()
@click.argument("output")
@click.argument("destination")
@click.option("--to", type=click.Choice(FORMATS), required=True, help="What DESTINATION is to be.")
@click.option(
    "--since", metavar="RUN_ID", help="Only what changed after this run: what to delete, what to put."
)
@click.option("--replace", is_flag=True, help="Where DESTINATION holds an earlier export.")
def export(output: str, destination: str, to: str, since: str | None, replace: bool) -> None:
    """Hand the captions published in OUTPUT to others.

    DESTINATION is an empty folder or prefix; of LanceDB a database; of jsonl and opensearch also -, standard output.
    """
    from jobs.export import command

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _exit_codes(console):
        asked = command.Asked(output, to, destination, since, replace)
        command.export(asked, console, sys.stdout.buffer)


@main.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("captionmill-demo"),
    show_default=True,
    help="Folder for shards and captions.",
)
@click.option(
    "--scenes", type=click.IntRange(min=1), default=200, show_default=True, help="Scenes of each kind."
)
def demo(output: Path, scenes: int) -> None:
    """Caption generated shards with the shipped checkpoint, and compare every caption with the truth."""
    from jobs.demo.command import show  # only the demo needs its generator

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _exit_codes(console):
        show(output, scenes, console)


if __name__ == "__main__":
    main()
