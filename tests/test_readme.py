"""The README says what there is: every key, every failure code, every command."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.cli import main
from pipeline import config
from pipeline.columns import CAPTIONS, FAILURES
from pipeline.failures import WORDS
from pipeline.quality import RULES
from pipeline.types import Code

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [f"{s}.{f.name}" for s, cls in config.SECTIONS.items() for f in fields(cls)])
def test_every_key_of_the_job_file_is_in_the_table(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("code", list(Code))
def test_every_failure_code_is_explained(code: Code) -> None:
    assert f"| `{code}` |" in README


@pytest.mark.parametrize("code", list(Code))
def test_what_a_failure_means_is_said_in_the_same_words_everywhere(code: Code) -> None:
    assert f"| `{code}` | {WORDS[code][0]} |" in README


@pytest.mark.parametrize("flag", RULES)
def test_every_flag_has_its_rule(flag: str) -> None:
    assert f"| `{flag}` | {RULES[flag]} |" in README


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_is_shown(command: str) -> None:
    assert f"captionmill {command}" in README


def test_the_sample_job_file_is_valid() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)

    assert config.read(blocks[0]).problems == ()


def test_the_sample_prompts_are_valid() -> None:
    first, *others = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    prompts = "\n".join(block for block in others if "[[prompt]]" in block)
    whole = config.read(f"{first}\n{prompts}")

    assert whole.problems == ()
    assert [p.id for p in whole.prompts] == ["detailed", "title", "by-kind"]


@pytest.mark.parametrize("schema", [CAPTIONS, FAILURES], ids=["captions", "failures"])
def test_every_published_column_is_described(schema: pa.Schema) -> None:
    assert all(field.metadata[b"description"] for field in schema)
