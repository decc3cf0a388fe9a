"""pipeline.config: what a job file may say, and the words for what it may not."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from pipeline.config import (
    SECTIONS,
    ClusterConfig,
    GenerationConfig,
    Job,
    ModelConfig,
    PromptConfig,
    is_hub_id,
    load,
    read,
    toml,
)
from pipeline.types import Turn

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MINIMAL = """
[input]
dataset = "holiday-photos"
uris = ["s3://bucket/shards/{000000..000099}.tar"]

[model]
path = "./checkpoint"

[[prompt]]
id = "detailed"
text = "Describe the image in detail."

[output]
uri = "s3://bucket/captions"
"""


def job(text: str, *overrides: str) -> Job:
    """The job of a file without problems."""
    loaded = read(text, overrides)
    assert loaded.problems == ()
    return loaded.job()


def problems(more: str, *overrides: str) -> tuple[str, ...]:
    """The problems of the minimal file with more lines at its end."""
    return read(MINIMAL + more, overrides).problems


def test_a_minimal_file_is_a_job_with_defaults() -> None:
    read_job = job(MINIMAL)

    assert read_job.input.uris == ("s3://bucket/shards/{000000..000099}.tar",)
    assert read_job.prompts == (PromptConfig("detailed", (Turn("user", "Describe the image in detail."),)),)
    assert (read_job.generation, read_job.cluster) == (GenerationConfig(), ClusterConfig())


def test_every_key_has_a_line_of_help() -> None:
    assert [
        f"{name}.{f.name}"
        for name, section in SECTIONS.items()
        for f in fields(section)
        if not f.metadata["help"]
    ] == []


def test_an_empty_file_lacks_three_sections_and_a_prompt() -> None:
    assert read("").problems == (
        "section [input] is missing; it needs dataset, uris",
        "section [model] is missing; it needs path",
        "section [output] is missing; it needs uri",
        "at least one [[prompt]] is needed, with id and text (or turns)",
    )


def test_a_section_without_a_required_key_says_what_the_key_is_for() -> None:
    found = read(MINIMAL.replace('dataset = "holiday-photos"', "")).problems

    assert found == ("[input] dataset is missing: name that asset identities are made under",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[generation]\nmax_tokens = 3", "unknown key [generation] max_tokens; did you mean max_new_tokens?"),
        ("[generating]\nbatch_size = 3", "unknown section [generating]; did you mean generation?"),
        ("[prompts]", "unknown section [prompts]; did you mean prompt?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_one(line: str, problem: str) -> None:
    assert problems(line) == (problem,)


def test_a_name_that_resembles_nothing_is_answered_all_the_same() -> None:
    (found,) = problems("[image]\n'%s' = 1")

    assert found.startswith("unknown key [image] %s; did you mean ")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('[generation]\nbatch_size = "8"', '[generation] batch_size must be a whole number, not "8"'),
        ("[generation]\nbatch_size = 8.0", "[generation] batch_size must be a whole number, not 8.0"),
        ("[generation]\nbatch_size = true", "[generation] batch_size must be a whole number, not true"),
        ("[generation]\nbatch_size = []", "[generation] batch_size must be a whole number, not []"),
        (
            "[generation]\nbatch_size = 1979-05-27",
            "[generation] batch_size must be a whole number, not 1979-05-27",
        ),
        ("[generation]\nbatch_size = 0", "[generation] batch_size must be at least 1, not 0"),
        (
            f"[generation]\nbatch_size = {1 << 70}",
            "[generation] batch_size must be a whole number, not a number beyond",
        ),
        ("[generation]\ntemperature = 0.7", "[generation] temperature must be 0.0, not 0.7"),
        ("[image]\ntimeout_s = nan", "[image] timeout_s must be a number, not nan"),
        ("[image]\ntimeout_s = inf", "[image] timeout_s must be a number, not inf"),
        (
            f"[image]\ntimeout_s = {10**400}",
            "[image] timeout_s must be a number, not a number beyond 64 bits",
        ),
        ("[image]\ntimeout_s = 0", "[image] timeout_s must be at least 0.1, not 0.0"),
        ("[cluster]\ngpus_per_replica = -1", "[cluster] gpus_per_replica must be at least 0, not -1.0"),
        ("[cluster]\ngpus_per_replica = 1.5", "[cluster] gpus_per_replica above 1 must be whole"),
        ("[video]\nfps = 2\nframes = 8", "[video] needs either frames or fps, not both"),
    ],
)
def test_a_bad_value_is_named_with_what_it_should_be(lines: str, problem: str) -> None:
    (found,) = problems(lines)

    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('uri = "s3://bucket/captions"', "uri = 5", "[output] uri must be a string, not 5"),
        (
            'uri = "s3://bucket/captions"',
            'uri = " "',
            '[output] uri must be a string that says something, not " "',
        ),
        (
            'uri = "s3://bucket/captions"',
            'uri = "x"\nmax_failure_rate = 1.5',
            "[output] max_failure_rate must be at most 1, not 1.5",
        ),
        (
            '["s3://bucket/shards/{000000..000099}.tar"]',
            '"a.tar"',
            '[input] uris must be a list of one or more strings, not "a.tar"',
        ),
        (
            '["s3://bucket/shards/{000000..000099}.tar"]',
            "[]",
            "[input] uris must be a list of one or more strings, not []",
        ),
        (
            '["s3://bucket/shards/{000000..000099}.tar"]',
            '["a.tar", 1]',
            '[input] uris must be a list of one or more strings, not ["a.tar", 1]',
        ),
        (
            'path = "./checkpoint"',
            'path = "./checkpoint"\ndtype = "float8"',
            '[model] dtype must be "bfloat16" or "float16" or "float32", not "float8"',
        ),
    ],
)
def test_a_bad_value_of_a_required_section_is_named(old: str, new: str, problem: str) -> None:
    assert read(MINIMAL.replace(old, new)).problems == (problem,)


def test_whole_numbers_are_numbers() -> None:
    assert job(MINIMAL + "[image]\ntimeout_s = 5").image.timeout_s == 5.0


def test_a_long_value_is_cut_in_the_message() -> None:
    (found,) = problems("[generation]\nbatch_size = '" + "x" * 1000 + "'")

    assert len(found) < 160


def test_all_problems_come_at_once() -> None:
    wrong = '[inputs]\n[generation]\nbatch_sice = 1\nbatch_size = 0\n[[prompt]]\nid = "a b"\ntext = "x"\n'

    assert [p.partition(";")[0].partition(", not")[0] for p in read(wrong).problems] == [
        "unknown section [inputs]",
        "section [input] is missing",
        "section [model] is missing",
        "section [output] is missing",
        "unknown key [generation] batch_sice",
        "[generation] batch_size must be at least 1",
        "[[prompt]] 1 id must be 1 to 64 letters, digits, '_', '.' or '-'",
    ]


def test_sections_that_parsed_are_there_beside_the_problems() -> None:
    loaded = read(MINIMAL + "[generation]\nbatch_size = 0")

    assert loaded.sections["output"].uri == "s3://bucket/captions"
    assert len(loaded.problems) == 1


def test_a_file_that_is_not_toml_says_where() -> None:
    (found,) = read("[input\n").problems

    assert found.startswith("the job file is not TOML: ")
    assert "line 1" in found


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read("\ufeff" + MINIMAL).problems == ()


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_a_section_that_is_no_table_is_a_problem(section: str) -> None:
    assert f"[{section}] must be a table" in load({section: 5}).problems


def prompt_problems(*tables: Any) -> list[str]:
    return [p for p in load({"prompt": list(tables)}).problems if "prompt" in p]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"text": "x"}, "[[prompt]] 1 id is missing"),
        (
            {"id": "ä", "text": "x"},
            "[[prompt]] 1 id must be 1 to 64 letters, digits, '_', '.' or '-', not \"ä\"",
        ),
        ({"id": "a"}, "[[prompt]] 1 needs either text or turns"),
        ({"id": "a", "text": "x", "turns": [{"user": "x"}]}, "[[prompt]] 1 needs either text or turns"),
        ({"id": "a", "text": "  "}, '[[prompt]] 1 text must be a string that says something, not "  "'),
        ({"id": "a", "text": 5}, "[[prompt]] 1 text must be a string that says something, not 5"),
        ({"id": "a", "txt": "x", "text": "y"}, "unknown key [[prompt]] 1 txt; did you mean text?"),
        ({"id": "a", "turns": "x"}, '[[prompt]] 1 turns must be a list, not "x"'),
        ({"id": "a", "turns": []}, "[[prompt]] 1 turns must end with a user turn"),
        (
            {"id": "a", "turns": [{"user": "x"}, {"assistant": "y"}]},
            "[[prompt]] 1 turns must end with a user turn",
        ),
        (
            {"id": "a", "turns": [{"human": "x"}]},
            '[[prompt]] 1 turns: each must be {system = "…"} or {user = "…"} or {assistant = "…"}, '
            'not {"human": "x"}',
        ),
        (5, "[[prompt]] 1 must be a table"),
    ],
)
def test_a_wrong_prompt_is_one_problem(table: Any, problem: str) -> None:
    assert prompt_problems(table) == [problem]


def test_turns_are_kept_in_order() -> None:
    turns = [{"system": "Be brief."}, {"user": "What?"}, {"assistant": "A cat."}, {"user": "Where?"}]

    (prompt,) = load({"prompt": [{"id": "a", "turns": turns}]}).prompts

    assert prompt.turns == (
        Turn("system", "Be brief."),
        Turn("user", "What?"),
        Turn("assistant", "A cat."),
        Turn("user", "Where?"),
    )


def test_one_pair_of_brackets_around_prompt_is_explained() -> None:
    assert (
        load({"prompt": {"id": "a", "text": "x"}})
        .problems[-1]
        .startswith("[prompt] must be written [[prompt]]")
    )


def test_a_prompt_id_used_twice_is_one_problem() -> None:
    table = {"id": "a", "text": "x"}

    assert prompt_problems(table, table, table) == ["[[prompt]] id 'a' is used more than once"]


@pytest.mark.parametrize("revision", ["", "main", "abc123"])
def test_a_hub_id_needs_its_commit(revision: str) -> None:
    hub = f'path = "llava-hf/llava-7b"\nrevision = "{revision}"'

    (found,) = read(MINIMAL.replace('path = "./checkpoint"', hub)).problems

    assert found.startswith("[model] revision must be the 40-digit commit of llava-hf/llava-7b")


def test_a_hub_id_with_its_commit_is_fine() -> None:
    hub = f'path = "llava-hf/llava-7b"\nrevision = "{COMMIT}"'

    assert read(MINIMAL.replace('path = "./checkpoint"', hub)).problems == ()


@pytest.mark.parametrize(
    ("path", "hub"),
    [("owner/name", True), ("./owner/name", False), ("/abs/name", False), ("demo", False), ("a/b/c", False)],
)
def test_what_looks_like_a_hub_id(path: str, hub: bool) -> None:
    assert is_hub_id(ModelConfig(path)) is hub


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("input.dataset=birds", "birds"),
        ('input.dataset="a=b"', "a=b"),
        ("input.dataset=2024", "2024"),
        ("input.dataset=2024-01-01", "2024-01-01"),
        ("input.dataset= birds.of.prey", " birds.of.prey"),
    ],
)
def test_set_takes_text_for_keys_that_are_text(override: str, value: str) -> None:
    assert job(MINIMAL, override).input.dataset == value


def test_set_takes_toml_values_and_makes_missing_sections() -> None:
    read_job = job(MINIMAL, "cluster.replicas=3", "image.timeout_s=2.5", 'input.uris=["a.tar", "b.tar"]')

    assert (read_job.cluster.replicas, read_job.image.timeout_s) == (3, 2.5)
    assert read_job.input.uris == ("a.tar", "b.tar")


def test_the_last_set_of_a_key_holds() -> None:
    assert job(MINIMAL, "cluster.replicas=3", "cluster.replicas=4").cluster.replicas == 4


@pytest.mark.parametrize("item", ["replicas=3", "cluster.replicas", "cluster.=3", ".replicas=3", "=", ""])
def test_set_without_section_key_and_value_is_a_problem(item: str) -> None:
    assert problems("", item) == (f"--set {item!r} must be section.key=value",)


def test_set_of_a_wrong_value_is_a_problem_like_any_other() -> None:
    assert problems("", "cluster.replicas=many", "clutter.replicas=1") == (
        "unknown section [clutter]; did you mean cluster?",
        '[cluster] replicas must be a whole number, not "many"',
    )


def test_set_of_a_prompt_is_a_problem() -> None:
    assert problems("", "prompt.text=x") == ("--set 'prompt.text=x': [prompt] is not a table",)


@pytest.mark.parametrize(
    "value", ["a b", 'quo"te', "back\\slash", "new\nline", "ünï 図", "😀", "\x7f", ["a", "😀"]]
)
def test_what_toml_writes_reads_back(value: str | list[str]) -> None:
    name = "dataset" if isinstance(value, str) else "uris"
    loaded = read(MINIMAL, [f"input.{name}={toml(value)}"])

    assert loaded.problems == ()
    assert getattr(loaded.sections["input"], name) == (value if isinstance(value, str) else tuple(value))
