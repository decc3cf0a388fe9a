"""jobs.cli: what a person types, and what comes back: words, exit codes, seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests import made

ROOT = Path(__file__).parents[2]
# The command line, and at its end which of the modules it has imported that take seconds.
TOLD = """
import atexit, sys
atexit.register(lambda: print(sorted({"torch", "transformers", "ray"} & set(sys.modules))))
from jobs.cli import main
main(prog_name="captionmill")
"""
WRONG = """
[input]
dataset = "birds"
uris = ["/nowhere/{000..003}.tar", "s3://bucket/a.tar"]
[model]
path = "/nowhere/model"
[generation]
max_tokens = 5
batch_size = "8"
[output]
uri = "/dev/null/out"
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended that had a process of its own."""

    code: int
    said: str
    imported: str
    seconds: float


def captionmill(*arguments: str) -> Done:
    """The command in a process of its own, where no store answers."""
    s3 = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", TOLD, *arguments],
        cwd=ROOT,
        env=os.environ | s3,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Done(done.returncode, done.stderr, done.stdout.strip(), time.monotonic() - begun)


def invoked(*arguments: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(main, arguments, prog_name="captionmill")


def job(folder: Path, text: str) -> str:
    """The path of a job file."""
    path = folder / "job.toml"
    path.write_text(text)
    return str(path)


def minimal(folder: Path) -> str:
    """A job file that lacks nothing but shards."""
    return f"""
[input]
dataset = "birds"
uris = ["{folder}/nothing/*.tar"]
[model]
path = "{made.checkpoint(folder / "checkpoint")}"
[[prompt]]
id = "short"
text = "What is it?"
[output]
uri = "{folder}/out"
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """What becomes of a job file in which nearly everything is wrong."""
    return captionmill("run", job(tmp_path_factory.mktemp("wrong"), WRONG))


@pytest.mark.parametrize(
    "part",
    [
        "✗ unknown key [generation] max_tokens; did you mean max_new_tokens?\n",
        '✗ [generation] batch_size must be a whole number, not "8"\n',
        "✗ at least one [[prompt]] is needed",
        "/nowhere/000.tar",
        "s3://bucket",
        "✗ cannot write to /dev/null/out",
        "/nowhere/model",
    ],
)
def test_one_message_names_everything_that_is_wrong(refused: Done, part: str) -> None:
    assert part in refused.said


def test_a_wrong_job_is_told_that_nothing_was_started(refused: Done) -> None:
    assert refused.said.endswith("\nMend this and start the same command again.\n")


def test_a_wrong_job_ends_with_exit_code_2(refused: Done) -> None:
    assert refused.code == 2


def test_a_wrong_job_is_refused_within_five_seconds(refused: Done) -> None:
    assert refused.seconds < 5


def test_a_wrong_job_is_refused_before_torch_or_ray_are_loaded(refused: Done) -> None:
    assert refused.imported == "[]"


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    done = invoked("run", job(tmp_path, minimal(tmp_path).replace("[output]", "[outputs]")))

    assert "✗ unknown section [outputs]; did you mean output?" in done.stderr
    assert "✗ section [output] is missing; it needs uri" in done.stderr
    assert done.exit_code == 2


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    done = invoked("run", job(tmp_path, "[input\n"))

    assert done.exit_code == 2
    assert "✗ the job file is not TOML: " in done.stderr


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe[\x00i\x00")

    done = invoked("run", str(tmp_path / "job.toml"))

    assert done.exit_code == 2
    assert "UTF-8" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("run",),
        ("run", "no-such.toml"),
        ("run", "."),
        ("fly",),
        ("run", "pyproject.toml", "--sett", "a.b=1"),
    ],
)
def test_a_wrong_command_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    done = invoked(*arguments)

    assert done.exit_code == 2
    assert "Usage: captionmill" in done.stderr


def test_input_output_and_keys_can_be_given_on_the_command_line(tmp_path: Path) -> None:
    done = invoked(
        "run",
        job(tmp_path, minimal(tmp_path)),
        *("--input", f"{tmp_path}/ünï 😀/*.tar"),
        *("--input", f"{tmp_path}/more/*.tar"),
        *("--output", "/dev/null/elsewhere"),
        *("--set", "cluster.replicas=0", "--set", "cluster.gpus=1"),
    )

    for part in (
        f"{tmp_path}/ünï 😀/*.tar",
        f"{tmp_path}/more/*.tar",
        "cannot write to /dev/null/elsewhere",
        "[cluster] replicas must be at least 1, not 0",
        "unknown key [cluster] gpus; did you mean gpus_per_replica?",
    ):
        assert part in done.stderr
    assert f"{tmp_path}/nothing" not in done.stderr


def test_a_long_message_stays_on_its_line(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["folder"] * 40)

    done = invoked("run", job(tmp_path, minimal(tmp_path)), "--input", f"{deep}/*.tar")

    assert any(str(deep) in line for line in done.stderr.splitlines())


def test_the_version_is_printed() -> None:
    assert invoked("--version").stdout.startswith("captionmill, version ")


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("demo", "-h")])
def test_help_is_printed(arguments: tuple[str, ...]) -> None:
    done = invoked(*arguments)

    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: captionmill")
