"""pipeline.prompt: turns and fields to chat messages."""

from __future__ import annotations

import pytest

from pipeline.config import PromptConfig
from pipeline.errors import MediaError
from pipeline.prompt import ZERO_WIDTH_SPACE, filled, messages, plain, problems
from pipeline.types import Code, Media, Turn

IMAGE = {"type": "image"}
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

    assert chat == [{"role": "user", "content": [{"type": "video"}, said("What happens?")]}]


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
