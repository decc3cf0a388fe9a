"""pipeline.provenance: every column of every row, from what the unit knows."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.columns import CAPTIONS, FAILURES, PART
from pipeline.provenance import NAMESPACE, part_table
from pipeline.types import Answer, Captioned, Code, Finish, Problem, Stage, Turn
from tests import made

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def rows(captioned: Captioned) -> list[dict[str, Any]]:
    """The part's rows in order."""
    table = part_table(captioned, made.CONTEXT, NOW)
    assert table.schema == PART
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def test_there_is_a_row_per_answer_in_order() -> None:
    found = rows(made.captioned(count=3, failed=(1,)))

    assert [(r["key"], r["row"], r["prompt_id"]) for r in found] == [
        ("k000", "caption", "short"),
        ("k000", "caption", "long"),
        ("k001", "failure", None),
        ("k002", "caption", "short"),
        ("k002", "caption", "long"),
    ]


def test_a_caption_of_an_image_says_all_there_is_to_say() -> None:
    asset = made.asset(0, 0)
    text = f"k000 long {asset.sha256}"

    row = rows(made.captioned(count=1))[1]

    assert {name: row[name] for name in CAPTIONS.names} == {
        "asset_id": asset.asset_id,
        "asset_uuid": str(uuid.uuid5(NAMESPACE, asset.asset_id)),
        "dataset": "birds",
        "shard": "a/000000.tar",
        "key": "k000",
        "media": "image",
        "content_sha256": asset.sha256,
        "content_bytes": 300,
        "width": 640,
        "height": 480,
        "duration_s": None,
        "prompt_id": "long",
        "caption": text,
        "caption_text": text,
        "finish_reason": "stop",
        "flags": [],
        "mean_logprob": -0.25,
        "n_prompt_tokens": 40,
        "n_visual_tokens": 30,
        "n_output_tokens": 3,
        "attempt": 0,
        "grid_rows": 2,
        "grid_cols": 3,
        "n_crops": 7,
        "frame_pts_s": None,
        "duplicate_of": None,
        "model": "owner/model",
        "model_revision": "0" * 40,
        "recipe_id": "recipe0",
        "run_id": "run0",
        "unit_id": "000000-00000000-00001",
        "created_at": NOW,
    }


def test_a_caption_of_several_images_has_no_grid() -> None:
    row = rows(made.captioned(count=2))[2]

    assert (row["media"], row["width"], row["height"], row["n_crops"]) == ("images", 640, 480, 2)
    assert (row["grid_rows"], row["grid_cols"]) == (None, None)


def test_a_caption_of_a_video_has_its_frame_times() -> None:
    row = rows(made.captioned(count=3))[4]

    assert (row["media"], row["duration_s"], row["frame_pts_s"]) == ("video", 2.5, [0.0, 1.25, 2.4])
    assert (row["grid_rows"], row["grid_cols"]) == (None, None)


def test_a_failure_says_all_there_is_to_say() -> None:
    asset = made.asset(0, 0)

    (row,) = rows(made.captioned(count=1, failed=(0,)))

    assert {name: row[name] for name in FAILURES.names} == {
        "asset_id": asset.asset_id,
        "asset_uuid": str(uuid.uuid5(NAMESPACE, asset.asset_id)),
        "dataset": "birds",
        "shard": "a/000000.tar",
        "key": "k000",
        "media": "image",
        "content_sha256": asset.sha256,
        "prompt_id": None,
        "stage": "decode",
        "error_code": "corrupt",
        "error_message": "the decoder gave up",
        "retriable": False,
        "recipe_id": "recipe0",
        "run_id": "run0",
        "unit_id": "000000-00000000-00001",
        "created_at": NOW,
    }


def answered(outcome: Any, prompt_id: str | None = "long") -> dict[str, Any]:
    """The row of one answer."""
    unit = made.captioned(count=1)
    (row,) = rows(replace(unit, answers=(Answer(0, unit.assets[0].sha256, prompt_id, outcome),)))
    return row


@pytest.mark.parametrize(
    ("code", "retriable"),
    [
        (Code.CORRUPT, False),
        (Code.TOO_LARGE, False),
        (Code.MISSING_FIELD, False),
        (Code.DECODER_TIMEOUT, True),
        (Code.DECODER_CRASHED, True),
        (Code.CONTENT_CHANGED, True),
        (Code.OUT_OF_MEMORY, True),
        (Code.REPLICA_DIED, True),
    ],
)
def test_what_may_pass_is_retriable(code: Code, retriable: bool) -> None:
    assert answered(Problem(Stage.DECODE, code, "x"))["retriable"] is retriable


def test_a_failure_of_one_prompt_names_the_prompt() -> None:
    row = answered(Problem(Stage.PROMPT, Code.MISSING_FIELD, "no title"))

    assert (row["row"], row["prompt_id"], row["stage"]) == ("failure", "long", "prompt")


def test_an_asset_that_could_not_be_read_has_no_digest() -> None:
    unit = made.captioned(count=1, failed=(0,))
    asset = replace(unit.assets[0], sha256="", media=None)

    (row,) = rows(replace(unit, assets=(asset,)))

    assert (row["content_sha256"], row["media"]) == (None, None)


def test_a_long_message_is_cut_to_three_hundred_characters() -> None:
    assert len(answered(Problem(Stage.READ, Code.CORRUPT, "x" * 1000), None)["error_message"]) == 300


def test_a_message_is_one_line_that_is_safe_to_show() -> None:
    message = 'no decoder for "a\u202e\x1b[31m.jpg"\n(libfoo: bad)\n'

    row = answered(Problem(Stage.DECODE, Code.CORRUPT, message), None)

    assert row["error_message"] == 'no decoder for "a.jpg" (libfoo: bad)'


def test_the_caption_stays_as_the_model_said_it_beside_its_safe_text() -> None:
    said = replace(
        made.caption(made.asset(0, 0), "long"), text=" a\u202e \x1b[31mcat\n", finish=Finish.LENGTH
    )

    row = answered(said)

    assert (row["caption"], row["caption_text"]) == (" a\u202e \x1b[31mcat\n", "a cat")
    assert (row["flags"], row["finish_reason"]) == (["truncated"], "length")


def test_an_echo_is_of_the_prompt_that_was_asked() -> None:
    said = replace(made.caption(made.asset(0, 0), "long"), text="Describe the image in detail.")

    assert (answered(said)["flags"], answered(said, "short")["flags"]) == (["prompt_echo"], [])


def test_an_echo_is_of_the_conversation_about_the_kind_of_asset() -> None:
    prompt = replace(made.PROMPTS[1], video=(Turn("user", "What happens in the clip?"),))
    context = replace(made.CONTEXT, prompts=(made.PROMPTS[0], prompt))
    unit = made.captioned(count=3)
    said = replace(made.caption(unit.assets[0], "long"), text="What happens in the clip?")
    both = tuple(Answer(i, unit.assets[i].sha256, "long", said) for i in (0, 2))

    table = part_table(replace(unit, answers=both), context, NOW)

    assert table["media"].to_pylist() == ["image", "video"]
    assert table["flags"].to_pylist() == [[], ["prompt_echo"]]


@pytest.mark.parametrize("overflow", [float("nan"), float("-inf")])
def test_a_log_probability_that_overflowed_is_null(overflow: float) -> None:
    said = replace(made.caption(made.asset(0, 0), "long"), mean_logprob=overflow)

    assert answered(said)["mean_logprob"] is None
