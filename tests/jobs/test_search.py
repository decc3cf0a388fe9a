"""captionmill search: what is found, how it is shown, and that the kept index follows the table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests.weekly_table import BEGINNING, WEEKS, Weeks, published

SAID = {
    ("plain", "short"): "A dog runs along the beach.",
    ("plain", "long"): "Two dogs, one of them wet, are running along a beach; behind them the sea.",
    ("accents", "short"): "Un café à Paris.",
    ("chinese", "short"): "两只狗在海滩上奔跑。滩涂",
    ("thai", "short"): "สุนัขวิ่งบนชายหาด",
    ("hindi", "short"): "एक लाल गाड़ी सड़क पर खड़ी है",
    ("markup", "short"): "A sign [red]says[/red] [link=http://evil]stop[/link] \\[bold] 100 % :smile:",
    ("key \x1b[31m [bold]\u202e", "short"): "A kite.",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the indexes of this test are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/captionmill/search"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A table of captions in many scripts, whose index is kept from test to test."""
    folder = tmp_path_factory.mktemp("search")
    weeks = Weeks(str(folder / "out"))
    weeks.publish(SAID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield weeks.output


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["search", *arguments])


def found(output: str, words: str, *options: str) -> dict[str, Any]:
    done = invoke(output, words, "--json", *options)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def keys(output: str, words: str, *options: str) -> list[str]:
    return [hit["key"] for hit in found(output, words, *options)["hits"]]


def test_the_caption_that_says_most_with_least_comes_first(output: str) -> None:
    told = found(output, "dogs on a beach")

    assert [(hit["key"], hit["prompt_id"]) for hit in told["hits"][:2]] == [
        ("plain", "short"),
        ("plain", "long"),
    ]
    assert told["hits"][0]["score"] > told["hits"][1]["score"]
    assert told["hits"][0]["shard"] == "a/1.tar"
    assert told["captions"] == len(SAID)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("running -wet", "plain"),
        ("CAFE paris", "accents"),
        ("cafe\u0301", "accents"),
        ("海滩", "chinese"),
        ("奔跑。", "chinese"),
        ("สุนัข", "thai"),
        ("सड़क", "hindi"),
        ('"along the beach"', "plain"),
        ("+kite beach", "key \x1b[31m [bold]\u202e"),
    ],
)
def test_words_are_found_in_every_script(output: str, words: str, key: str) -> None:
    assert keys(output, words) == [key]


@pytest.mark.parametrize("words", ["海上", "滩海", '"beach the along"', "unicorn", "", "caf"])
def test_what_is_not_there_is_not_found(output: str, words: str) -> None:
    assert keys(output, words) == []


@pytest.mark.parametrize(
    ("words", "marked"),
    [
        ("dog beaches", ["dogs", "beach"]),
        ("海滩", ["海滩"]),
        ("cafe paris", ["café", "Paris"]),
        ("लाल सड़क", ["लाल", "सड़क"]),
    ],
)
def test_highlights_are_the_words_in_the_caption(output: str, words: str, marked: list[str]) -> None:
    hit = found(output, words)["hits"][-1]

    shown = "".join(hit["caption_text"][start:stop] for start, stop in hit["highlights"])
    assert shown.replace("\u093c", "") == "".join(marked).replace("\u093c", "")


@pytest.mark.parametrize("words", ["kite:", "(kite", '"kite', "kite AND", "key:kite", "[kite TO", "kite^"])
def test_words_that_are_no_query_are_searched_as_words(output: str, words: str) -> None:
    assert keys(output, words) == ["key \x1b[31m [bold]\u202e"]


def test_a_prompt_can_be_chosen(output: str) -> None:
    assert [hit["prompt_id"] for hit in found(output, "beach", "--prompt", "long")["hits"]] == ["long"]


def test_a_prompt_that_nobody_was_asked_is_a_usage_error(output: str) -> None:
    done = invoke(output, "beach", "--prompt", "lnog")

    assert done.exit_code == 2
    assert "there are short, long" in done.stderr


