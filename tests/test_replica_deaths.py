"""Replicas that die by SIGKILL of what they are given, in real runs: how often, and what becomes of the rows."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from actors.captioner import ASSET_DEATHS, UNIT_DEATHS
from jobs.preflight import check
from jobs.run import actors, run
from pipeline.config import read
from tests import made
from tests.mortal import Mortal

ASSETS, EACH = 24, 6  # of the run, of one unit
CULPRITS = (8, 10)  # both in the second unit
JOB = """
[input]
dataset = "colours"
uris = ["{folder}/*.tar"]
[model]
path = "{folder}/checkpoint"
[[prompt]]
id = "short"
text = "What is it?"
[[prompt]]
id = "long"
text = "Describe the image in detail."
[unit]
max_assets = {each}
[output]
uri = "{folder}/out"
[cluster]
replicas = 2
gpus_per_replica = 0
"""


def shard(path: Path) -> list[str]:
    """Write a tar of pictures that all differ. Their digests."""
    digests = []
    with tarfile.open(path, "w") as tar:
        for i in range(ASSETS):
            sink = io.BytesIO()
            Image.new("RGB", (20 + i, 30), (9 * i, 99, 77)).save(sink, "PNG")
            entry = tarfile.TarInfo(f"{i:03d}.png")
            entry.size = sink.tell()
            tar.addfile(entry, io.BytesIO(sink.getvalue()))
            digests.append(hashlib.sha256(sink.getvalue()).hexdigest())
    return digests


@pytest.mark.slow
def test_two_assets_of_one_unit_that_kill_replicas_are_two_failures_and_all_else_is_captioned(
    ray_local: None, tmp_path: Path
) -> None:
    digests, deaths = shard(tmp_path / "a.tar"), tmp_path / "deaths"
    made.checkpoint(tmp_path / "checkpoint")
    ready = check(read(JOB.format(folder=tmp_path, each=EACH)))
    made_of = actors(ready)
    mortal = partial(Mortal, culprits=frozenset(digests[i] for i in CULPRITS), deaths=str(deaths))
    captioner = replace(made_of.captioner, kwargs={**made_of.captioner.kwargs, "replica": mortal})

    told = run(ready, replace(made_of, captioner=captioner), Console(stderr=True))

    batches = [int(line) for line in deaths.read_text().splitlines()]
    print(
        f"{len(batches)} replicas died, of batches of {batches} requests; failures {told['failures_by_code']}"
    )
    assert told["failures_by_code"] == {"replica_died": len(CULPRITS)}
    assert batches == [EACH * 2] * UNIT_DEATHS + [2] * ASSET_DEATHS * len(CULPRITS)
    (failures,) = (tmp_path / "out" / "failures").rglob("*.parquet")
    rows = pq.read_table(failures).to_pylist()
    assert {row["content_sha256"] for row in rows} == {digests[i] for i in CULPRITS}
    assert {(row["prompt_id"], row["stage"], row["retriable"]) for row in rows} == {(None, "generate", True)}
    (captions,) = (tmp_path / "out" / "captions").rglob("*.parquet")
    captioned = [(row["content_sha256"], row["prompt_id"]) for row in pq.read_table(captions).to_pylist()]
    whole = {digests[i] for i in range(ASSETS) if i not in CULPRITS}
    assert sorted(captioned) == sorted((sha256, prompt) for sha256 in whole for prompt in ("long", "short"))
