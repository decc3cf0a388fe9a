"""`captionmill explain`: one asset found by id, by its beginning and by key, and its whole story."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests import browser, tables
from tests.output import JOB, Output, captioned, write_input


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Input, checkpoint and output of sixteen assets, two of which failed."""
    made = tmp_path_factory.mktemp("published")
    write_input(made)
    (made / "job.toml").write_text(JOB.format(folder=made))
    captioned(JOB.format(folder=made))
    return made


@pytest.fixture
def rows(folder: Path) -> list[dict[str, Any]]:
    """Its captions."""
    output = Output(folder / "out")
    found: list[dict[str, Any]] = output.rows(output.path()).to_pylist()
    return found


def invoked(folder: Path, *arguments: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(main, ["explain", str(folder / "out"), *arguments], prog_name="captionmill")


def test_an_asset_is_found_by_its_id_its_beginning_and_its_key(tmp_path: Path) -> None:
    tables.publish(tmp_path / "out", [tables.caption("a cat", i, key=f"k{i}") for i in range(9)])
    wanted = tables.caption("a cat", 4, key="k4")["asset_id"]
    told = [invoked(tmp_path, *words, "--json") for words in ((wanted,), (wanted[:10],), ("k4", "--key"))]

    assert [json.loads(done.stdout)["asset"]["asset_id"] for done in told] == [wanted] * 3


def test_a_key_of_several_shards_is_refused_with_their_ids(folder: Path, rows: list[dict[str, Any]]) -> None:
    done = invoked(folder, "000", "--key")

    assert done.exit_code == 2
    assert {row["asset_id"] for row in rows if row["key"] == "000"} <= set(
        done.stderr.replace(",", "").split()
    )


def test_an_asset_that_is_not_there_is_a_usage_error(folder: Path) -> None:
    done = invoked(folder, "ffffffffffffffffffff")

    assert done.exit_code == 2
    assert "no published asset" in done.stderr


def test_the_story_says_where_the_bytes_lie(folder: Path, rows: list[dict[str, Any]]) -> None:
    row = next(row for row in rows if row["media"] == "image")
    told = json.loads(invoked(folder, row["asset_id"], "--json").stdout)
    (member,) = told["where"]["members"]
    data = (folder / told["where"]["shard"]).read_bytes()[member["offset"] :][: member["size"]]

    assert hashlib.sha256(data).hexdigest() == row["content_sha256"] == told["asset"]["content_sha256"]
    assert [c["asked"][0]["text"] for c in told["captions"]] == [
        "Describe the image in detail.",
        "What is it?",
    ]
    assert told["recipes"][row["recipe_id"]]["generation"]["max_new_tokens"] == 256


def test_a_failure_comes_with_what_it_means(folder: Path) -> None:
    output = Output(folder / "out")
    failed = output.rows(next(f["path"] for f in output.snapshot["failures"]["files"] if f["rows"]))
    done = invoked(folder, failed["asset_id"][0].as_py(), "--json")
    (told,) = json.loads(done.stdout)["failures"]

    assert told["error_code"] == "unidentified"
    assert "no allowed decoder" in told["means"]


def test_the_page_draws_the_grid_on_the_picture(
    folder: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    row = next(row for row in rows if row["n_crops"] > 5)
    page = tmp_path / "page.html"
    invoked(folder, row["asset_id"], "--job", str(folder / "job.toml"), "-o", str(page))

    assert page.read_text().count("<image href=") == 1
    assert page.read_text().count('width="100" height="100"') == 2 * (row["n_crops"] - 1)


@browser.needed
def test_axe_finds_nothing_serious_on_the_page(
    folder: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    invoked(folder, rows[0]["asset_id"], "--job", str(folder / "job.toml"), "-o", str(page))

    assert browser.serious(page, browser.PHONE, dark=True) == []


def test_the_row_is_verified(folder: Path, rows: list[dict[str, Any]]) -> None:
    done = invoked(folder, rows[0]["asset_id"], "--verify")

    assert done.exit_code == 0
    assert "as published" in done.stderr


def test_a_row_that_was_changed_does_not_verify(folder: Path, tmp_path: Path) -> None:
    output = Output(Path(shutil.copytree(folder / "out", tmp_path / "out")))

    def worse(table: pa.Table) -> pa.Table:
        field = table.schema.field("content_sha256")
        return table.set_column(
            table.schema.get_field_index(field.name), field, pc.utf8_upper(table[field.name])
        )

    output.rewrite(output.path(), worse)
    asset_id = output.rows(output.path())["asset_id"][0].as_py()
    done = CliRunner().invoke(main, ["verify", str(output.folder), "--asset", asset_id])

    assert done.exit_code == 1
    assert "content_sha256" in done.stderr


def test_captions_are_shown_without_what_moves_a_terminal(tmp_path: Path) -> None:
    row = tables.caption("\x1b[2Jred \u202ecup", key="\x1b]0;t\x07k")
    tables.publish(tmp_path / "out", [row])
    done = invoked(tmp_path, row["asset_id"])

    assert "red cup" in done.stderr
    assert not {"\x1b", "\u202e", "\x07"} & set(done.stderr)
