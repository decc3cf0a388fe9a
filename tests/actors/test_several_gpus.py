"""A model over several GPUs, where there is none: torch's fake tensors refuse what two devices meet in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.checkpoints import write

ROOT = Path(__file__).parents[2]


def test_a_model_whose_layers_lie_on_four_gpus_meets_no_tensor_of_another_one(tmp_path: Path) -> None:
    write(tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "tests.actors.pretended", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    layers, caches = done.stdout.split()[:2], done.stdout.split()[2:4]
    assert layers == caches == ["pretended:2", "pretended:3"]  # keys and values lie beside their layer
    assert done.stdout.split()[-1] == "pretended:0"
