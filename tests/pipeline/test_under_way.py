"""pipeline.under_way: how far runs are, from what lies in the output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jobs import status
from pipeline import publish, storage, under_way, unit_records
from pipeline.commit import Committer, Parts
from pipeline.errors import IntegrityError, StorageError
from pipeline.fit import Needs
from pipeline.papers import plan_uri
from pipeline.plan import Plan
from pipeline.publish import Compactor, Partition
from pipeline.storage import Entry
from pipeline.types import Captioned
from tests import made

UNITS = [made.captioned(number, 4, failed=(number,)) for number in range(3)]
NEEDS = Needs(0, 0, 0, 0, 0)


def planned(output: str, units: Sequence[Captioned] = UNITS) -> Plan:
    """The plan of a run of these units, which is written down."""
    shards, indexes = tuple(u.unit.shard for u in units), tuple(f"{n}.parquet" for n in range(len(units)))
    whole = tuple(u.unit for u in units)
    plan = Plan(
        "run0", "recipe0", "birds", shards, indexes, whole, sum(u.count for u in whole), 0, NEEDS, "job0"
    )
    storage.put(plan_uri(output, "run0"), plan.to_json().encode())
    return plan


def commit(output: str, units: Sequence[Captioned]) -> None:
    """Parts of these units."""
    committer = Committer(output, made.CONTEXT, {})
    for unit in units:
        committer.commit(unit)


@pytest.fixture(params=["disk", "s3"])
def output(request: pytest.FixtureRequest) -> str:
    """An empty output."""
    where = request.getfixturevalue("tmp_path" if request.param == "disk" else "s3")
    return f"{where}/out"


def test_a_run_under_way_is_as_far_as_its_parts(output: str) -> None:
    planned(output)
    commit(output, UNITS[:2])

    found = under_way.look(output)

    (run,) = found.runs
    assert found.snapshot is None
    assert (run.units, run.assets) == (under_way.Done(2, 3), under_way.Done(8, 12))
    assert run.visual_tokens == under_way.Done(240, 360)
    assert (run.counted, run.captions, run.output_tokens) == (2, 12, 36)
    assert run.failures_by_code == {"corrupt": 2}
    assert run.last_commit_s is not None
    assert run.last_commit_s >= run.planned_s


def test_a_published_run_is_not_under_way(output: str) -> None:
    plan = planned(output)
    commit(output, UNITS)
    done = Compactor(output, "run0", plan.unit_ids, {}).compact(Partition(0, 1))
    publish.publish(output, plan, [done], {})

    found = under_way.look(output)

    assert found.runs == ()
    assert found.snapshot is not None
    assert found.snapshot["captions"]["rows"] == 18


def test_parts_that_no_plan_names_are_not_counted(output: str) -> None:
    planned(output, UNITS[:1])
    commit(output, UNITS)

    assert under_way.look(output).runs[0].units == under_way.Done(1, 1)


def test_an_index_that_no_plan_has_yet_is_under_way(output: str) -> None:
    storage.put(f"{output}/index/a.parquet", b"")
    found = under_way.look(output).indexing

    assert found is not None
    assert found.shards == 1
    planned(output)
    assert under_way.look(output).indexing is None


def test_a_part_that_is_not_whole_counts_as_a_unit_and_no_more(tmp_path: Any) -> None:
    planned(str(tmp_path))
    storage.put(Parts(str(tmp_path), "run0").uri(UNITS[0].unit.unit_id), b"PAR1 no PAR1")

    (run,) = under_way.look(str(tmp_path)).runs

    assert (run.units.done, run.counted, run.captions) == (1, 0, 0)


def test_of_many_parts_some_are_read(tmp_path: Any) -> None:
    planned(str(tmp_path))
    commit(str(tmp_path), UNITS)

    (run,) = under_way.look(str(tmp_path), footers=2).runs

    assert (run.units.done, run.counted, run.captions) == (3, 2, 12)


def test_a_plan_that_is_none_is_named(tmp_path: Any) -> None:
    storage.put(plan_uri(str(tmp_path), "run0"), b"[]")

    with pytest.raises(IntegrityError, match=r"runs/run0/plan.json is not what captionmill writes"):
        under_way.look(str(tmp_path))


def entries(*times: float) -> list[Entry]:
    return [Entry(f"{i}", f"{i}", 1, "", when) for i, when in enumerate(times)]


def test_a_rate_is_of_the_commits_since_the_last_pause() -> None:
    rate, wait = under_way._rate(entries(0, 10, 5000, 5010, 5030), np.array([5, 5, 900, 30, 60]))

    assert rate == pytest.approx(3.0)
    assert wait == 20


def test_one_commit_gives_no_rate() -> None:
    assert under_way._rate(entries(7), np.array([5])) == (None, 0.0)


def test_a_run_without_a_commit_for_long_has_stalled(tmp_path: Any) -> None:
    planned(str(tmp_path))
    commit(str(tmp_path), UNITS[:2])
    (run,) = under_way.look(str(tmp_path)).runs
    assert run.last_commit_s is not None

    assert not run.stalled(run.last_commit_s + under_way.LEAST_S - 1)
    assert run.stalled(run.last_commit_s + under_way.LEAST_S + 10 * run.longest_wait_s)


def test_status_is_complete_for_programs(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    planned(output)
    commit(output, UNITS[:1])

    status.show(output, as_json=True)

    told = json.loads(capsys.readouterr().out)
    assert told["snapshot"] is None
    (run,) = told["runs"]
    assert run["units"] == {"done": 1, "planned": 3}
    assert run["failures_by_code"] == {"corrupt": 1}
    assert run["stalled"] is False


def test_status_says_for_people_how_far_a_run_is(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    planned(str(tmp_path))
    commit(str(tmp_path), UNITS[:1])

    status.show(str(tmp_path), as_json=False)

    said = capsys.readouterr().out
    assert "nothing  so far" in said
    assert "33 %" in said
    assert "assets    4 of 12" in said
    assert "units     1 of 3, the last one 0 s ago" in said
    assert "failures  1: corrupt 1" in said


def test_an_address_where_nothing_is_is_an_error(tmp_path: Any) -> None:
    with pytest.raises(StorageError, match="check the address"):
        status.show(str(tmp_path), as_json=False)


def test_records_survive_their_footer(tmp_path: Any) -> None:
    commit(str(tmp_path), UNITS[:1])
    (part,) = storage.listing(str(tmp_path))

    (record,) = under_way._records([part], 1)

    assert unit_records.table([record]).to_pylist()[0]["busy_s"] == made.EFFORT.busy_s