def test_no_more_than_the_limit_is_shown_and_all_are_counted(output: str) -> None:
    told = found(output, "*", "--limit", "3")

    assert (len(told["hits"]), told["found"]) == (3, len(SAID))


def test_captions_are_shown_as_they_are(output: str) -> None:
    shown = invoke(output, "sign").stdout

    assert SAID["markup", "short"] in shown
    assert "a/0.tar › markup  short  " in shown


def test_names_cannot_steer_a_terminal(output: str) -> None:
    done = invoke(output, "kite")

    assert "key [bold]  short" in done.stdout
    assert not {"\x1b", "\u202e"} & {*done.output, *invoke(output, "kite", "--json").stdout}


def test_a_long_caption_is_shown_where_the_words_are(tmp_path: Path, cache: Path) -> None:
    weeks = Weeks(str(tmp_path / "out"))
    weeks.publish(
        {("a", "long"): "nothing here. " * 60 + "Then a 海豚 dolphin jumps. " + "nothing here. " * 60}
    )

    shown = invoke(weeks.output, "dolphin").stdout

    assert "dolphin jumps" in shown
    assert len(shown) < 400
    assert shown.count("…") == 2


def test_nothing_published_is_said(tmp_path: Path) -> None:
    done = invoke(str(tmp_path), "dog")

    assert (done.exit_code, done.stdout) == (1, "")
    assert "nothing is published" in done.stderr


def indexed(output: str) -> dict[tuple[str, str], str]:
    """Everything that the index has."""
    hits = found(output, "*", "--limit", "1000")["hits"]
    rows = {(hit["asset_id"], hit["prompt_id"]): hit["caption_text"] for hit in hits}
    assert len(rows) == len(hits)
    return rows


def table(output: str) -> dict[tuple[str, str], str]:
    return {(row["asset_id"], row["prompt_id"]): row["caption_text"] for row in published(output)}


@pytest.mark.parametrize("seen", [(0, 1, 2, 3), (0, 2, 3), (1, 3)], ids=["all", "one skipped", "begun late"])
def test_the_index_is_the_table_each_week(tmp_path: Path, cache: Path, seen: tuple[int, ...]) -> None:
    weeks = Weeks(str(tmp_path / "out"))
    for number, captions in enumerate(WEEKS):
        weeks.publish(captions)
        if number in seen:
            assert indexed(weeks.output) == table(weeks.output)


def test_only_what_changed_is_put_into_the_index(tmp_path: Path, cache: Path) -> None:
    weeks = Weeks(str(tmp_path / "out"))
    weeks.publish(WEEKS[0])
    invoke(weeks.output, "dog")
    weeks.publish(WEEKS[1])

    assert "Put 3 captions" in invoke(weeks.output, "dog").stderr
    assert "Put" not in invoke(weeks.output, "dog").stderr


def test_another_table_of_the_same_run_is_indexed_anew(tmp_path: Path, cache: Path) -> None:
    for day, caption in enumerate(("A dog.", "A cat.")):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        weeks = Weeks(str(tmp_path / "out"), begun=BEGINNING + timedelta(days=day))
        weeks.publish({("a", "short"): caption})

        assert indexed(weeks.output) == table(weeks.output)


@pytest.mark.parametrize("damage", ["state.json", "index/meta.json", "index"])
def test_an_index_that_is_not_whole_is_made_anew(output: str, cache: Path, damage: str) -> None:
    before = indexed(output)
    (path,) = cache.glob(f"*/{damage}")
    shutil.rmtree(path) if path.is_dir() else path.write_bytes(b"{")

    assert indexed(output) == before


def test_a_cache_that_cannot_be_written_is_said(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = invoke(output, "dog")

    assert done.exit_code == 1
    assert "XDG_CACHE_HOME" in done.stderr


def test_a_table_on_s3_is_searched(s3: str, cache: Path) -> None:
    weeks = Weeks(s3)
    for captions in WEEKS[:2]:
        weeks.publish(captions)

        assert indexed(s3) == table(s3)
