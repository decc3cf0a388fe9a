"""pipeline.timeline: tokens are where the units' time was, and none is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import timeline
from pipeline.tally import Work

BEGAN = datetime(2026, 11, 2, 8, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def record(first: float, last: float, tokens: int, busy_s: float) -> dict[str, Any]:
    """A unit that took from the one second to the other, of whose 10 slots a fifth was idle."""
    took = {"caption_s": last - first, "busy_s": busy_s, "slot_steps": 100.0, "slots_idle": 20.0}
    return {"output_tokens": tokens, "begun_at": at(first), "ended_at": at(last), **took}


def test_commits_give_tokens_a_second() -> None:
    found = timeline.of_rows(Work(1, 100, at(10 * i)) for i in range(5))

    assert found is not None
    assert (found.seconds, found.tokens, found.recorded) == (40.0, 500, False)
    step = found.seconds / len(found.moments)
    assert sum(m.tokens_a_second * step for m in found.moments) == pytest.approx(500)


def test_a_single_commit_has_no_throughput() -> None:
    assert timeline.of_rows([Work(1, 100, BEGAN)]) is None
    assert timeline.of_records([]) is None


def test_records_are_spread_over_their_units_time() -> None:
    found = timeline.of_records([record(0, 20, 1000, 20.0), record(10, 40, 600, 15.0)])

    assert found is not None
    assert (found.seconds, found.tokens, found.busy_s) == (40.0, 1600, 35.0)
    assert [m.tokens_a_second for m in found.moments] == pytest.approx([60.0, 20.0])
    assert [m.busy for m in found.moments] == pytest.approx([25 / 30, 0.5])
    assert [m.idle for m in found.moments] == pytest.approx([0.2, 0.2])


def test_records_are_read_from_the_run_or_there_are_none(tmp_path: Path) -> None:
    told = [record(0, 20, 1000, 20.0)]
    (tmp_path / "runs" / "r").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(told), tmp_path / "runs" / "r" / "units.parquet")

    assert timeline.records(str(tmp_path), "r") == told
    assert timeline.records(str(tmp_path), "another") == []
