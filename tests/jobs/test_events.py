"""jobs.events: what a run says to programs."""

from __future__ import annotations

import io
import json
from datetime import datetime

from jobs.events import Events
from pipeline.commit import Receipt
from tests.jobs.test_progress import plan


def test_each_unit_is_one_line_with_its_run_and_shard() -> None:
    stream, planned = io.StringIO(), plan(100, 100)
    events = Events(stream)

    events.planned(planned, 1)
    events.add_unit(Receipt("u1", 10, 7, {"corrupt": 3}, 35))

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("time")) <= datetime.fromisoformat(second.pop("time"))
    assert first == {"event": "planned", "run_id": "run0", "assets": 20, "units": 2, "committed": 1}
    assert second == {
        "event": "unit", "run_id": "run0", "unit_id": "u1", "shard": planned.units[1].shard.path, "assets": 10,
        "captions": 7, "output_tokens": 35, "failures_by_code": {"corrupt": 3},
    }  # fmt: skip


def test_names_that_strangers_chose_stay_within_their_line() -> None:
    stream, planned = io.StringIO(), plan(100)
    events = Events(stream)
    events.planned(planned, 0)

    events.add_unit(Receipt("u0", 10, 10, {"a\nb\x1b[2J": 1}, 5))

    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 2


def test_nobody_who_did_not_ask_is_told() -> None:
    Events().planned(plan(100), 0)
