"""pipeline.conversation: the forms that a conversation may have, and the words for those it may not."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from pipeline.config import PromptConfig, load
from pipeline.types import Media, Turn

ONE = (Turn("user", "What?"),)
EACH = '{system = "…"} or {user = "…"} or {assistant = "…"}'


def prompt(toml: str) -> PromptConfig:
    """The one prompt of a job file, in which nothing is wrong."""
    loaded = load(tomllib.loads(toml))
    assert [p for p in loaded.problems if "prompt" in p] == []
    (found,) = loaded.prompts
    return found


def problems(**table: Any) -> list[str]:
    """What is wrong with a prompt, without the words for where it stands."""
    found = load({"prompt": [{"id": "a", **table}]}).problems
    return [p.replace("[[prompt]] 1 ", "") for p in found if "prompt" in p]


def test_a_text_is_one_user_turn_about_every_kind() -> None:
    asked = prompt('[[prompt]]\nid = "a"\ntext = "What?"')

    assert [asked.asked(media) for media in Media] == [ONE] * 3


def test_turns_are_kept_in_order() -> None:
    asked = prompt("""
        [[prompt]]
        id = "a"
        turns = [{ system = "Be brief." }, { user = "What?" }, { assistant = "A cat." }, { user = "Where?" }]
    """)

    assert asked.turns == (
        Turn("system", "Be brief."),
        Turn("user", "What?"),
        Turn("assistant", "A cat."),
        Turn("user", "Where?"),
    )


def test_a_kind_may_have_a_conversation_of_its_own_beside_the_default() -> None:
    asked = prompt("""
        [[prompt]]
        id = "a"
        text = "What?"
        images = { turns = [{ user = "This?", images = 1 }, { assistant = "A sign." }, { user = "And?", images = 2 }] }
        [prompt.video]
        text = "Why is this video funny?"
    """)

    assert asked.asked(Media.IMAGE) == ONE
    assert asked.asked(Media.IMAGES) == (
        Turn("user", "This?", 1),
        Turn("assistant", "A sign."),
        Turn("user", "And?", 2),
    )
    assert asked.asked(Media.VIDEO) == (Turn("user", "Why is this video funny?"),)


def test_without_a_default_only_the_kinds_it_names_are_asked() -> None:
    asked = prompt('[[prompt]]\nid = "a"\nvideo = { text = "What?" }')

    assert [asked.asked(media) for media in Media] == [(), (), ONE]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_one_picture_may_be_shown_by_a_later_turn(kind: str) -> None:
    turns = '[{ user = "Ready?" }, { assistant = "Yes." }, { user = "What?", images = 1 }]'

    asked = prompt(f'[[prompt]]\nid = "a"\n{kind} = {{ turns = {turns} }}')

    assert [turn.images for turn in asked.asked(Media(kind))] == [0, 0, 1]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({}, "needs text or turns, or image, images or video with text or turns"),
        ({"text": "x", "turns": [{"user": "x"}]}, "needs either text or turns"),
        ({"text": "  "}, 'text must be a string that says something, not "  "'),
        ({"text": 5}, "text must be a string that says something, not 5"),
        ({"turns": "x"}, 'turns must be a list, not "x"'),
        ({"turns": []}, "turns must end with a user turn"),
        ({"video": "Why?"}, 'video must be a table with text or turns, not "Why?"'),
        ({"video": {}}, "video needs either text or turns"),
        ({"text": "x", "image": {"text": "x", "turns": []}}, "image needs either text or turns"),
        ({"image": {"text": "x", "turn": 1}}, "unknown key image turn; did you mean turns?"),
        ({"images": {"text": ""}}, 'images text must be a string that says something, not ""'),
    ],
)
def test_a_wrong_conversation_is_one_problem(table: Any, problem: str) -> None:
    assert problems(**table) == [problem]


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ({"human": "x"}, f'turn 1 must be {EACH}, not {{"human": "x"}}'),
        ({"user": " "}, f'turn 1 must be {EACH}, not {{"user": " "}}'),
        ({"user": "x", "assistant": "y"}, f'turn 1 must be {EACH}, not {{"user": "x", "assistant": "y"}}'),
        ("x", f'turn 1 must be {EACH}, not "x"'),
        ({"user": "x", "image": 1}, "unknown key turn 1 image; did you mean images?"),
        ({"user": "x", "images": 0}, "turn 1 images must be at least 1, not 0"),
        ({"user": "x", "images": True}, "turn 1 images must be a whole number, not true"),
        (
            {"system": "x", "images": 1},
            'turn 1: only user turns show images, and this is {"system": "x", "images": 1}',
        ),
    ],
)
def test_a_wrong_turn_is_one_problem(turn: Any, problem: str) -> None:
    assert problems(turns=[turn]) == [problem]


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        ("user assistant", ["turns must end with a user turn"]),
        ("system", ["turns must end with a user turn"]),
        ("user user", ["turn 2 must be assistant, not user: they alternate, and user begins"]),
        ("system assistant user", ["turn 2 must be user, not assistant: they alternate, and user begins"]),
        ("user assistant system user", ["turns: only the first may be a system turn"]),
        ("system system user", ["turns: only the first may be a system turn"]),
        (
            "assistant system assistant",
            [
                "turns: only the first may be a system turn",
                "turn 1 must be user, not assistant: they alternate, and user begins",
                "turns must end with a user turn",
            ],
        ),
    ],
)
def test_turns_out_of_order_are_told_how_they_go(roles: str, found: list[str]) -> None:
    assert problems(turns=[{role: "x"} for role in roles.split()]) == found


@pytest.mark.parametrize(
    ("kind", "images", "problem"),
    [
        ("image", (2,), ["image turns: their images must be 1 together, not 2"]),
        ("video", (1, 1), ["video turns: their images must be 1 together, not 2"]),
        ("images", (1,), ["images turns: their images must be at least 2 together, not 1"]),
        ("images", (1, 1), []),
    ],
)
def test_turns_about_one_kind_show_as_many_images_as_it_may_have(
    kind: str, images: tuple[int, ...], problem: list[str]
) -> None:
    turns = [turn for n in images for turn in ({"user": "x", "images": n}, {"assistant": "y"})][:-1]

    assert problems(**{kind: {"turns": turns}}) == problem


# The prompt's other keys


def all_problems(*tables: Any) -> list[str]:
    """What is wrong with several prompts, in whole words."""
    return [p for p in load({"prompt": list(tables)}).problems if "prompt" in p]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"text": "x"}, "[[prompt]] 1 id is missing"),
        (
            {"id": "ä", "text": "x"},
            "[[prompt]] 1 id must be 1 to 64 letters, digits, '_', '.' or '-', not \"ä\"",
        ),
        ({"id": "a", "txt": "x", "text": "y"}, "unknown key [[prompt]] 1 txt; did you mean text?"),
        (
            {"id": "a", "vido": {"text": "x"}, "text": "y"},
            "unknown key [[prompt]] 1 vido; did you mean video?",
        ),
        (
            {"id": "a", "text": "x", "max_field_chars": 0},
            "[[prompt]] 1 max_field_chars must be at least 1, not 0",
        ),
        (
            {"id": "a", "text": "x", "max_field_chars": "long"},
            '[[prompt]] 1 max_field_chars must be a whole number, not "long"',
        ),
        (5, "[[prompt]] 1 must be a table"),
    ],
)
def test_a_wrong_prompt_is_one_problem(table: Any, problem: str) -> None:
    assert all_problems(table) == [problem]


def test_all_that_is_wrong_with_the_prompts_comes_at_once() -> None:
    first = {"id": "a b", "video": {"text": ""}, "max_field_chars": 0}

    assert [p.partition(" must")[0] for p in all_problems(first, {"id": "c"})] == [
        "[[prompt]] 1 id",
        "[[prompt]] 1 video text",
        "[[prompt]] 1 max_field_chars",
        "[[prompt]] 2 needs text or turns, or image, images or video with text or turns",
    ]


def test_a_prompt_says_how_much_of_a_field_it_uses() -> None:
    (prompt,) = load({"prompt": [{"id": "a", "text": "x", "max_field_chars": 80}]}).prompts

    assert prompt.max_field_chars == 80


def test_one_pair_of_brackets_around_prompt_is_explained() -> None:
    assert (
        load({"prompt": {"id": "a", "text": "x"}})
        .problems[-1]
        .startswith("[prompt] must be written [[prompt]]")
    )


def test_a_prompt_id_used_twice_is_one_problem() -> None:
    table = {"id": "a", "text": "x"}

    assert all_problems(table, table, table) == ["[[prompt]] id 'a' is used more than once"]
