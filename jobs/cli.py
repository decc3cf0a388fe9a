"""The command line. Words for people go to standard error, data to standard output.

Exit codes: 0 done, 1 the run failed or its failure budget is spent, 2 a configuration or usage error, 130
interrupted, in which case the same command goes on.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from jobs import interrupt
from jobs.bench import PARTS
from jobs.bench.published import PUBLISHED
from jobs.exit_codes import FAILED, INTERRUPTED, USAGE
from jobs.start import start
from pipeline import config
from pipeline.errors import CaptionmillError, ConfigError
from pipeline.footprint import BYTES
from pipeline.quality import caption_text
from pipeline.roofline import GPUS

if TYPE_CHECKING:
    from jobs.verify import Again


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="captionmill")
def main() -> None:
    """Caption millions of images and videos with LLaVA-OneVision, and lose none of them."""


@main.command()
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--input", "inputs", multiple=True, metavar="URI", help="Instead of [input] uris; repeatable.")
@click.option("--output", metavar="URI", help="Instead of [output] uri.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key; repeatable."
)
def run(job: Path, inputs: Sequence[str], output: str | None, overrides: Sequence[str]) -> None:
    """Index, plan, caption and publish what JOB describes; goes on where an earlier run stopped."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    given = [*overrides, *_override("input.uris", list(inputs)), *_override("output.uri", output)]
    with _exit_codes(console):
        start(config.read(_text(job), given), console)


@main.command()
@click.argument("output")
@click.option(
    "--job",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read assets again from this job's input, and make their captions again with its model.",
)
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="With --job: so many assets.  [default: 20]"
)
@click.option("--all", "everything", is_flag=True, help="With --job: all assets.")
@click.option("--seed", type=int, default=0, help="With --job: decides which assets.")
@click.option("--digests", is_flag=True, help="With --job: compare bytes alone and load no model.")
@click.option("--input", "inputs", multiple=True, metavar="URI", help="Instead of the job's [input] uris.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key of the job."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on standard output.")
def verify(output: str, job: Path | None, as_json: bool, **given: Any) -> None:
    """Check that the published table of OUTPUT is whole, unchanged, and what its recipe says."""
    from jobs import verify as verifying  # the other commands start a moment sooner without it

    if job is None and any(given.values()):
        raise click.UsageError("--sample, --all, --seed, --digests, --input and --set need --job")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _exit_codes(console):
        report = verifying.inspect(output, _again(job, given) if job else None, console)
        if as_json:
            click.echo(report.to_json())
        verifying.tell(report, console)


def _again(job: Path, given: Mapping[str, Any]) -> Again:
    """What `verify` is to read and make again. Nothing is written where the job's own output is."""
    from jobs.verify import NOWHERE, SAMPLE, Again

    where = [*_override("input.uris", list(given["inputs"])), *_override("output.uri", NOWHERE)]
    count = None if given["everything"] else given["sample"] or SAMPLE
    loaded = config.read(_text(job), [*given["overrides"], *where])
    return Again(loaded, count, given["seed"], not given["digests"])


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


@main.command(epilog=f"Parts: {', '.join(PARTS)}.")
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)), metavar="[PART]...")
@click.option(
    "--job",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure with this job's first assets, model and prompts. Nothing is written to its output.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="With --job: override a key."
)
@click.option("--model", default="demo", show_default=True, help="Without --job: folder or hub id.")
@click.option(
    "--dtype", type=click.Choice(list(BYTES)), default="bfloat16", show_default=True, help="Without --job."
)
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="Without --job: of torch.  [default: its own]"
)
@click.option(
    "--pairs", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds of all sides."
)
@click.option(
    "--assets",
    type=click.IntRange(min=0),
    default=0,
    help="Assets that are read and planned.  [default: 5,000 and 500,000; of a job 5,000]",
)
@click.option(
    "--image-bytes", type=click.IntRange(min=1), default=20_000, show_default=True, help="Of images to read."
)
@click.option(
    "--pictures", type=click.IntRange(min=1), default=16, show_default=True, help="Pictures to caption."
)
@click.option(
    "--prompts", type=click.IntRange(min=1), default=3, show_default=True, help="About one picture."
)
@click.option("--new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Of a caption.")
@click.option(
    "--vllm-python",
    type=click.Path(exists=True, dir_okay=False, executable=True),
    help="An interpreter with vLLM, to measure beside.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def bench(parts: Sequence[str], job: Path | None, as_json: bool, **given: Any) -> None:
    """Measure PARTs, or all, on this machine: beside installed peers, and beside what the machine could do at most."""
    from jobs.bench import command  # it takes seconds to import torch and transformers

    source = click.get_current_context().get_parameter_source
    own = [name for name in ("model", "dtype", "threads") if source(name) is ParameterSource.COMMANDLINE]
    if job and own:
        raise click.UsageError(f"--{own[0]} is for a run without --job; a job's is changed by --set")
    if given["overrides"] and not job:
        raise click.UsageError("--set needs --job")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _exit_codes(console):
        where = _override("output.uri", command.NOWHERE)
        loaded = config.read(_text(job), [*given["overrides"], *where]) if job else None
        command.show(parts, command.options(loaded, given), console, as_json=as_json)


@main.command()
@click.argument("job", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--gpu", type=click.Choice(sorted(GPUS)), default="h100", show_default=True)
@click.option(
    "--model",
    type=click.Choice(list(PUBLISHED)),
    help="Instead of JOB's.  [default: onevision-7b]",
)
@click.option("--replicas", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--slower",
    type=click.FloatRange(min=1.0),
    default=1.0,
    show_default=True,
    help="Slow the GPUs down, where fewer cores are here than there would be.",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=4_000,
    show_default=True,
    help="Without JOB: 640 x 480 pictures.",
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key of JOB.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def simulate(job: Path | None, overrides: Sequence[str], as_json: bool, **given: Any) -> None:
    """Run JOB's pipeline here with simulated GPUs: how busy they would be, and how many cores would feed one.

    Reading, decoding, cutting, Ray and commits are real; of the model, only the time that it would take.
    """
    from jobs.bench import simulation  # it takes seconds to import torch and transformers

    if overrides and not job:
        raise click.UsageError("--set needs JOB")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _exit_codes(console):
        loaded = config.read(_text(job), overrides) if job else None
        simulation.show(loaded, simulation.Asked(**given), console, as_json=as_json)


def _text(job: Path) -> str:
    try:
        return job.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{job} is not UTF-8 text: {error.reason} at byte {error.start}"]) from error


def _override(name: str, value: list[str] | str | None) -> list[str]:
    return [f"{name}={config.toml(value)}"] if value else []


@contextmanager
def _exit_codes(console: Console) -> Iterator[None]:
    """Turn errors into messages and exit codes; SIGTERM counts as an interruption."""
    interrupt.listen()
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            console.print(f"✗ {_shown(problem)}", markup=False)
        console.print("Mend this and start the same command again.")
        sys.exit(USAGE)
    except CaptionmillError as error:
        console.print(f"✗ {_shown(str(error))}", markup=False)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        again = shlex.join(["captionmill", *sys.argv[1:]])
        console.print(f"Interrupted. What is committed is kept; go on with: {again}", markup=False)
        sys.exit(INTERRUPTED)


def _shown(message: str) -> str:
    """A message, line by line safe for a terminal: it may quote names that strangers chose."""
    return "\n".join(caption_text(line) for line in message.splitlines())


if __name__ == "__main__":
    main()
