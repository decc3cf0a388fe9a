"""The README's commands for looking at a table, as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from tests.output import JOB, Output, captioned, write_input

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^captionmill ((?:report|explain) .*|verify .* --asset [0-9a-f]+)", README, re.MULTILINE
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Input, checkpoint, job file and output of eight assets."""
    made = tmp_path_factory.mktemp("published")
    write_input(made, 1)
    (made / "job.toml").write_text(JOB.format(folder=made))
    captioned(JOB.format(folder=made))
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output(folder / "out")
    row = output.rows(output.path()).to_pylist()[0]
    known = {"s3://bucket/captions/holiday-photos": str(folder / "out"), "06a213044e": row["asset_id"][:10]}
    words = [{**known, "beach/0017": row["key"]}.get(word, word) for word in shlex.split(command)]
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, words, prog_name="captionmill")

    assert done.exit_code == 0, done.output
    assert done.output


def test_there_are_such_commands() -> None:
    assert len(COMMANDS) >= 6
