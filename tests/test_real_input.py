"""The whole product on real photographs and clips, from a bucket of a real S3 server into the same bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import s3fs
from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from tests.conftest import Store
from tests.realworld import Expected, Timeline, build

pytestmark = [pytest.mark.slow, pytest.mark.s3]

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "jobs" / "demo" / "checkpoint"
FRAMES = 16
PROMPTS = ("describe", "titled")
JOB = """
[input]
dataset = "real"
uris = ["{store}/shards/{{photos,clips}}-*.tar", "{store}/shards/*.parquet"]
key_column = "id"

[model]
path = "demo"
dtype = "float32"

[[prompt]]
id = "describe"
text = "Describe the picture."

[[prompt]]
id = "titled"
text = "List the shapes in {{title}}."

[generation]
max_new_tokens = 32

[video]
frames = {frames}

[output]
uri = "{store}/captions"

[cluster]
replicas = 1
gpus_per_replica = 0
"""
COLUMNS = (
    "key, shard, media, content_sha256, content_bytes, width, height, duration_s, prompt_id, caption, n_crops"
)
COLUMNS += ", n_prompt_tokens, n_visual_tokens, n_output_tokens, grid_rows, grid_cols, frame_pts_s, run_id"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Published:
    """What a run left in the bucket, read with DuckDB, beside what went in."""

    expected: tuple[Expected, ...]
    captions: tuple[Row, ...]
    failures: tuple[Row, ...]
    snapshot: Mapping[str, Any]

    def pairs(self, *media: str) -> list[tuple[Expected, Row]]:
        """Each row of these media with what is expected of its asset."""
        assets = {one.key: one for one in self.expected}
        return [(assets[row["key"]], row) for row in self.captions if row["media"] in media]


@pytest.fixture(scope="module")
def published(
    ceph_store: Store, ffprobe: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("real")
    expected = build(folder / "shards", ffprobe)
    with ceph_store.entered() as store:
        s3fs.S3FileSystem().put(str(folder / "shards"), f"{store}/shards", recursive=True)
        job = folder / "job.toml"
        job.write_text(JOB.format(store=store, frames=FRAMES))
        _caption(job)
        yield _read(f"{store}/captions", expected)


def _caption(job: Path) -> None:
    """What a person types, in a process of its own."""
    command = [sys.executable, "-m", "jobs.cli", "run", str(job)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _read(output: str, expected: Sequence[Expected]) -> Published:
    files = s3fs.S3FileSystem()
    with duckdb.connect() as database:
        database.register_filesystem(files)

        def rows(columns: str, table: str) -> tuple[Row, ...]:
            query = f"SELECT {columns} FROM read_parquet('{output}/{table}/**/*.parquet')"
            return tuple(database.sql(query).to_arrow_table().to_pylist())

        captions, failures = rows(COLUMNS, "captions"), rows("key, error_code, error_message", "failures")
    snapshot = json.loads(files.cat_file(f"{output}/snapshot.json"))
    return Published(tuple(expected), captions, failures, snapshot)


class Reference(LlavaOnevisionProcessor):
    """transformers' own arithmetic of crops and visual tokens, without the video processor's torchvision."""

    def __init__(self, checkpoint: Path) -> None:
        settings = json.loads((checkpoint / "processor_config.json").read_text())
        self.image_processor: Any = LlavaOnevisionImageProcessorPil.from_pretrained(checkpoint)
        self.tile: int = self.image_processor.size["height"]
        self.num_image_tokens: int = settings["num_image_tokens"]
        self.vision_aspect_ratio = LlavaOnevisionConfig.from_pretrained(checkpoint).vision_aspect_ratio
        self.vision_feature_select_strategy: str = settings["vision_feature_select_strategy"]
        self.image_token, self.video_token = "i", "v"

    def grid(self, expected: Expected) -> tuple[int, int]:
        """(rows, columns) of a single picture's tiles."""
        width, height = expected.sizes[0]
        best = select_best_resolution((height, width), self.image_processor.image_grid_pinpoints)
        return best[0] // self.tile, best[1] // self.tile

    def counts(self, expected: Expected) -> tuple[int | None, int | None, int, int]:
        """grid_rows, grid_cols, n_crops and n_visual_tokens, as the table has them."""
        tokens = self.tokens(expected)
        if expected.media == "image":
            rows, columns = self.grid(expected)
            return rows, columns, 1 + rows * columns, tokens
        return None, None, _n_frames(expected) if expected.timeline else len(expected.sizes), tokens

    def tokens(self, expected: Expected) -> int:
        """How many tokens stand for the asset in a prompt."""
        frames = np.zeros((1, _n_frames(expected), 3, self.tile, self.tile), np.uint8)
        if expected.media == "video":
            return len(self.replace_video_token({"pixel_values_videos": frames}, 0))
        sizes = [[height, width] for width, height in expected.sizes]
        inputs = {"batch_num_images": [len(sizes)], "image_sizes": sizes, "pixel_values": frames[:, None]}
        return sum(len(self.replace_image_token(inputs, i)) for i in range(len(sizes)))


