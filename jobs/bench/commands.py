"""The options of `captionmill bench` and `captionmill simulate`; the work is in the modules beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from jobs.bench import BATCHES, PARTS
from jobs.bench.published import PUBLISHED
from jobs.exit_codes import exit_codes
from jobs.job_file import JOB, override, text
from pipeline import config
from pipeline.footprint import BYTES
from pipeline.roofline import GPUS


@click.command(epilog=f"Parts: {', '.join(PARTS)}.")
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)), metavar="[PART]...")
@click.option(
    "--job",
    type=JOB,
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
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    default=BATCHES,
    show_default=True,
    help="Captions in a call of generate, where there are as many; give it once for each size.",
)
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
    with exit_codes(console):
        where = override("output.uri", command.NOWHERE)
        loaded = config.read(text(job), [*given["overrides"], *where]) if job else None
        command.show(parts, command.options(loaded, given), console, as_json=as_json)


@click.command()
@click.argument("job", required=False, type=JOB)
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
    with exit_codes(console):
        loaded = config.read(text(job), overrides) if job else None
        simulation.show(loaded, simulation.Asked(**given), console, as_json=as_json)
