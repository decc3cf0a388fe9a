"""pipeline.delta: what was removed and what was put between an earlier run and the published one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import delta, storage
from pipeline.commit import manifest_uri
from pipeline.delta import KEY, Delta
from pipeline.errors import IntegrityError, StorageError
from tests.weekly_table import REMOVED, WEEKS, Weeks, published

TEXT = (*KEY, "caption_text")


@pytest.fixture
def weeks(tmp_path: Path) -> Weeks:
    """Four weeks of a table."""
    made = Weeks(str(tmp_path / "out"))
    for captions in WEEKS:
        made.publish(captions)
    return made


def since(weeks: Weeks, run: str) -> Delta:
    found = delta.since(weeks.output, run)
    assert found is not None
    return found


def followed(index: dict[tuple[str, str], str], step: Delta) -> dict[tuple[str, str], str]:
    """The index, brought in step in the order that the delta asks for."""
    for batch in step.removed():
        for row in batch.to_pylist():
            index.pop((row["asset_id"], row["prompt_id"]), None)
    for batch in step.captions(TEXT):
        index |= {(row["asset_id"], row["prompt_id"]): row["caption_text"] for row in batch.to_pylist()}
    return index


def table(output: str) -> dict[tuple[str, str], str]:
    return {(row["asset_id"], row["prompt_id"]): row["caption_text"] for row in published(output)}


def test_an_index_that_follows_each_week_is_the_table_each_week(tmp_path: Path) -> None:
    weeks = Weeks(str(tmp_path))
    index: dict[tuple[str, str], str] = {}
    for captions in WEEKS:
        weeks.publish(captions)
        step = since(weeks, weeks.runs[-2]) if len(weeks.runs) > 1 else delta.whole(weeks.output)
        index = followed(index, step)

        assert index == table(weeks.output)


@pytest.mark.parametrize("week", range(len(WEEKS)))
def test_from_any_week_the_delta_leads_to_the_published_table(
    weeks: Weeks, tmp_path: Path, week: int
) -> None:
    before = Weeks(str(tmp_path / "before"))
    for captions in WEEKS[: week + 1]:
        before.publish(captions)

    index = followed(table(before.output), since(weeks, weeks.runs[week]))

    assert index == table(weeks.output)
    assert followed(index, since(weeks, weeks.runs[week])) == table(weeks.output)  # twice does no harm


def test_only_what_was_made_since_is_read_out(weeks: Weeks) -> None:
    step = since(weeks, weeks.runs[2])
    rows = [row for batch in step.captions(["key", "run_id"]) for row in batch.to_pylist()]

    assert rows == [{"key": "new", "run_id": weeks.runs[3]}]
    assert {row["reason"] for batch in step.removed() for row in batch.to_pylist()} == {"left"}
    assert step.run_id == weeks.runs[3]


def test_the_published_run_is_no_step_away_from_itself(weeks: Weeks) -> None:
    step = since(weeks, weeks.runs[-1])

    assert (step.steps, list(step.removed()), list(step.captions(KEY))) == ((), [], [])


def test_a_removed_asset_that_had_only_a_failure_names_no_caption(weeks: Weeks) -> None:
    step = since(weeks, weeks.runs[2])
    weeks.put(f"removed/{weeks.runs[3]}.parquet", [{"asset_id": "0" * 32, "reason": "left"}], REMOVED)

    assert [len(batch) for batch in step.removed()] == [0]


def test_a_run_that_did_not_lead_here_has_no_delta(weeks: Weeks) -> None:
    assert delta.since(weeks.output, "f" * 16) is None


def test_a_manifest_that_is_gone_ends_the_way(weeks: Weeks) -> None:
    storage.delete(manifest_uri(weeks.output, weeks.runs[2]))

    assert delta.since(weeks.output, weeks.runs[1]) is None
    assert delta.since(weeks.output, weeks.runs[2]) is None


def test_a_chain_that_bites_its_tail_ends(weeks: Weeks) -> None:
    uri = manifest_uri(weeks.output, weeks.runs[0])
    told = json.loads(storage.read(uri))
    told["snapshot"]["previous_run_id"] = weeks.runs[-1]
    storage.put(uri, json.dumps(told).encode())

    assert delta.since(weeks.output, "f" * 16) is None


def test_nothing_published_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing is published"):
        delta.whole(str(tmp_path))


def test_a_damaged_file_is_named(weeks: Weeks) -> None:
    step = delta.whole(weeks.output)
    path = step.snapshot["captions"]["files"][1]["path"]
    storage.put(storage.join(weeks.output, path), b"PAR1 and then nothing")

    with pytest.raises(IntegrityError, match="part-00001"):
        list(step.captions(TEXT))


def test_a_delta_is_read_from_s3(s3: str) -> None:
    weeks = Weeks(s3)
    for captions in WEEKS[:2]:
        weeks.publish(captions)

    assert followed({}, delta.whole(s3)) == table(s3)
    assert sum(map(len, since(weeks, weeks.runs[0]).captions(KEY))) == 3
