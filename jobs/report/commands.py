"""The options of `captionmill report` and `captionmill explain`; the work is in the modules beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jobs.exit_codes import exit_codes
from jobs.job_file import JOB, override, text
from pipeline import config
from pipeline.config import InputConfig
from pipeline.errors import ConfigError

PAGE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("output")
@click.option(
    "-o", "--to", "target", type=PAGE, default=Path("report.html"), show_default=True, help="The page."
)
@click.option("--job", type=JOB, help="Show pictures, from this job's input.")
@click.option("--input", "inputs", multiple=True, metavar="URI", help="Show pictures, from here; repeatable.")
@click.option(
    "--show", type=click.IntRange(min=0), default=200, show_default=True, help="Assets in the gallery."
)
@click.option("--seed", type=int, default=0, help="Decides which assets.")
@click.option("--gpu-hour-price", type=click.FloatRange(min=0), help="Of one GPU, in any currency.")
@click.option(
    "--gpus", type=click.FloatRange(min=0), default=1.0, show_default=True, help="That the run held."
)
def report(output: str, target: Path, **given: Any) -> None:
    """Write a page about the published table of OUTPUT: gallery, distributions, flags, failures, time."""
    from jobs.report.command import Asked, write  # most commands need no templates
    from jobs.report.view import Price

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with exit_codes(console):
        hour = given["gpu_hour_price"]
        price = None if hour is None else Price(hour, given["gpus"])
        asked = Asked(given["show"], given["seed"], source_of(given["job"], given["inputs"]), price)
        write(output, target, asked, console)


@click.command()
@click.argument("output")
@click.argument("asset_id")
@click.option("--key", "by_key", is_flag=True, help="ASSET_ID is a key.")
@click.option("-o", "--to", "target", type=PAGE, help="Write a page, with the crops drawn on the picture.")
@click.option("--job", type=JOB, help="Read the asset again, from this job's input.")
@click.option(
    "--input", "inputs", multiple=True, metavar="URI", help="Read the asset again, from here; repeatable."
)
@click.option("--verify", is_flag=True, help="Check the row; with --job make its captions again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def explain(output: str, asset_id: str, job: Path | None, inputs: Sequence[str], **given: Any) -> None:
    """Tell the whole story of one asset of OUTPUT: its bytes, crops, prompts, tokens, captions, recipe and run.

    ASSET_ID may be the beginning of one.
    """
    from jobs.report.explain import Asked, show

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with exit_codes(console):
        again = text(job) if job and given["verify"] else None
        asked = Asked(asset_id, source_of(job, inputs), job=again, **given)
        show(output, asked, console)


def source_of(job: Path | None, inputs: Sequence[str]) -> InputConfig | None:
    """The input that the job or the addresses name; None where neither is given. Raises ConfigError."""
    if job is None:
        return InputConfig("", tuple(inputs)) if inputs else None
    loaded = config.read(text(job), override("input.uris", list(inputs)))
    section = loaded.sections.get("input")
    if not isinstance(section, InputConfig):
        raise ConfigError(loaded.problems)
    return section
