"""The examples of transformers' documentation as job files: each says what transformers says of the same pictures.

Run as they stand, but for the paths, the device, and float32: small random checkpoints stand for the hub's.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console

from actors.loading import load_model
from jobs.preflight import check
from jobs.run import actors, run
from pipeline import video
from pipeline.config import Job, VideoConfig, read
from pipeline.toml import toml
from pipeline.types import Media, Pixels
from tests.checkpoints import Asked, Oracle
from tests.families.catalogue import FAMILIES, write
from tests.films import Film
from tests.pipeline.conftest import tar_bytes
from tests.realworld import photograph

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "jobs" / "examples"
FILM = Film().data()


@pytest.fixture(scope="module")
def pictures() -> dict[str, Pixels]:
    """Photographs of about 500 x 400, by key and place in the key."""
    names = {"a.0": "astronaut.png", "a.1": "chelsea.png", "b.0": "coffee.png"}
    return {key: photograph(name) for key, name in names.items()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, pictures: Mapping[str, Pixels]) -> dict[str, Path]:
    """What stands for each of the examples' inputs."""
    folder = tmp_path_factory.mktemp("input")
    files = {key: png(pixels) for key, pixels in pictures.items()}
    (folder / "photos").mkdir()
    for key, data in files.items():
        (folder / "photos" / f"{key}.png").write_bytes(data)
    members = [(f"{key}.png", data) for key, data in files.items()]
    (folder / "pairs.tar").write_bytes(tar_bytes(members))
    (folder / "clips.tar").write_bytes(tar_bytes([("baby.mp4", FILM)]))
    return {
        "photos/": folder / "photos",
        "pairs.tar": folder / "pairs.tar",
        "clips/*.tar": folder / "clips.tar",
    }


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small checkpoint for each that the examples name."""
    torch.set_num_threads(1)
    folder, wanted = tmp_path_factory.mktemp("hub"), {"onevision-qwen2", "next-mistral"}
    return {f.hub.rpartition("/")[2]: write(folder / f.name, f) for f in FAMILIES if f.name in wanted}


def standing_for(name: str, checkpoints: Mapping[str, Path]) -> Path:
    """The small checkpoint of the family and text tower that the example's is of."""
    family = "onevision" if "onevision" in name else "mistral"
    return next(folder for hub, folder in checkpoints.items() if family in hub)


def captioned(job_file: Path, shards: Mapping[str, Path], model: Path, output: Path) -> tuple[Job, Any]:
    """The job as it was run, and its published captions by key."""
    plain = read(job_file.read_text()).job()
    overrides = [
        f"input.uris=[{toml(str(shards[plain.input.uris[0]]))}]",
        f"model.path={model}",
        "model.dtype=float32",
        "cluster.gpus_per_replica=0",
        f"output.uri={output}",
    ]
    ready = check(read(job_file.read_text(), overrides))
    told = run(ready, actors(ready), Console(stderr=True))
    tables = [pq.ParquetFile(output / file["path"]).read() for file in told["captions"]["files"]]
    return ready.job, {row["key"]: row["caption"] for table in tables for row in table.to_pylist()}


def asked(job: Job, pictures: Mapping[str, Pixels]) -> dict[str, Asked]:
    """The job's assets by key, with the conversation about their kind."""
    kinds: dict[str, dict[str, tuple[Pixels, ...]]] = {
        "photos": {f"{key}.png": (pixels,) for key, pixels in pictures.items()},
        "pairs.tar": {"a": (pictures["a.0"], pictures["a.1"]), "b": (pictures["b.0"],)},
        "clips.tar": {"baby": tuple(frames(job.video))},
    }
    found = {}
    for key, shown in kinds[Path(job.input.uris[0]).name].items():
        media = Media.VIDEO if key == "baby" else Media.IMAGES if len(shown) > 1 else Media.IMAGE
        if turns := job.prompts[0].asked(media):
            found[key] = Asked(media, shown, turns)
    return found


def frames(limits: VideoConfig) -> list[Pixels]:
    return [np.asarray(picture) for picture, _ in video.watch(FILM, limits)[1]]


def said(oracle: Oracle, one: Asked, job: Job) -> str:
    text: str = oracle.processor.tokenizer.decode(
        oracle.greedy(one, job.generation.max_new_tokens), skip_special_tokens=True
    )
    return text


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.toml")))
def test_an_example_says_what_transformers_says(
    name: str,
    checkpoints: dict[str, Path],
    shards: dict[str, Path],
    pictures: dict[str, Pixels],
    tmp_path: Path,
    ray_local: None,
) -> None:
    model = standing_for(name, checkpoints)
    job, found = captioned(EXAMPLES / f"{name}.toml", shards, model, tmp_path / "captions")

    oracle = Oracle(model)
    if (
        job.model.quantization != "none"
    ):  # tests/actors/test_loading.py compares the weights with transformers'
        oracle.model = load_model(job.model, model, 0)
    expected = {key: said(oracle, one, job) for key, one in asked(job, pictures).items()}
    assert expected
    assert found == expected
