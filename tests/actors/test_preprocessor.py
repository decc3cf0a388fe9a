"""Units of real shards, with good and bad assets: each is a sample or a failure, once, in order."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actors.preprocessor import Preprocessor
from actors.sandbox import Sandbox
from pipeline.anyres import Geometry
from pipeline.commit import Parts
from pipeline.config import ImageConfig, InputConfig, VideoConfig
from pipeline.index import scan
from pipeline.messages import table_to_done, unit_to_table
from pipeline.shards import list_shards
from pipeline.storage import MissingError, put
from pipeline.types import Asset, Code, Cost, Media, Prepared, Problem, Shard, ShardFormat, Size, Stage, Unit
from pipeline.video import n_samples
from tests.films import Film

GEOMETRY = Geometry.from_checkpoint({"model_type": "llava_onevision"}, {}, None)
NEXT = Geometry.from_checkpoint({"model_type": "llava_next"}, {"size": 336, "crop_size": 336}, None)
VIDEO = VideoConfig(frames=4)


@pytest.fixture(scope="module")
def preprocessor() -> Iterator[Preprocessor]:
    with Preprocessor(ImageConfig(), VIDEO, GEOMETRY) as made:
        yield made


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(ImageConfig(), VIDEO) as made:
        yield made


def photo(width: int, height: int, format: str = "JPEG") -> bytes:
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, format)
    return sink.getvalue()


def tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def indexed(path: Path, sandbox: Sandbox) -> tuple[Shard, list[Asset]]:
    (shard,) = list_shards([str(path)])
    return shard, list(scan(shard, InputConfig("d", (str(path),)), sandbox.probes))


def unit(shard: Shard, assets: list[Asset]) -> Unit:
    return Unit("unit", shard, 0, len(assets), Cost(0, 0, 0))


def problem(prepared: Prepared) -> Problem:
    (answer,) = prepared.problems
    assert isinstance(answer.outcome, Problem)
    return answer.outcome


def test_a_unit_of_everything_is_conserved(
    tmp_path: Path, preprocessor: Preprocessor, sandbox: Sandbox
) -> None:
    members = {
        "a.jpg": photo(640, 480),
        "b.0.png": photo(20, 10, "PNG"),
        "b.1.png": photo(10, 20, "PNG"),
        "c.mp4": Film().data(),
        "d.jpg": photo(100, 100)[:-200],
        "e.jpg": b"<html>",
        "f.webp": photo(30, 30, "WEBP"),
    }
    shard, assets = indexed(tar(tmp_path / "s.tar", members), sandbox)
    prepared = preprocessor.prepare(unit(shard, assets), assets)

    assert [s.view.position for s in prepared.samples] == [0, 1, 2, 5]
    assert [a.position for a in prepared.problems] == [3, 4]
    assert [s.view.media for s in prepared.samples] == [Media.IMAGE, Media.IMAGES, Media.VIDEO, Media.IMAGE]
    assert prepared.assets == tuple(assets)


def test_samples_are_what_the_index_promised(
    tmp_path: Path, preprocessor: Preprocessor, sandbox: Sandbox
) -> None:
    members = {"a.jpg": photo(640, 480), "c.mp4": Film().data()}
    shard, assets = indexed(tar(tmp_path / "s.tar", members), sandbox)
    image, film = preprocessor.prepare(unit(shard, assets), assets).samples
    facts = assets[1].facts
    assert not isinstance(facts, Problem | tuple)

    assert len(image.crops) == GEOMETRY.cost(Media.IMAGE, [Size(640, 480)], 0).crops == image.view.n_crops
    assert (image.view.grid, image.view.sizes) == ((2, 2), (Size(640, 480),))
    assert len(film.crops) == n_samples(facts, VIDEO) == len(film.view.frame_pts_s)
    assert film.view.frame_pts_s == pytest.approx([0.24, 0.72, 1.24, 1.72])
    assert [sample.view.sha256 for sample in (image, film)] == [asset.sha256 for asset in assets]


def test_a_decoding_error_is_a_problem_of_that_asset(
    tmp_path: Path, preprocessor: Preprocessor, sandbox: Sandbox
) -> None:
    """A header that is good, and pixels that end early: only decoding finds out."""
    shard, assets = indexed(tar(tmp_path / "s.tar", {"d.jpg": photo(100, 100)[:-200]}), sandbox)
    found = problem(preprocessor.prepare(unit(shard, assets), assets))

    assert (found.stage, found.code) == (Stage.DECODE, Code.TRUNCATED)


def test_an_index_problem_keeps_its_stage(
    tmp_path: Path, preprocessor: Preprocessor, sandbox: Sandbox
) -> None:
    shard, assets = indexed(tar(tmp_path / "s.tar", {"e.jpg": b"<html>"}), sandbox)
    found = problem(preprocessor.prepare(unit(shard, assets), assets))

    assert (found.stage, found.code) == (Stage.INDEX, Code.UNIDENTIFIED)


def test_other_bytes_than_were_indexed_are_noticed(
    tmp_path: Path, preprocessor: Preprocessor, sandbox: Sandbox
) -> None:
    shard, assets = indexed(tar(tmp_path / "s.tar", {"a.jpg": photo(64, 48)}), sandbox)
    assets = [replace(assets[0], sha256="0" * 64)]
    found = problem(preprocessor.prepare(unit(shard, assets), assets))

    assert (found.stage, found.code) == (Stage.READ, Code.CONTENT_CHANGED)


def test_another_size_than_was_indexed_is_noticed(
    tmp_path: Path, preprocessor: Preprocessor, sandbox: Sandbox
) -> None:
    shard, assets = indexed(tar(tmp_path / "s.tar", {"a.jpg": photo(64, 48)}), sandbox)
    assets = [replace(assets[0], facts=(Size(48, 64),))]
    found = problem(preprocessor.prepare(unit(shard, assets), assets))

    assert found.code is Code.CONTENT_CHANGED
    assert "48" in found.message


def test_several_images_are_each_tiled_where_the_checkpoint_does_so(tmp_path: Path, sandbox: Sandbox) -> None:
    members = {"b.0.png": photo(640, 480, "PNG"), "b.1.png": photo(100, 300, "PNG")}
    shard, assets = indexed(tar(tmp_path / "s.tar", members), sandbox)
    with Preprocessor(ImageConfig(), VIDEO, NEXT) as preprocessor:
        (sample,) = preprocessor.prepare(unit(shard, assets), assets).samples

    sizes = (Size(640, 480), Size(100, 300))
    assert (sample.view.media, sample.view.sizes, sample.view.grid) == (Media.IMAGES, sizes, (0, 0))
    assert len(sample.crops) == sum(NEXT.n_crops(Media.IMAGES, sizes, 0)) == sample.view.n_crops
    for i, (name, start) in enumerate((("b.0.png", 0), ("b.1.png", 5))):
        with Image.open(io.BytesIO(members[name])) as picture:
            crops = NEXT.crops(picture)
        np.testing.assert_array_equal(sample.crops[start:][: len(crops)], crops, f"image {i}")


def test_a_video_is_a_failure_where_the_checkpoint_takes_images_only(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """It is not decoded, nor read: what is wrong with its bytes does not matter."""
    members = {"a.jpg": photo(64, 48), "c.mp4": Film().data()}
    shard, assets = indexed(tar(tmp_path / "s.tar", members), sandbox)
    (film,) = assets[1].members
    assets[1] = replace(assets[1], members=(replace(film, offset=shard.bytes + 1),))
    with Preprocessor(ImageConfig(), VIDEO, NEXT) as preprocessor:
        prepared = preprocessor.prepare(unit(shard, assets), assets)
    found = problem(prepared)

    assert [s.view.position for s in prepared.samples] == [0]
    assert (found.stage, found.code) == (Stage.PROMPT, Code.UNSUPPORTED_MEDIA)
    assert "images only" in found.message
    assert "llava_onevision" in found.message
    assert (prepared.problems[0].position, prepared.problems[0].sha256) == (1, assets[1].sha256)
    assert prepared.assets == tuple(assets)


def test_a_video_that_the_index_could_not_read_keeps_that_problem(tmp_path: Path, sandbox: Sandbox) -> None:
    shard, assets = indexed(tar(tmp_path / "s.tar", {"c.mp4": Film().data()[:200]}), sandbox)
    with Preprocessor(ImageConfig(), VIDEO, NEXT) as preprocessor:
        found = problem(preprocessor.prepare(unit(shard, assets), assets))

    assert found.stage is Stage.INDEX


def test_a_unit_that_has_its_part_is_passed_on_and_nothing_of_its_shard_is_read(tmp_path: Path) -> None:
    parts = Parts(str(tmp_path), "run0")
    gone = Unit(
        "unit", Shard(f"{tmp_path}/gone.tar", "gone.tar", "1", 1, ShardFormat.TAR), 0, 1, Cost(0, 0, 0)
    )
    row = unit_to_table(gone, f"{tmp_path}/gone.parquet")
    with Preprocessor(ImageConfig(), VIDEO, GEOMETRY, parts) as preprocessor:
        with pytest.raises(MissingError):
            preprocessor(row)
        put(parts.uri("unit"), b"")

        assert table_to_done(preprocessor(row)) == gone
