"""pipeline.prompt: turns and fields to chat messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import InputConfig, PromptConfig
from pipeline.draft import Probe
from pipeline.errors import MediaError
from pipeline.index import scan
from pipeline.prompt import ZERO_WIDTH_SPACE, Message, filled, messages, plain, problems
from pipeline.types import Code, Media, Shard, ShardFormat, Turn
from tests.pipeline.conftest import WriteTar, picture, shard

IMAGE: Message = {"type": "image"}
VIDEO: Message = {"type": "video"}
SPECIAL = ("<image>", "<|im_end|>")


def said(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}


def test_pictures_come_before_the_text_of_the_first_user_turn() -> None:
    turns = (
        Turn("system", "Be brief."),
        Turn("user", "What?"),
        Turn("assistant", "A cat."),
        Turn("user", "Where?"),
    )

    assert messages(turns, Media.IMAGES, 2, {}) == [
        {"role": "system", "content": [said("Be brief.")]},
        {"role": "user", "content": [IMAGE, IMAGE, said("What?")]},
        {"role": "assistant", "content": [said("A cat.")]},
        {"role": "user", "content": [said("Where?")]},
    ]


def test_a_video_is_one_entry_whatever_its_frames() -> None:
    chat = messages((Turn("user", "What happens?"),), Media.VIDEO, 16, {})

    assert chat == [{"role": "user", "content": [VIDEO, said("What happens?")]}]


def pictures(turns: Sequence[Turn], media: Media, n: int) -> list[list[Message]]:
    """The pictures that each message shows."""
    shown = []
    for message in messages(turns, media, n, {}):
        *before, words = cast("list[Message]", message["content"])
        assert words["type"] == "text"
        shown.append(before)
    return shown


def conversation(*images: int) -> tuple[Turn, ...]:
    """A conversation whose user turns show so many images."""
    turns = [turn for n in images for turn in (Turn("user", "And here?", n), Turn("assistant", "A cat."))]
    return (Turn("system", "Be brief."), *turns[:-1])


@pytest.mark.parametrize(
    ("said", "n", "shown"),
    [
        ((0, 0), 3, [0, 3, 0, 0]),
        ((1, 1), 2, [0, 1, 0, 1]),
        ((1, 2), 3, [0, 1, 0, 2]),
        ((0, 2), 2, [0, 0, 0, 2]),
        ((2, 0, 1), 3, [0, 2, 0, 0, 0, 1]),
    ],
)
def test_turns_show_as_many_images_as_they_say(said: tuple[int, ...], n: int, shown: list[int]) -> None:
    assert pictures(conversation(*said), Media.IMAGES, n) == [[IMAGE] * i for i in shown]


def test_a_video_is_shown_by_the_turn_that_says_so() -> None:
    assert pictures(conversation(0, 1), Media.VIDEO, 16) == [[], [], [], [VIDEO]]


@pytest.mark.parametrize(
    ("media", "n", "numbers"),
    [
        (Media.IMAGES, 2, "show 3 images, and the asset has 2"),
        (Media.IMAGES, 4, "show 3 images, and the asset has 4"),
        (Media.IMAGE, 1, "show 3 images, and the asset has 1"),
        (Media.VIDEO, 16, "show 3 images, and the asset has 1"),
    ],
)
def test_turns_that_show_another_number_than_there_is_are_a_media_error(
    media: Media, n: int, numbers: str
) -> None:
    with pytest.raises(MediaError, match=numbers) as raised:
        messages(conversation(1, 2), media, n, {})

    assert raised.value.code is Code.IMAGE_COUNT


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Title: {title}.", "Title: Boat."),
        ("{title}{title}", "BoatBoat"),
        ("{author|nobody}", "nobody"),
        ("{title|nobody}", "Boat"),
        ("{author|}!", "!"),
        ('{{"title": "{title}"}}', '{"title": "Boat"}'),
        ("{{title}}", "{title}"),
    ],
)
def test_fields_defaults_and_braces(template: str, text: str) -> None:
    assert filled(template, {"title": "Boat"}) == text


def test_braces_inside_a_field_are_text() -> None:
    assert filled("{title}", {"title": "{author} {{"}) == "{author} {{"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{title}.", "Boat."),
        ("{title} {author|anonymous}", "Boat anon"),
        ("{{{title}}}, whole", "{Boat}, whole"),
    ],
)
def test_a_field_is_cut_and_the_prompt_around_it_is_not(template: str, text: str) -> None:
    assert filled(template, {"title": "Boats at sea"}, 4) == text


def test_messages_cut_fields_at_two_thousand_characters_unless_told() -> None:
    turns, text = (Turn("user", "{title}"),), {"title": "ü" * 3000}

    assert messages(turns, Media.IMAGE, 1, text)[0]["content"] == [IMAGE, said("ü" * 2000)]
    assert messages(turns, Media.IMAGE, 1, text, SPECIAL, 5)[0]["content"] == [IMAGE, said("ü" * 5)]


def test_a_missing_field_without_default_is_a_media_error_that_names_it() -> None:
    with pytest.raises(MediaError, match="'author'") as raised:
        messages((Turn("user", "By {author}"),), Media.IMAGE, 1, {"title": "Boat"})

    assert raised.value.code is Code.MISSING_FIELD


def test_special_tokens_in_a_field_lose_their_spelling_and_nothing_else() -> None:
    chat = messages((Turn("user", "Alt text: {alt}"),), Media.IMAGE, 1, {"alt": "a<|im_end|>b <b>"}, SPECIAL)

    assert chat[0]["content"] == [IMAGE, said(f"Alt text: a<{ZERO_WIDTH_SPACE}|im_end|>b <b>")]


def test_special_tokens_cannot_be_put_together_from_two_fields() -> None:
    chat = messages((Turn("user", "{a}{b}"),), Media.IMAGE, 1, {"a": "<ima", "b": "ge>"}, SPECIAL)

    assert "<image>" not in str(chat)


@pytest.mark.parametrize("text", ["<image>" * 3, "<i<image>mage>", "ababab", "<|im_end|><image>"])
def test_no_spelling_is_left(text: str) -> None:
    special = (*SPECIAL, "abab")

    assert not any(token in plain(text, special) for token in special)


def test_prompts_of_a_job_are_told_what_is_wrong_with_them() -> None:
    prompts = (
        PromptConfig("json", (Turn("user", 'Answer {"title": …}'),)),
        PromptConfig("llava", (Turn("user", "<image>\nDescribe."),)),
        PromptConfig("good", (Turn("user", "{{}} {title} {author|nobody}"),)),
    )

    found = problems(prompts, SPECIAL)

    assert [line.split(":")[0] for line in found] == ["[[prompt]] json", "[[prompt]] llava"]


@pytest.mark.parametrize("kind", list(Media))
def test_the_conversation_about_every_kind_is_looked_at(kind: Media) -> None:
    prompt = PromptConfig("p", (Turn("user", "Describe."),))

    own: dict[str, Any] = {kind: (Turn("system", "<image>"), Turn("user", "{"))}

    assert len(problems((replace(prompt, **own),), SPECIAL)) == 2


# From the input to the words


def asked(shard: Shard, config: InputConfig, probe: Probe, template: str) -> list[str]:
    """The words of a prompt about each asset of a shard."""
    return [filled(template, asset.text) for asset in scan(shard, config, probe)]


def test_fields_come_from_the_sidecars_of_a_tar(
    write_tar: WriteTar, config: InputConfig, probe: Probe
) -> None:
    title = {"title": "Boat", "likes": 3, "ratio": 0.5, "sold": True, "none": None, "tags": ["nested"]}
    members = [("a.jpg", picture()), ("a.txt", b"Alt text.\n"), ("a.json", json.dumps(title).encode())]
    template = "{txt} {title}, {likes}, {ratio}, {sold}, {none|null}, {tags|nested}"

    assert asked(write_tar(members), config, probe, template) == [
        "Alt text. Boat, 3, 0.5, true, null, nested"
    ]


def test_fields_come_from_the_columns_of_a_parquet_file(
    tmp_path: Path, config: InputConfig, probe: Probe
) -> None:
    columns = {
        "image": [picture(), picture()],
        "title": ["Boat", None],
        "likes": [3, 4],
        "sold": [True, False],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")

    table = shard(tmp_path / "a.parquet", ShardFormat.PARQUET)

    assert asked(table, config, probe, "{title|untitled}, {likes}, {sold}") == [
        "Boat, 3, true",
        "untitled, 4, false",
    ]
