"""jobs.cli: what a person types, and what comes back: words, exit codes, seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import made

ROOT = Path(__file__).parents[2]
# The command line, and then which of these it has imported; the interpreter's own start is not what is measured.
TOLD = """
import atexit, sys
atexit.register(lambda: print(sorted({"torch", "transformers", "ray"} & set(sys.modules))))
from jobs.cli import main
main(prog_name="captionmill")
"""


def captionmill(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own, far from any store."""
    environment = os.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", TOLD, *arguments],
        cwd=cwd,
        env=environment | {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


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


def test_one_message_names_everything_that_is_wrong(tmp_path: Path) -> None:
    done = captionmill("run", job(tmp_path, WRONG))

    for part in (
        "✗ unknown key [generation] max_tokens; did you mean max_new_tokens?",
        '✗ [generation] batch_size must be a whole number, not "8"',
        "✗ at least one [[prompt]] is needed",
        "/nowhere/000.tar",
        "s3://bucket/a.tar",
        "✗ cannot write to /dev/null/out",
        "/nowhere/model",
    ):
        assert part in done.stderr
    assert done.stderr.endswith("Nothing was started.\n")


def test_a_wrong_job_ends_with_exit_code_2(tmp_path: Path) -> None:
    assert captionmill("run", job(tmp_path, WRONG)).returncode == 2


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    done = captionmill("run", job(tmp_path, minimal(tmp_path).replace("[output]", "[outputs]")))

    assert "✗ unknown section [outputs]; did you mean output?" in done.stderr
    assert "✗ section [output] is missing; it needs uri" in done.stderr
    assert done.returncode == 2


def test_a_wrong_job_is_refused_within_five_seconds(tmp_path: Path) -> None:
    begun = time.monotonic()

    captionmill("run", job(tmp_path, WRONG))

    assert time.monotonic() - begun < 5


def test_a_wrong_job_is_refused_before_torch_or_ray_are_loaded(tmp_path: Path) -> None:
    assert captionmill("run", job(tmp_path, WRONG)).stdout == "[]\n"


def test_errors_have_no_traceback(tmp_path: Path) -> None:
    assert "Traceback" not in captionmill("run", job(tmp_path, WRONG)).stderr


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    done = captionmill("run", job(tmp_path, "[input\n"))

    assert done.returncode == 2
    assert "✗ the job file is not TOML: " in done.stderr


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe[\x00i\x00")

    done = captionmill("run", str(tmp_path / "job.toml"))

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


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
    done = captionmill(*arguments)

    assert done.returncode == 2
    assert "Usage: " in done.stderr


def test_input_output_and_keys_can_be_given_on_the_command_line(tmp_path: Path) -> None:
    done = captionmill(
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

    done = captionmill("run", job(tmp_path, minimal(tmp_path)), "--input", f"{deep}/*.tar")

    assert any(str(deep) in line for line in done.stderr.splitlines())


def test_the_version_is_printed() -> None:
    done = captionmill("--version")

    assert done.returncode == 0
    assert "captionmill, version " in done.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("demo", "-h")])
def test_help_is_printed(arguments: tuple[str, ...]) -> None:
    done = captionmill(*arguments)

    assert done.returncode == 0
    assert "Usage: " in done.stdout
