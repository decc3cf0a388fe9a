"""The examples that keep an index in step: after every week it is the published table, also where one was skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import lancedb
import pytest

from jobs.examples import keep_duckdb, keep_lancedb
from pipeline import storage
from pipeline.commit import manifest_uri
from tests.weekly_table import WEEKS, Weeks, published

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Example:
    """One of the examples, and how to read what it keeps."""

    keep: Callable[[str, str], str]
    rows: Callable[[str], Rows]


def of_duckdb(index: str) -> Rows:
    with duckdb.connect(index) as db:
        return db.execute("FROM captions ORDER BY asset_id, prompt_id").fetchall()


def of_lancedb(index: str) -> Rows:
    return as_rows(lancedb.connect(index).open_table("captions").to_arrow().to_pylist())


def as_rows(rows: Iterable[dict[str, Any]]) -> Rows:
    return sorted(tuple(row[name] for name in keep_lancedb.COLUMNS) for row in rows)


EXAMPLES = {
    "duckdb": Example(keep_duckdb.keep, of_duckdb),
    "lancedb": Example(keep_lancedb.keep, of_lancedb),
}


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Example:
    """Each of them."""
    return EXAMPLES[request.param]


@pytest.mark.parametrize("seen", [(0, 1, 2, 3), (0, 2, 3), (1, 3)], ids=["all", "one skipped", "begun late"])
def test_the_index_is_the_table_each_week(tmp_path: Path, example: Example, seen: tuple[int, ...]) -> None:
    weeks, index = Weeks(str(tmp_path / "out")), str(tmp_path / "index")
    for number, captions in enumerate(WEEKS):
        weeks.publish(captions)
        if number in seen:
            said = example.keep(weeks.output, index)

            assert example.rows(index) == as_rows(published(weeks.output))
            assert ("made anew" in said) == (number == seen[0])
            assert weeks.runs[-1] in said


def test_the_same_week_again_changes_nothing(tmp_path: Path, example: Example) -> None:
    weeks, index = Weeks(str(tmp_path / "out")), str(tmp_path / "index")
    weeks.publish(WEEKS[0])
    example.keep(weeks.output, index)

    assert "0 runs on" in example.keep(weeks.output, index)
    assert example.rows(index) == as_rows(published(weeks.output))


def test_where_the_way_is_gone_the_index_is_made_anew(tmp_path: Path, example: Example) -> None:
    weeks, index = Weeks(str(tmp_path / "out")), str(tmp_path / "index")
    for captions in WEEKS[:3]:
        weeks.publish(captions)
        if len(weeks.runs) == 1:
            example.keep(weeks.output, index)
    storage.delete(manifest_uri(weeks.output, weeks.runs[1]))

    assert "made anew" in example.keep(weeks.output, index)
    assert example.rows(index) == as_rows(published(weeks.output))
