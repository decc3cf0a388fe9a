"""The job file as the commands take it: the option, its text, and what the command line changes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline import config
from pipeline.config import Loaded
from pipeline.errors import ConfigError
from pipeline.toml import toml

JOB = click.Path(exists=True, dir_okay=False, path_type=Path)


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
