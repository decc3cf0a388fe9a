"""What `captionmill submit` refuses, packs, and says of how a run ended, without a cluster."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ray.dashboard.modules.job.pydantic_models import JobDetails
from rich.console import Console

from jobs.cli import main
from jobs.submit.follow import outcome
from jobs.submit.packing import pack
from pipeline.errors import ConfigError

JOB = """
[input]
dataset = "birds"
uris = ["s3://bucket/in/?.tar"]
[model]
path = "owner/model"
[[prompt]]
id = "short"
text = 'What "is" it?'
[output]
uri = "s3://bucket/out"
"""


def problems(*changes: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        pack(JOB, changes, ["run"])
    return caught.value.problems


def test_the_file_that_travels_is_what_the_command_line_made_of_it(tmp_path: Path) -> None:
    packed = pack(JOB, ["generation.max_new_tokens=9"], ["run", "--retry-failed"])
    packed.write(tmp_path)

    sent = tomllib.loads((tmp_path / "job.toml").read_text())
    assert sent == {**tomllib.loads(JOB), "generation": {"max_new_tokens": 9}}
    assert packed.entrypoint == "captionmill run job.toml --retry-failed"
    assert list(tmp_path.iterdir()) == [tmp_path / "job.toml"]


def test_jobs_to_one_output_are_a_family_and_know_each_other_apart() -> None:
    one, other = pack(JOB, [], ["run"]), pack(JOB, ["model.dtype=float32"], ["run"])
    again = pack(JOB, [], ["run", "--retry-failed"])

    assert one.family == other.family == again.family
    assert len({one.digest, other.digest, again.digest}) == 3
    assert pack(JOB, ["output.uri=s3://bucket/other"], ["run"]).family != one.family


def test_shares_of_a_run_are_submitted_beside_each_other() -> None:
    first, second = (pack(JOB, [], ["run", "--shards", share, "--quiet"]) for share in ("1/2", "2/2"))

    assert first.entrypoint == "captionmill run job.toml --shards 1/2 --quiet"
    assert len({first.family, second.family, pack(JOB, [], ["run"]).family}) == 3
    assert first.family == pack(JOB, [], ["run", "--shards", "1/2"]).family


def test_code_that_travels_is_whole(tmp_path: Path) -> None:
    """Where nothing of captionmill is installed: an interpreter that sees the folder and the other packages alone."""
    packed = pack(JOB, [], ["run"], with_code=True)
    packed.write(tmp_path)
    asked = "import jobs; from jobs.preflight import version; print(jobs.__file__, version('captionmill'))"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.check_output([sys.executable, "-c", asked], cwd=tmp_path, env=environment, text=True)
    helped = subprocess.check_output([sys.executable, "-m", "jobs", "run", "-h"], cwd=tmp_path, text=True)

    assert packed.entrypoint == "python -m jobs run job.toml"
    assert said.startswith(f"{tmp_path}/jobs/__init__.py ")
    assert "Usage: captionmill run" in helped
    assert (tmp_path / "jobs/demo/checkpoint/model.safetensors").is_file()
    assert list(tmp_path.rglob("direct_url.json")) == []


def test_every_mistake_is_named_before_the_cluster_is_asked() -> None:
    found = problems("output.uri=out", "model.path=./model", "model.dtyp=x", "input.root=in")

    assert [text.split(":")[0] for text in found] == [
        "unknown key [model] dtyp; did you mean dtype?",
        "[input] root",
        "[output] uri",
        "[model] path",
    ]


@pytest.mark.parametrize(
    "uri", ["s3://key:hidden@bucket/x", "https://host/x.tar?X-Amz-Signature=hidden", "az://c/x?sig=hidden"]
)
def test_credentials_in_addresses_are_refused_and_not_repeated(uri: str) -> None:
    [found] = problems(f'input.uris=["{uri}"]')

    assert "credentials" in found
    assert "hidden" not in found


def test_credentials_of_this_environment_do_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_telltaleHubToken")

    assert problems("input.dataset=hf_telltaleHubToken") == (
        "the job has the value of HF_TOKEN in it; leave it out: job files are no place for credentials",
    )


def test_nobody_at_the_address_is_no_failed_run(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    asked = ["submit", str(tmp_path / "job.toml"), "--address"]
    nobody = CliRunner().invoke(main, [*asked, "http://127.0.0.1:9"])
    no_url = CliRunner().invoke(main, [*asked, "127.0.0.1:6379"])

    assert nobody.exit_code == 3
    assert "does not answer" in nobody.stderr
    assert no_url.exit_code == 2
    assert "http://HOST:8265" in no_url.stderr


@pytest.mark.parametrize(
    ("status", "driver", "code", "words"),
    [
        ("SUCCEEDED", 0, 0, "succeeded"),
        ("FAILED", 1, 1, "failed with exit code 1"),
        ("FAILED", 2, 2, "failed with exit code 2"),
        ("FAILED", 130, 130, "was stopped"),
        ("STOPPED", None, 130, "was stopped"),
        ("FAILED", 127, 1, "--with-code"),
        ("FAILED", -9, 1, "its driver ended with code -9"),
        ("FAILED", None, 1, "the node died"),
    ],
)
def test_how_a_run_ended_is_told_apart(status: str, driver: int | None, code: int, words: str) -> None:
    given: dict[str, Any] = {"type": "SUBMISSION", "entrypoint": "x", "submission_id": "captionmill-1"}
    details = JobDetails(**given, status=status, message="the node died", driver_exit_code=driver)
    said = Console(file=io.StringIO(), width=200)

    assert outcome(details, "captionmill submit", said) == code
    assert words in said.file.getvalue()  # type: ignore[attr-defined]
