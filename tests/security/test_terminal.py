"""What a person is shown carries no secret of an address and nothing that a terminal would obey."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from tests import made


def told(folder: Path, uri: str) -> str:
    """What `captionmill run` says of a job with this input, which it refuses."""
    made.checkpoint(folder / "checkpoint")
    (folder / "job.toml").write_text(made.job(uri, folder / "checkpoint", folder / "out"))
    done = CliRunner().invoke(main, ["run", str(folder / "job.toml")])
    assert done.exit_code == 2, done.output
    return done.output


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9/a.tar?X-Amz-Signature=telltale&X-Amz-Credential=telltale",
        "http://me:telltale@127.0.0.1:9/a.tar",
        "http://me:telltale@127.0.0.1:9/{a,b}.tar?sig=telltale",
        "nosuch://me:telltale@host/a.tar?sig=telltale",
    ],
)
def test_secrets_of_an_address_are_not_said(tmp_path: Path, uri: str) -> None:
    said = told(tmp_path, uri)

    assert "✗" in said
    assert "telltale" not in said


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x1b]0;title\x07", "\u202e", "\x9b2J", "\u200b"])
def test_names_cannot_steer_a_terminal(tmp_path: Path, evil: str) -> None:
    (tmp_path / f"in{evil}.zip").write_bytes(b"PK")

    said = told(tmp_path, f"{tmp_path}/in{evil}.zip")

    assert "in.zip" in said
    assert [character for character in said if character in evil and not character.isprintable()] == []
