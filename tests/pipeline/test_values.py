"""pipeline.values: what --set puts into a parsed job file."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import SECTIONS
from pipeline.values import override


def after(*items: str) -> dict[str, Any]:
    """An empty job file after these overrides, in which nothing is wrong."""
    raw: dict[str, Any] = {}
    assert [problem for item in items if (problem := override(raw, item, SECTIONS))] == []
    return raw


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("input.dataset=birds", "birds"),
        ('input.dataset="a=b"', "a=b"),
        ("input.dataset=2024", "2024"),
        ("input.dataset=2024-01-01", "2024-01-01"),
        ("input.dataset= birds.of.prey", " birds.of.prey"),
    ],
)
def test_set_takes_text_for_keys_that_are_text(item: str, value: str) -> None:
    assert after(item) == {"input": {"dataset": value}}


def test_set_takes_toml_values_and_makes_missing_sections() -> None:
    assert after("cluster.replicas=3", "image.timeout_s=2.5", 'generation.stop=["\\n", "###"]') == {
        "cluster": {"replicas": 3},
        "image": {"timeout_s": 2.5},
        "generation": {"stop": ["\n", "###"]},
    }


def test_the_last_set_of_a_key_holds() -> None:
    assert after("cluster.replicas=3", "cluster.replicas=4") == {"cluster": {"replicas": 4}}


@pytest.mark.parametrize("item", ["replicas=3", "cluster.replicas", "cluster.=3", ".replicas=3", "=", ""])
def test_set_without_section_key_and_value_is_a_problem(item: str) -> None:
    assert override({}, item, SECTIONS) == f"--set {item!r} must be section.key=value"


def test_set_of_a_prompt_is_a_problem() -> None:
    raw = {"prompt": [{"id": "a", "text": "x"}]}

    assert override(raw, "prompt.text=x", SECTIONS) == "--set 'prompt.text=x': [prompt] is not a table"
