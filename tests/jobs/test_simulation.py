"""`captionmill simulate`: the real pipeline around GPUs that are not there."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from jobs.bench.simulation import write
from jobs.cli import main

JOB = """
[input]
dataset = "own"
uris = ["{folder}/in/*.tar"]
[model]
path = "demo"
[[prompt]]
id = "p"
text = "Describe the image in detail."
[unit]
max_assets = 20
[output]
uri = "{folder}/out"
"""


def test_own_pictures_are_of_one_size_and_all_differ(tmp_path: Path) -> None:
    write(tmp_path / "in", 3)

    (shard,) = (tmp_path / "in").iterdir()
    with tarfile.open(shard) as tar:
        members = [tar.extractfile(member) for member in tar]
        pictures = [Image.open(member).copy() for member in members if member]
    assert {picture.size for picture in pictures} == {(640, 480)}
    assert len({picture.tobytes() for picture in pictures}) == 3


@pytest.mark.slow
def test_a_job_is_run_on_simulated_gpus_and_its_output_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "in", 120)
    (tmp_path / "job.toml").write_text(JOB.format(folder=tmp_path))

    asked = [
        "simulate",
        str(tmp_path / "job.toml"),
        "--gpu",
        "h100",
        "--model",
        "onevision-7b",
        "--replicas",
        "1",
    ]
    done = CliRunner().invoke(main, [*asked, "--json"], catch_exceptions=False)

    (found,) = json.loads(done.stdout)["parts"]
    told = {figure["name"]: figure for figure in found["figures"]}
    assert told["replica 0 busy"]["details"]["units"] == 6
    assert 0 < told["replica 0 busy"]["value"]["median"] <= 101  # the clock of the model is not the log's
    # 3.3 + 40 TFLOP by half of 989 TFLOP/s, and some steps of 14 GB at 70 % of 3,350 GB/s for each 20 captions
    assert 1 < told["a h100 that is always busy"]["value"]["median"] < 11.4
    assert told["cores of this kind for a h100"]["value"]["median"] > 0
    assert not (tmp_path / "out").exists()


def test_an_override_without_a_job_is_a_usage_error() -> None:
    done = CliRunner().invoke(main, ["simulate", "--set", "unit.max_assets=1"])

    assert done.exit_code == 2
    assert "--set needs JOB" in done.output
