"""Command lines that files of infra/ have, read by the real command line."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from jobs.cli import main


def parsed(line: str, job_file: Path) -> click.Context:
    """The context of a subcommand's line, `job_file` in place of the mounted one. UsageError where it is none."""
    program, *words = shlex.split(line)
    assert Path(program).name == "captionmill"
    words = [str(job_file) if word == "/etc/captionmill/job.toml" else word for word in words]
    with main.make_context("captionmill", [*words]) as context:
        name, command, rest = main.resolve_command(context, [*context._protected_args, *context.args])
        assert name
        assert command
        return command.make_context(name, rest, parent=context)
