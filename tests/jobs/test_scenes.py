"""The demo domain: deterministic, captions that follow the pixels, shards with the same bytes every time."""

import io
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from jobs.demo import lesson, shards
from jobs.demo.scenes import (
    COLOURS,
    GRIDS,
    HELD_OUT_SEEDS,
    KINDS,
    PROMPTS,
    TILE,
    TRAIN_SEEDS,
    Kind,
    Scene,
    scene,
)

SEED = HELD_OUT_SEEDS.start
CHECKPOINT = Path(lesson.__file__).parent / "checkpoint"


def spot(picture: np.ndarray) -> np.ndarray:
    """The centre (y, x) and size in pixels of what is not gray."""
    y, x = np.nonzero(np.ptp(picture.astype(int), axis=2) > 60)
    return np.array([y.mean(), x.mean(), y.size])


def colour(picture: np.ndarray) -> str:
    """The name nearest to what is not gray."""
    seen = picture[np.ptp(picture.astype(int), axis=2) > 60].mean(0)
    return min(COLOURS, key=lambda name: float(np.abs(seen - COLOURS[name]).sum()))


def said(clip: Scene) -> str:
    """What a reader of the pixels says happens in the clip, from its first and last frame alone."""
    first, last = spot(clip.pictures[0]), spot(clip.pictures[-1])
    if colour(clip.pictures[0]) != colour(clip.pictures[-1]):
        return f"turns {colour(clip.pictures[-1])}"
    if not 0.7 < last[2] / first[2] < 1.4:
        return "grows" if last[2] > first[2] else "shrinks"
    down, right = (last - first)[:2] / clip.pictures[0].shape[:2]
    if max(abs(down), abs(right)) < 0.1:
        return "stays still"
    if abs(down) > abs(right):
        return "moves down" if down > 0 else "moves up"
    return "moves to the right" if right > 0 else "moves to the left"


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_scene(kind: Kind) -> None:
    one, again, other = scene(kind, SEED), scene(kind, SEED), scene(kind, SEED + 2)
    assert one.truth == again.truth
    assert one.truth.keys() == PROMPTS.keys()
    assert all(np.array_equal(a, b) for a, b in zip(one.pictures, again.pictures, strict=True))
    assert not np.array_equal(one.pictures[0], other.pictures[0])


def test_training_never_sees_a_held_out_seed() -> None:
    assert TRAIN_SEEDS.stop <= HELD_OUT_SEEDS.start < shards.SEED < HELD_OUT_SEEDS.stop


def test_single_pictures_cover_the_grids_evenly() -> None:
    sizes = [scene("image", SEED + i).pictures[0].shape[:2] for i in range(5 * len(GRIDS))]
    grids = [(-(-height // TILE), -(-width // TILE)) for height, width in sizes]
    assert all(grids.count(grid) == 5 for grid in GRIDS)


def test_clips_have_4_to_16_frames_and_sets_2_or_3_pictures() -> None:
    assert {len(scene("video", SEED + i).pictures) for i in range(13)} == set(range(4, 17))
    assert {len(scene("images", SEED + i).pictures) for i in range(4)} == {2, 3}


def test_the_words_of_a_clip_follow_its_pixels_and_so_turn_with_its_frames() -> None:
    turned = {"moves to the right": "moves to the left", "moves up": "moves down", "grows": "shrinks"}
    turned |= {after: before for before, after in turned.items()}
    for i in range(40):
        clip = scene("video", SEED + i)
        assert clip.truth["describe"].endswith(said(clip)), clip.truth
        back = Scene("video", clip.pictures[::-1], clip.truth)
        if said(clip) in turned:
            assert said(back) == turned[said(clip)]
        elif said(clip) != "stays still":
            assert said(back) == f"turns {clip.truth['list'].split()[0]}"


def test_the_words_of_a_set_follow_the_order_of_its_pictures() -> None:
    for i in range(10):
        one = scene("images", SEED + i)
        assert [name.split()[0] for name in one.truth["list"].split(", ")] == [*map(colour, one.pictures)]


def test_training_sees_the_pixels_that_transformers_makes() -> None:
    processor = LlavaOnevisionImageProcessorPil.from_pretrained(CHECKPOINT)
    for i in range(2 * len(GRIDS)):
        (picture,) = scene("image", SEED + i).pictures
        made = processor(images=[picture], return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(lesson.normalise(lesson.crops(picture)), made)
        pictures = list(scene("images", SEED + i).pictures)
        nested: Any = [pictures]  # the hints know only flat lists
        made = processor(images=nested, return_tensors="pt").pixel_values.flatten(0, 1)
        torch.testing.assert_close(lesson.normalise(np.concatenate([*map(lesson.portrait, pictures)])), made)


def test_shards_have_the_same_bytes_twice(tmp_path: Path) -> None:
    first = shards.write_shards(tmp_path / "a", 12)
    assert shards.write_shards(tmp_path / "b", 12) == first
    names = sorted(path.name for path in (tmp_path / "a" / "shards").iterdir())
    assert names == ["clips-0.tar", "images-0.tar", "images-1.tar", "several-0.tar", "table-0.parquet"]
    for name in names:
        assert (tmp_path / "a/shards" / name).read_bytes() == (tmp_path / "b/shards" / name).read_bytes()


def test_turned_pictures_are_upright_by_their_exif(tmp_path: Path) -> None:
    shards.write_shards(tmp_path, 12)
    turned = 0
    for name in ("images-0.tar", "images-1.tar"):
        with tarfile.open(tmp_path / "shards" / name) as tar:
            for member in tar:
                stored = tar.extractfile(member)
                assert stored is not None
                image = Image.open(io.BytesIO(stored.read()))
                turned += image.getexif().get(shards.ORIENTATION, 1) != 1
                upright = np.asarray(ImageOps.exif_transpose(image)).astype(int)
                drawn = scene("image", shards.SEED + int(member.name[8:12])).pictures[0]
                assert np.abs(upright - drawn).mean() < 6
    assert turned == 2


def test_clips_decode_to_their_frames_a_quarter_second_apart() -> None:
    clip = scene("video", SEED + 5)
    with av.open(io.BytesIO(shards.mp4(clip.pictures)), "r") as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == [i / 4 for i in range(len(clip.pictures))]
    seen = Scene("video", tuple(frame.to_ndarray(format="rgb24") for frame in frames), clip.truth)
    assert clip.truth["describe"].endswith(said(seen))


def test_the_table_has_the_hub_s_image_column(tmp_path: Path) -> None:
    truth = shards.write_shards(tmp_path, 12)
    rows = pq.read_table(tmp_path / "shards" / "table-0.parquet").to_pylist()
    assert [row["image"]["path"] for row in rows] == [f"{row['key']}.png" for row in rows]
    assert [truth[row["key"]]["kind"] for row in rows] == ["image"] * 6