def _n_frames(expected: Expected) -> int:
    return min(FRAMES, len(expected.timeline.starts_s)) if expected.timeline else 1


def _frames_on_display(timeline: Timeline) -> list[float]:
    """When the frames begin that are shown in the middle of each of FRAMES equal parts of the clip; all if fewer."""
    starts = timeline.starts_s
    if len(starts) <= FRAMES:
        return list(starts)
    middles = [(i + 0.5) * timeline.end_s / FRAMES for i in range(FRAMES)]
    return [starts[bisect_right(starts, middle) - 1] for middle in middles]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(CHECKPOINT)


def test_enough_real_input(published: Published) -> None:
    kinds = Counter(one.media for one in published.expected)
    turned = {
        "cmyk",
        "16-bit",
        "palette",
        "exif",
        "progressive",
        "webp",
        "avif",
        "animated",
        "portrait",
        "panorama",
    }

    assert kinds["image"] >= 16
    assert kinds["video"] >= 3
    assert turned <= {one.kind for one in published.expected}


def test_every_asset_has_each_caption_once(published: Published) -> None:
    rows = Counter((Path(row["shard"]).name, row["key"], row["prompt_id"]) for row in published.captions)

    assert published.failures == ()
    assert rows == Counter((one.shard, one.key, prompt) for one in published.expected for prompt in PROMPTS)
    assert all(row["n_output_tokens"] > 0 for row in published.captions)


def test_the_snapshot_is_of_this_run(published: Published) -> None:
    text = json.dumps(published.snapshot)

    assert {row["run_id"] for row in published.captions} == {published.snapshot["run_id"]}
    assert "testsecret" not in text


def test_digests_are_those_of_the_bytes(published: Published) -> None:
    wrong = [
        row["key"]
        for one, row in published.pairs("image", "images", "video")
        if row["content_sha256"] != one.sha256
    ]

    assert wrong == []


def test_media_and_upright_sizes(published: Published) -> None:
    pairs = published.pairs("image", "images", "video")

    assert [(one.key, row["media"], (row["width"], row["height"])) for one, row in pairs] == [
        (one.key, one.media, one.sizes[0]) for one, _ in pairs
    ]


def test_crops_and_visual_tokens_are_transformers(published: Published, reference: Reference) -> None:
    pairs = published.pairs("image", "images", "video")
    columns = ("grid_rows", "grid_cols", "n_crops", "n_visual_tokens")

    assert [(one.key, *(row[name] for name in columns)) for one, row in pairs] == [
        (one.key, *reference.counts(one)) for one, _ in pairs
    ]
    assert all(row["n_prompt_tokens"] > row["n_visual_tokens"] for _, row in pairs)


def test_frames_are_those_that_ffprobe_lists_in_the_middle_of_each_part(published: Published) -> None:
    pairs = published.pairs("video")

    assert pairs
    for one, row in pairs:
        assert one.timeline is not None
        assert row["frame_pts_s"] == pytest.approx(_frames_on_display(one.timeline), abs=1e-5), one.key
        assert row["duration_s"] == pytest.approx(one.timeline.end_s, abs=1e-5), one.key


def test_pictures_have_neither_frames_nor_a_duration(published: Published) -> None:
    rows = [row for _, row in published.pairs("image", "images")]

    assert {row["duration_s"] for row in rows} == {None}
    assert not any(row["frame_pts_s"] for row in rows)
