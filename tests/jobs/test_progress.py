"""jobs.progress: what a person sees of a run that is going on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from jobs.progress import Progress, Stage, duration
from pipeline.commit import Receipt
from pipeline.fit import Needs
from pipeline.plan import Plan
from pipeline.types import Cost, Unit
from tests import made


def plan(*tokens: int) -> Plan:
    """A plan of units of 10 assets with these visual tokens."""
    unit = made.captioned(count=0).unit
    units = [replace(unit, unit_id=f"u{i}", count=10, cost=Cost(t, 0, 0)) for i, t in enumerate(tokens)]
    return Plan(
        "run0", "recipe0", "birds", (), (), tuple(units), 10 * len(units), 0, Needs(0, 0, 0, 0, 0), "job0"
    )


def receipt(unit: Unit, failures: int = 0) -> Receipt:
    """The receipt of a unit whose captions have 5 tokens each."""
    codes = {"corrupt": failures} if failures else {}
    return Receipt(unit.unit_id, 10, 10 - failures, codes, 5 * (10 - failures))


def shown(
    planned: Plan, receipts: Sequence[Receipt], committed: Sequence[str] = (), terminal: bool = False
) -> str:
    """Everything that is printed."""
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=120, highlight=False)
    with Progress(planned, set(committed), console) as progress:
        for each in receipts:
            progress.add_unit(each)
    return said.getvalue()


def line(planned: Plan, receipts: Sequence[Receipt] = (), committed: Sequence[str] = ()) -> str:
    """The line after these receipts."""
    progress = Progress(planned, set(committed), Console(file=io.StringIO()))
    for each in receipts:
        progress.add_unit(each)
    return progress.line().removeprefix("caption ")


def test_a_run_begins_at_nothing() -> None:
    assert line(plan(100, 100)).startswith("0/20 assets · 0/2 units · 0 tokens (0/s) · time left unknown yet")


def test_a_receipt_counts_assets_units_and_tokens() -> None:
    planned = plan(100, 100)

    assert line(planned, [receipt(planned.units[0])]).startswith("10/20 assets · 1/2 units · 50 tokens (")


def test_units_of_an_earlier_session_count_as_done() -> None:
    assert line(plan(100, 100, 100), committed=["u1"]).startswith("10/30 assets · 1/3 units · 0 tokens (0/s)")


def test_failures_are_shown_once_there_are_any() -> None:
    planned = plan(100, 100)

    assert "failure" not in line(planned, [receipt(planned.units[0])])
    assert "3 failures" in line(planned, [receipt(planned.units[0], failures=3)])


def test_the_time_left_is_known_from_the_second_receipt_on() -> None:
    planned = plan(100, 100, 100)

    assert "time left unknown yet" in line(planned, [receipt(planned.units[0])])
    assert line(planned, [receipt(u) for u in planned.units[:2]]).endswith("0 s left")


def test_units_that_cost_nothing_are_units_too() -> None:
    planned = plan(0, 0)

    assert line(planned, [receipt(u) for u in planned.units]).startswith("20/20 assets · 2/2 units")


def test_elsewhere_than_on_a_terminal_there_are_plain_lines() -> None:
    planned = plan(*[100] * 50)

    printed = shown(planned, [receipt(u) for u in planned.units])

    assert "\x1b" not in printed
    assert 1 <= len(printed.splitlines()) <= 4  # far less than one a unit


def test_the_last_line_says_that_everything_is_done() -> None:
    planned = plan(*[100] * 50)

    assert (
        shown(planned, [receipt(u) for u in planned.units])
        .splitlines()[-1]
        .startswith("caption 500/500 assets · 50/50 units")
    )


def test_a_terminal_has_live_lines_that_go_at_the_end() -> None:
    planned = plan(100, 100)

    printed = shown(planned, [receipt(u, failures=1) for u in planned.units], terminal=True)

    assert "publish" in printed
    assert "failures 2: corrupt 2" in printed
    assert "\x1b[2K" in printed
    assert printed.splitlines()[-1].endswith("2 failures · done")


def test_the_bar_is_of_visual_tokens_and_not_of_assets() -> None:
    planned = plan(300, 100)
    progress = Progress(planned, set(), Console(file=io.StringIO()))
    progress.add_unit(receipt(planned.units[0]))

    assert progress.share() == 0.75


def test_each_unit_has_a_line_where_that_is_asked_for() -> None:
    planned, said = plan(100, 100), io.StringIO()
    with Progress(planned, set(), Console(file=said, width=120), each=True) as progress:
        for unit in planned.units:
            progress.add_unit(receipt(unit, failures=2))

    lines = [line for line in said.getvalue().splitlines() if line.startswith("  u")]
    assert lines == [
        f"  u{i} of a/000000.tar · 10 assets · 8 captions · 40 tokens · failures 2: corrupt 2"
        for i in range(2)
    ]


@pytest.mark.parametrize(("total", "shards"), [(3, "3 shards"), (1, "1 shard")])
def test_a_stage_says_how_many_there_are(total: int, shards: str) -> None:
    said = io.StringIO()
    with Stage("index", total, "shard", Console(file=said)) as stage:
        for _ in range(total):
            stage.add(1)

    assert said.getvalue().splitlines() == [f"index   {shards}", f"index   {total}/{shards} · done"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (9.4, "9 s"),
        (59.6, "1 min 00 s"),
        (727, "12 min 07 s"),
        (3599.7, "1 h 00 min"),
        (11_100, "3 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations_are_said_in_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
