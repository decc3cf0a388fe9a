"""pipeline.config: what a job file may say, and the words for what it may not."""

from __future__ import annotations

from dataclasses import fields

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
)
from pipeline.toml import toml
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
        ("[generation]\ntemperature = -1", "[generation] temperature must be at least 0, not -1.0"),
        (
            "[generation]\ntemperature = 0.001",
            "[generation] temperature must be 0 or at least 0.01, not 0.001",
        ),
        ("[generation]\ntop_k = 40", "[generation] top_k needs a temperature above 0"),
        ("[generation]\ntop_p = 0.9\ntemperature = 0", "[generation] top_p needs a temperature above 0"),
        ("[generation]\nseed = 1", "[generation] seed needs a temperature above 0"),
        (
            '[generation]\nretries = 1\nretry_flags = ["dull"]',
            '[generation] retry_flags must be a list of "truncated" or "repetition" or "empty"',
        ),
        ("[generation]\nretry_temperature = 0.5", "[generation] retry_temperature needs retries above 0"),
        (
            "[generation]\nmin_new_tokens = 9\nmax_new_tokens = 8",
            "[generation] min_new_tokens must be at most max_new_tokens (8), not 9",
        ),
        ('[generation]\nstop = "."', '[generation] stop must be a list of non-empty strings, not "."'),
        ('[generation]\nstop = ["a", ""]', "[generation] stop must be a list of non-empty strings, not"),
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


def test_layers_are_compiled_where_they_are_whole_and_on_one_device() -> None:
    assert problems("", "model.compiled=true") == ()
    assert problems("", "model.compiled=true", "model.quantization=int4", "cluster.gpus_per_replica=2") == (
        '[model] compiled needs quantization = "none"',
        "[model] compiled needs gpus_per_replica of 1 or less",
    )


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
            '[input] uris must be a list of non-empty strings, not "a.tar"',
        ),
        (
            '["s3://bucket/shards/{000000..000099}.tar"]',
            "[]",
            "[input] uris must be a list of one or more strings that say something, not []",
        ),
        (
            '["s3://bucket/shards/{000000..000099}.tar"]',
            '["a.tar", 1]',
            '[input] uris must be a list of non-empty strings, not ["a.tar", 1]',
        ),
        (
            '["s3://bucket/shards/{000000..000099}.tar"]',
            '["a.tar", " "]',
            '[input] uris must be a list of one or more strings that say something, not ["a.tar", " "]',
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


def test_a_caption_may_end_at_texts_of_white_space() -> None:
    assert job(MINIMAL + '[generation]\nstop = ["\\n\\n", "###"]').generation.stop == ("\n\n", "###")


def test_a_list_that_may_be_absent_may_be_empty() -> None:
    assert job(MINIMAL + "[generation]\nstop = []").generation.stop == ()


def test_all_that_is_drawn_from_may_be_narrowed() -> None:
    lines = "[generation]\ntemperature = 0.01\ntop_k = 40\ntop_p = 0.9\nseed = 7\nrepetition_penalty = 1.2"

    settings = job(MINIMAL + lines).generation

    assert settings == GenerationConfig(temperature=0.01, top_k=40, top_p=0.9, seed=7, repetition_penalty=1.2)


def test_rules_between_keys_wait_until_each_key_is_right() -> None:
    assert problems('[generation]\ntemperature = "warm"\nseed = 7') == (
        '[generation] temperature must be a number, not "warm"',
    )


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


@pytest.mark.parametrize("revision", ["", "main", "v1.0", COMMIT])
def test_a_hub_id_may_come_with_a_commit_a_branch_a_tag_or_nothing(revision: str) -> None:
    hub = f'path = "llava-hf/llava-7b"\nrevision = "{revision}"'

    assert job(MINIMAL.replace('path = "./checkpoint"', hub)).model.revision == revision


@pytest.mark.parametrize(
    ("path", "hub"),
    [("owner/name", True), ("./owner/name", False), ("/abs/name", False), ("demo", False), ("a/b/c", False)],
)
def test_what_looks_like_a_hub_id(path: str, hub: bool) -> None:
    assert is_hub_id(ModelConfig(path)) is hub


def test_set_of_a_wrong_value_is_a_problem_like_any_other() -> None:
    assert problems("", "cluster.replicas=many", "clutter.replicas=1") == (
        "unknown section [clutter]; did you mean cluster?",
        '[cluster] replicas must be a whole number, not "many"',
    )


@pytest.mark.parametrize(
    "value", ["a b", 'quo"te', "back\\slash", "new\nline", "ünï 図", "😀", "\x7f", ["a", "😀"]]
)
def test_what_toml_writes_reads_back(value: str | list[str]) -> None:
    name = "dataset" if isinstance(value, str) else "uris"
    loaded = read(MINIMAL, [f"input.{name}={toml(value)}"])

    assert loaded.problems == ()
    assert getattr(loaded.sections["input"], name) == (value if isinstance(value, str) else tuple(value))
