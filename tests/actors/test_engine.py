"""actors.engine: whose captions go on when, with a decoder that only writes down what it is asked."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from actors.engine import Call, Engine, Group
from pipeline.batching import Rooms, Slot

Place = Slot[Any]


@dataclass(eq=False)
class Block:
    count: int
    room: int


@dataclass
class Passes:
    """Notes the prompts that begin together, and how many captions go on in each step; fails at a step."""

    started: list[list[str]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    fails_at: int = -1

    def start(self, groups: Sequence[str], into: Sequence[Sequence[Place]]) -> list[int]:
        assert len(groups) == len(into)
        self.started.append(list(groups))
        return [0 for own in into for _ in own]

    def step(self, slots: Sequence[Place], tokens: Sequence[int]) -> list[int]:
        assert len(set(slots)) == len(slots) == len(tokens)
        if len(self.steps) == self.fails_at:
            self.fails_at = -1
            raise RuntimeError("no memory")
        self.steps.append(len(slots))
        return list(tokens)


class Counted:
    """A caption is as many tokens as it was opened with: 1, 2, 3, …"""

    def __init__(self) -> None:
        self.left: dict[Place, int] = {}
        self.said: dict[Place, list[int]] = {}

    def join(self, slot: Place, opening: int) -> None:
        assert slot not in self.said
        self.left[slot], self.said[slot] = opening, []

    def next(self, slots: Sequence[Place], logits: Sequence[int]) -> None:
        for slot, before in zip(slots, logits, strict=True):
            self.said[slot].append(before + 1)

    def last(self, slots: Sequence[Place]) -> list[int]:
        return [self.said[slot][-1] for slot in slots]

    def ended(self, slot: Place) -> bool:
        return len(self.said[slot]) == self.left[slot]

    def spoken(self, slot: Place) -> list[int]:
        return self.said[slot]

    def leave(self, slot: Place) -> None:
        del self.said[slot], self.left[slot]

    def reset(self) -> None:
        self.said.clear()
        self.left.clear()


def engine(
    passes: Passes, captions: int = 8, tokens: int = 10_000, prefill: int = 4096
) -> Engine[str, int, list[int]]:
    return Engine(passes, Counted(), partial(Rooms, tokens, captions, Block), prefill)


def call(
    name: str, outputs: Sequence[int], length: int = 100
) -> tuple[Call[str, int, list[int]], list[Group]]:
    """Prompts that are answered with so many tokens, each of a sample of its own."""

    def begin(groups: Sequence[Group]) -> list[str]:
        return [f"{name}{number}" for group in groups for number in group[:1]]

    return Call([length] * len(outputs), outputs, begin), [[i] for i in range(len(outputs))]


def answers(
    of: Engine[str, int, list[int]], name: str, outputs: Sequence[int], length: int = 100
) -> dict[int, int]:
    """How many tokens each prompt was answered with, having seen that they are its own."""
    found = dict(of.captions(*call(name, outputs, length)))
    assert all(said == list(range(1, len(said) + 1)) for said in found.values())
    return {number: len(said) for number, said in found.items()}


def test_every_prompt_is_answered_and_a_slot_is_free_when_its_caption_ends() -> None:
    passes, outputs = Passes(), [5, 1, 2, 9, 3]

    assert answers(engine(passes, captions=2), "a", outputs) == dict(enumerate(outputs))
    assert passes.started == [["a0", "a1"], ["a2"], ["a3"], ["a4"]]
    assert sum(passes.steps) == sum(outputs) - len(outputs)
    assert max(passes.steps) == 2


def test_a_pass_begins_no_more_prompt_tokens_than_it_may_but_one_group_at_least() -> None:
    passes = Passes()
    answers(engine(passes, prefill=250), "a", [1, 1, 1])
    answers(engine(passes, prefill=50), "b", [1, 1])

    assert passes.started == [["a0", "a1"], ["a2"], ["b0"], ["b1"]]


def test_prompts_of_a_sample_begin_together() -> None:
    passes = Passes()
    of = engine(passes, captions=3)
    asked, _ = call("a", [4, 4, 2, 2])
    said = dict(of.captions(asked, [[0, 1], [2, 3]]))

    assert {number: len(own) for number, own in said.items()} == {0: 4, 1: 4, 2: 2, 3: 2}
    assert passes.started == [["a0"], ["a2"]]


def test_more_prompts_of_a_sample_than_there_are_slots_begin_in_turns() -> None:
    passes = Passes()
    asked, _ = call("a", [1, 1, 1])
    said = dict(engine(passes, captions=2).captions(asked, [[0, 1, 2]]))

    assert sorted(said) == [0, 1, 2]
    assert passes.started == [["a0"], ["a2"]]


def test_two_callers_fill_each_others_slots() -> None:
    """Whatever their lengths, steps with idle slots are few while anybody waits."""
    dice = random.Random(0)
    outputs = [[max(1, int(dice.lognormvariate(4.7, 0.45))) for _ in range(64)] for _ in range(6)]
    passes = Passes()
    of = engine(passes, captions=16)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: answers(of, "abcdef"[i], outputs[i]), range(6)))

    assert found == [dict(enumerate(own)) for own in outputs]
    assert sum(len(own) for own in passes.started) == 6 * 64
    busy = sum(passes.steps) / (16 * len(passes.steps))
    assert busy > 0.9  # alone, one after another: 0.76


def test_callers_share_what_passes_take_and_nothing_of_it_is_lost() -> None:
    passes = Passes()
    of, asked = engine(passes, captions=4), [call("a", [5, 5, 5]), call("b", [9])]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: list(of.captions(*one)), asked))
    meters = [one.meter for one, _ in asked]

    running = sum(passes.steps)
    assert of.meter.slot_steps == 4 * len(passes.steps)
    assert of.meter.slots_idle == 4 * len(passes.steps) - running
    for name in ("busy_s", "slot_steps", "slots_idle"):
        assert sum(getattr(m, name) for m in meters) == pytest.approx(getattr(of.meter, name))
    assert [m.slot_steps - m.slots_idle for m in meters] == pytest.approx([12, 8])


def test_what_a_pass_raises_is_told_to_all_who_are_under_way_and_the_engine_goes_on() -> None:
    of, both = engine(Passes(fails_at=3)), threading.Barrier(2)

    def asked(name: str) -> str:
        both.wait(10)
        try:
            return str(answers(of, name, [1000]))
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(asked, "ab"))

    assert "no memory" in told
    assert set(told) <= {"no memory", "{0: 1000}"}  # one may have begun after the other failed
    assert answers(of, "c", [3, 4]) == {0: 3, 1: 4}


def test_a_caller_that_goes_away_leaves_its_slots() -> None:
    passes = Passes()
    of = engine(passes, captions=2)
    gone = of.captions(*call("a", [1, 50, 50]))
    next(gone)
    gone.close()

    assert answers(of, "b", [3, 3]) == {0: 3, 1: 3}
    assert passes.steps[-2:] == [2, 2]


def test_a_caller_that_comes_as_another_leaves_is_not_lost() -> None:
    of, held, hold = engine(Passes()), threading.Event(), threading.Event()
    of._thread.submit(held.set)
    of._thread.submit(hold.wait)
    held.wait(10)
    while of._thread._work_queue.qsize():  # until the thread is held
        pass
    of._thread.submit(of._leave, call("gone", [1])[0])
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(lambda: next(of.captions(*call("a", [1]))))
        while of._thread._work_queue.qsize() < 2:
            pass
        hold.set()

        assert coming.result(10) == (0, [1])


def test_callers_with_nothing_to_ask_are_answered_at_once() -> None:
    assert answers(engine(Passes()), "a", []) == {}


@pytest.mark.parametrize("tokens", [150, 350])
def test_a_short_cache_makes_prompts_wait(tokens: int) -> None:
    passes = Passes()

    assert answers(engine(passes, tokens=tokens), "a", [3] * 5) == dict.fromkeys(range(5), 3)
    assert max(passes.steps) == max(1, tokens // 108)
