"""A replica that cannot start: its message, once, from `captionmill run` as a person sees it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.checkpoints import write

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
JOB = """
[input]
dataset = "one"
uris = ["{folder}/a.tar"]
[model]
path = "{folder}/checkpoint"
dtype = "float32"
[[prompt]]
id = "short"
text = "What is it?"
[unit]
max_assets = 1
[output]
uri = "{folder}/out"
[cluster]
replicas = 1
gpus_per_replica = {gpus}
gpu_memory_gib = 1
"""
# The command line on a cluster that says it has a GPU.
WITH_GPU = """
import os, sys
from ray.cluster_utils import Cluster
from jobs.cli import main
cluster = Cluster(initialize_head=True, head_node_args={"num_gpus": 1, "include_dashboard": False})
os.environ["RAY_ADDRESS"] = cluster.address
main(sys.argv[1:])
"""
COMMAND = "from jobs.cli import main; main()"
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Done:
    """How a run ended: exit code, lines on standard error, whatever was on standard output."""

    code: int
    lines: list[str]
    output: str


def started(folder: Path, command: str = COMMAND, gpus: int = 0) -> Done:
    """`captionmill run` over four pictures in units of one, with the checkpoint in `folder`."""
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i in range(4):
            sink = io.BytesIO()
            Image.new("RGB", (30, 40), (i, 0, 0)).save(sink, "PNG")
            entry = tarfile.TarInfo(f"{i}.png")
            entry.size = sink.tell()
            tar.addfile(entry, io.BytesIO(sink.getvalue()))
    (folder / "job.toml").write_text(JOB.format(folder=folder, gpus=gpus))
    done = subprocess.run(
        [sys.executable, "-c", command, "run", str(folder / "job.toml")],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # seconds it takes; a replica that is started over and over would never end
    )
    return Done(done.returncode, done.stderr.splitlines(), done.stdout)


def absent(weights: Weights) -> None:
    """Without the newline."""
    del weights["image_newline"]


def misshapen(weights: Weights) -> None:
    """With a newline that is too long."""
    weights["image_newline"] = torch.zeros(65)


@pytest.mark.parametrize(
    ("harm", "message"),
    [(absent, "missing weights: model.image_newline"), (misshapen, "mismatched weights: ")],
)
def test_wrong_weights_end_the_run_with_one_message(
    tmp_path: Path, harm: Callable[[Weights], None], message: str
) -> None:
    (tmp_path / "checkpoint").mkdir()
    file = write(tmp_path / "checkpoint") / "model.safetensors"
    weights = load_file(file)
    harm(weights)
    save_file(weights, file, {"format": "pt"})

    done = started(tmp_path)

    assert (done.code, done.output) == (2, "")
    assert [line for line in done.lines if line.startswith("✗")] == [
        line for line in done.lines if message in line
    ]
    assert sum(message in line for line in done.lines) == 1
    assert len(done.lines) <= 10, done.lines


def test_a_gpu_that_torch_does_not_see_ends_the_run_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    write(tmp_path / "checkpoint")

    done = started(tmp_path, WITH_GPU, gpus=1)

    assert done.code == 2
    assert sum("torch sees 0" in line for line in done.lines) == 1
    assert sum(line.startswith("✗") for line in done.lines) == 1
