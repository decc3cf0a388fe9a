"""The README's commands about search, export and indexes run as they stand, but for the place of the captions."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from tests.weekly_table import WEEKS, Weeks

ROOT = Path(__file__).parents[2]
TASKS = ("Search", "Hand the captions to an index", "Keep an index in step")


def commands() -> Iterator[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for task in TASKS:
        section = text.partition(f"\n### {task}\n")[2].partition("\n### ")[0]
        for block in re.findall(r"```\n(.*?)```", section, re.DOTALL):
            yield from block.splitlines()


def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], s3: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tables = {"captionmill-demo/captions": "table", "s3://bucket/captions/holiday-photos": s3}
    for place in tables.values():
        run = Weeks(place).publish({**WEEKS[0], ("a", "describe"): "A dog."})
    given = {**tables, "RUN_ID": run}

    for command in commands():
        program, *arguments = [given.get(word, word) for word in shlex.split(command)]
        if program == "captionmill":
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 0, (command, done.output)
        else:
            monkeypatch.setattr(sys, "argv", [os.fspath(ROOT / arguments[0]), *arguments[1:]])
            runpy.run_path(sys.argv[0], run_name="__main__")
            assert run in capsys.readouterr().out
    assert len(list(commands())) == 12
