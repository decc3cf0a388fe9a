"""Figures, rounds and tables of `captionmill bench`, without a measurement."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from jobs.bench.figure import Ceiling, Figure, Found, Spread, Versus, scaled, table, to_json
from jobs.bench.rounds import Rounds, rounds

FIGURE = Figure(
    "by the index",
    Spread(5.0, 4.5, 6.25),
    "us of CPU an asset",
    Versus("another reader", Spread(17.0, 15.0, 18.0)),
    Ceiling("read() of a cached file", 8e9, 4e9, "B"),
    {"theirs, us": 85.0},
)


def test_a_spread_is_median_least_and_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)


def test_sides_run_in_turns_once_more_than_is_counted() -> None:
    turns = list[str]()
    sides = {name: lambda name=name: turns.append(name) for name in "ab"}

    done = rounds(sides, 2)

    assert turns == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(own) for name, own in done.taken.items()} == {"a": 2, "b": 2}


def test_a_side_may_have_a_clock_of_its_own() -> None:
    every, own = iter(range(0, 100, 10)), iter(range(10))
    sides = {"a": lambda: None, "b": lambda: None}

    done = rounds(sides, 1, lambda: next(every), {"b": lambda: next(own)})

    assert done.taken == {"a": (10,), "b": (1,)}


def test_what_the_first_round_made_is_kept() -> None:
    made = iter(range(10))

    assert rounds({"here": lambda: next(made)}, 3).made == {"here": 0}


def test_seconds_are_those_of_the_clock() -> None:
    ticks = iter([0.0, 2.0, 10.0, 15.0])

    assert rounds({"here": lambda: None}, 2, lambda: next(ticks)).taken == {"here": (2.0, 5.0)}


def test_rounds_that_are_long_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    ticks = iter([0.0, 9.9, 10.0, 20.1])

    rounds({"here": lambda: None}, 2, lambda: next(ticks))

    assert capsys.readouterr().err == "  round 2 of 2: here 10.1 s\n"


def test_ratios_are_taken_round_by_round() -> None:
    done = Rounds[None]({}, {"here": (1.0, 2.0, 4.0), "there": (3.0, 4.0, 4.0)})

    assert done.ratio("there", "here") == Spread(2.0, 1.0, 3.0)


def test_rates_are_work_by_seconds() -> None:
    done = Rounds[None]({}, {"here": (1.0, 2.0, 4.0)})

    assert done.rate("here", 8) == Spread(4.0, 2.0, 8.0)


@pytest.mark.parametrize(
    ("rate", "said"), [(0.5, "0.5 "), (12.0, "12 "), (8.1234e9, "8.12 G"), (1e15, "1e+03 T")]
)
def test_rates_are_said_in_three_digits(rate: float, said: str) -> None:
    assert scaled(rate) == said


def test_the_table_has_value_peer_ratio_and_share() -> None:
    console = Console(width=200)
    with console.capture() as said:
        console.print(table(Found("reading", "a tar", [FIGURE])))

    for words in (
        "5 (4.5 to 6.25) us of CPU",
        "another reader",
        "17 (15 to 18)",
        "50.0% of 8 GB/s",
        "theirs, us 85",
    ):
        assert words in said.get()


def test_the_table_has_no_empty_columns_and_one_value_no_spread() -> None:
    console = Console(width=30)
    with console.capture() as said:
        console.print(table(Found("reading", "a tar", [Figure("preprocessors", Spread.of([5.0]), "us")])))

    assert [line.strip("┃│ ").split() for line in said.get().splitlines()[2:5:2]] == [
        ["what", "┃", "here"],
        ["preprocessors", "│", "5", "us"],
    ]


def test_json_has_the_machine_and_every_figure_with_its_share() -> None:
    told = json.loads(to_json({"cores": 2}, [Found("reading", "a tar", [FIGURE], ["a note"])]))

    (part,) = told["parts"]
    (figure,) = part["figures"]
    assert told["machine"] == {"cores": 2}
    assert (part["part"], part["notes"]) == ("reading", ["a note"])
    assert figure["versus"] == {
        "peer": "another reader",
        "ratio": {"median": 17.0, "low": 15.0, "high": 18.0},
    }
    assert figure["ceiling"]["share"] == 0.5
