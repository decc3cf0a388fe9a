"""The job file as the commands take it: the options, its text, and what the command line changes in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline import config
from pipeline.config import Loaded
from pipeline.errors import ConfigError
from pipeline.toml import toml
from pipeline.types import Code
from pipeline.units import Share

JOB = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Share(click.ParamType[Share]):
    """`I/N` with 1 <= I <= N."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Share:
        found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", str(value), re.ASCII)
        if not found or int(found[1]) > int(found[2]):
            self.fail(f"{value!r} is no part: 1/4, 2/4, 3/4 and 4/4 are those of four", param, ctx)
        return Share(int(found[1]), int(found[2]))


SHARE = _Share()
Command = TypeVar("Command", bound=Callable[..., Any])


def changing(command: Command) -> Command:
    """The options `inputs`, `output` and `overrides`, which change the job file (see `changes`)."""
    options = (
        click.option(
            "--input", "inputs", multiple=True, metavar="URI", help="Instead of [input] uris; repeatable."
        ),
        click.option("--output", metavar="URI", help="Instead of [output] uri."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Override a key; repeatable.",
        ),
    )
    return reduce(lambda made, option: option(made), reversed(options), command)


def retrying(command: Command) -> Command:
    """The options `retry_failed` and `codes`: what failed is captioned once more."""
    codes = click.Choice([code.value for code in Code])
    options = (
        click.option("--retry-failed", is_flag=True, help="Caption what failed once more, read by range."),
        click.option(
            "--code", "codes", multiple=True, type=codes, help="With --retry-failed: only these; repeatable."
        ),
    )
    return reduce(lambda made, option: option(made), reversed(options), command)


def text(job: Path) -> str:
    """What the file says. ConfigError where it is not UTF-8."""
    try:
        return job.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{job} is not UTF-8 text: {error.reason} at byte {error.start}"]) from error


def override(name: str, value: list[str] | str | None) -> list[str]:
    """What `--set` would say for a key, if there is a value."""
    return [f"{name}={toml(value)}"] if value else []


def loaded(job: Path, given: dict[str, Any]) -> Loaded:
    """The job file with the options `inputs`, `output` and `overrides`, which are taken out of `given`."""
    return config.read(text(job), changes(given))


def changes(given: dict[str, Any]) -> list[str]:
    """What these options change in the job file, as `--set` says it; they are taken out of `given`."""
    changed = override("input.uris", list(given.pop("inputs")))
    changed += override("output.uri", given.pop("output"))
    return [*given.pop("overrides"), *changed]
