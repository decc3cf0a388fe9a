"""One small job for all of these tests, and what an undisturbed run of it publishes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.elastic.nodes import driving
from tests.faults.job import corpus

JOB = """
[input]
dataset = "colours"
uris = ["{input}/*.tar"]
[model]
path = "{input}/checkpoint"
[[prompt]]
id = "short"
text = "What is it?"
[unit]
max_assets = 8
[output]
uri = "{output}"
[cluster]
{cluster}
"""
UNITS = 50

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 pictures, some of them bad, and a checkpoint for doubles."""
    folder = tmp_path_factory.mktemp("colours")
    corpus(folder)
    return folder


@pytest.fixture
def write(colours: Path, tmp_path: Path) -> Write:
    """Writes the job with these keys of [cluster], and its output at `output` or beside it."""

    def write(*cluster: str, output: str = "") -> Path:
        job = tmp_path / "job.toml"
        where = output or f"{tmp_path}/out"
        job.write_text(JOB.format(input=colours, output=where, cluster="\n".join(cluster)))
        return job

    return write


@pytest.fixture(scope="session")
def undisturbed(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing happens to, on a Ray of its own."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = folder / "job.toml"
    job.write_text(JOB.format(input=colours, output=folder / "out", cluster="gpus_per_replica = 0"))
    with driving(None, job, "caption_s=0") as drive:
        assert drive.ends() == 0, drive.said()
    return folder / "out"
