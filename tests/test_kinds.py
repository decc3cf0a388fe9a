"""A job that asks each kind of asset something else, from shards to the published table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests import made
from tests.double import caption_with_doubles
from tests.films import Film
from tests.pipeline.conftest import picture, tar_bytes

pytestmark = pytest.mark.slow

JOB = """
[input]
dataset = "kinds"
uris = ["{folder}/a.tar"]
[model]
path = "{folder}/checkpoint"
[[prompt]]
id = "compare"
[prompt.images]
turns = [{{ user = "What is this?", images = 1 }}, {{ assistant = "A boat." }}, {{ user = "And this?", images = 1 }}]
[[prompt]]
id = "funny"
video = {{ text = "The title is {{txt}}. Why is it funny?" }}
[[prompt]]
id = "many"
images = {{ text = "What do they have in common?" }}
video = {{ text = "What happens?" }}
[output]
uri = "{folder}/out"
[cluster]
replicas = 1
gpus_per_replica = 0
"""
MEMBERS = [
    ("single.png", picture(form="PNG")),
    ("pair.0.png", picture(form="PNG", colour=1)),
    ("pair.1.png", picture(form="PNG", colour=2)),
    *((f"three.{i}.png", picture(form="PNG", colour=i)) for i in range(3)),
    ("titled.mp4", Film().data()),
    ("titled.txt", b"Boats"),
    ("untitled.mp4", Film(times_ms=range(0, 1000, 40)).data()),
    ("broken.jpg", b"<html>"),
]
EXPECTED = {
    ("single", None, "no_prompt"),
    ("pair", "compare", "caption"),
    ("pair", "many", "caption"),
    ("three", "compare", "image_count"),
    ("three", "many", "caption"),
    ("titled", "funny", "caption"),
    ("titled", "many", "caption"),
    ("untitled", "funny", "missing_field"),
    ("untitled", "many", "caption"),
    ("broken", None, "unidentified"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> list[dict[str, Any]]:
    """The published rows of both tables."""
    folder: Path = tmp_path_factory.mktemp("kinds")
    (folder / "a.tar").write_bytes(tar_bytes(MEMBERS))
    made.checkpoint(folder / "checkpoint")
    told = caption_with_doubles(JOB.format(folder=folder), Console(stderr=True))
    files = [folder / "out" / f["path"] for table in ("captions", "failures") for f in told[table]["files"]]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def test_every_asset_has_an_outcome_for_each_prompt_about_its_kind_and_no_other(
    rows: list[dict[str, Any]],
) -> None:
    found = [(row["key"], row["prompt_id"], row.get("error_code", "caption")) for row in rows]

    assert sorted(found, key=str) == sorted(EXPECTED, key=str)


def test_what_nobody_asks_about_says_so(rows: list[dict[str, Any]]) -> None:
    (single,) = [row for row in rows if row["key"] == "single"]

    assert (single["stage"], single["error_message"]) == (
        "prompt",
        "no prompt of the job asks about single images",
    )
    assert single["retriable"] is False
