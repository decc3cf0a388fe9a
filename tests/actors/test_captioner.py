"""actors.captioner: units in, answers out, with a small generator that answers from the asset's digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.captioner import Captioner, OutOfMemory
from actors.meter import Meter
from pipeline import storage
from pipeline.commit import Parts
from pipeline.config import GenerationConfig, PromptConfig
from pipeline.errors import MediaError
from pipeline.messages import done_to_table, prepared_to_table, table_to_captioned, table_to_done
from pipeline.types import (
    Answer,
    Asset,
    Caption,
    Code,
    Cost,
    Finish,
    Media,
    Prepared,
    Problem,
    Request,
    Sample,
    Shard,
    ShardFormat,
    Size,
    Stage,
    Turn,
    Unit,
    View,
)
from tests import made

PROMPTS = (
    PromptConfig("long", (Turn("user", "Describe."),)),
    PromptConfig("count", (Turn("user", "How many?"),)),
)
SETTINGS = GenerationConfig(max_new_tokens=8, batch_tokens=400, batch_size=8)


class Echo:
    """Says digest and prompt id, the last first; prompts are as long as the digest says.

    It runs out of memory where there are more than `room` requests.
    """

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.calls: list[int] = []

    def encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request:
        if prompt.id in text:
            raise MediaError(Code.MISSING_FIELD, f"no {prompt.id}")
        return Request(sample, prompt.id, (7,) * int(sample.view.sha256[:4], 16), 5)

    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        self.calls.append(len(requests))
        if len(requests) > self.room:
            raise OutOfMemory(f"{len(requests)} are too many")
        for number, request in reversed(list(enumerate(requests))):
            yield number, caption(request.sample.view.sha256, request.prompt_id)


def caption(sha256: str, prompt_id: str) -> Caption:
    return Caption(f"{sha256} {prompt_id}", (1, 2), Finish.STOP, -0.5, 9, 5)


def unit(lengths: Sequence[int], text: Mapping[int, Mapping[str, str]] | None = None) -> Prepared:
    """A unit whose assets ask for prompts of so many tokens; 0 stands for an asset that did not decode."""
    shard = Shard("mem://a", "a", "1", 1, ShardFormat.TAR)
    sha = [f"{n:04x}{i:04x}" for i, n in enumerate(lengths)]
    assets = [
        Asset(f"{i:032x}", f"k{i}", Media.IMAGE, (), s, 1, (text or {}).get(i, {}), (Size(1, 1),))
        for i, s in enumerate(sha)
    ]
    views = [View(i, Media.IMAGE, s, (Size(1, 1),), (1, 1), 2, ()) for i, s in enumerate(sha)]
    samples = [Sample(v, np.zeros((2, 1, 1, 3), np.uint8)) for v, n in zip(views, lengths, strict=True) if n]
    corrupt = Problem(Stage.DECODE, Code.CORRUPT, "broken")
    problems = [
        Answer(i, s, None, corrupt) for i, (s, n) in enumerate(zip(sha, lengths, strict=True)) if not n
    ]
    whole = Unit("u", shard, 0, len(sha), Cost(1, 1, 1))
    return Prepared(whole, tuple(assets), tuple(samples), tuple(problems), made.PREPARATION)


@pytest.mark.parametrize("room", [1000, 3, 1])
def test_answers_come_in_input_order_whatever_ran_together(room: int) -> None:
    prepared = unit([30, 90, 60, 0, 120, 45, 10])

    captioned = Captioner(lambda: Echo(room), PROMPTS, SETTINGS).caption(prepared)

    expected = [
        Answer(v.position, v.sha256, p.id, caption(v.sha256, p.id)) for v in captioned.views for p in PROMPTS
    ]
    expected[6:6] = prepared.problems
    assert list(captioned.answers) == expected


def test_unit_assets_and_views_travel_on() -> None:
    prepared = unit([30, 0, 60])

    captioned = Captioner(Echo, PROMPTS, SETTINGS).caption(prepared)

    assert (captioned.unit, captioned.assets) == (prepared.unit, prepared.assets)
    assert captioned.views == tuple(s.view for s in prepared.samples)


def test_a_unit_without_samples_is_its_problems() -> None:
    prepared = unit([0, 0])

    assert Captioner(Echo, PROMPTS, SETTINGS).caption(prepared).answers == prepared.problems


def test_a_prompt_that_cannot_be_asked_is_a_problem_of_that_prompt_alone() -> None:
    captioned = Captioner(Echo, PROMPTS, SETTINGS).caption(unit([30, 40], {1: {"count": "x"}}))

    assert captioned.answers[3].outcome == Problem(Stage.PROMPT, Code.MISSING_FIELD, "no count")
    assert [a.prompt_id for a in captioned.answers if isinstance(a.outcome, Caption)] == [
        "long",
        "count",
        "long",
    ]


def test_a_sample_is_asked_only_what_is_asked_about_its_kind() -> None:
    turns = PROMPTS[0].turns
    prompts = (
        PromptConfig("all", turns),
        PromptConfig("clips", video=turns),
        PromptConfig("photos", image=turns),
    )

    captioned = Captioner(Echo, prompts, SETTINGS).caption(unit([30, 40]))

    assert [(a.position, a.prompt_id) for a in captioned.answers] == [
        (0, "all"),
        (0, "photos"),
        (1, "all"),
        (1, "photos"),
    ]


def test_a_sample_that_nobody_asks_about_is_one_problem_under_no_prompt() -> None:
    prompts = [PromptConfig("clips", video=PROMPTS[0].turns), PromptConfig("sets", images=PROMPTS[0].turns)]
    prepared = unit([30, 0])

    captioned = Captioner(Echo, prompts, SETTINGS).caption(prepared)

    nobody = Problem(Stage.PROMPT, Code.NO_PROMPT, "no prompt of the job asks about single images")
    assert captioned.answers == (
        Answer(0, captioned.views[0].sha256, None, nobody),
        *prepared.problems,
    )


def test_a_batch_is_halved_until_it_fits() -> None:
    echo = Echo(room=3)

    captioned = Captioner(lambda: echo, PROMPTS[:1], SETTINGS).caption(unit([40] * 8))

    assert all(isinstance(a.outcome, Caption) for a in captioned.answers)
    assert echo.calls == [8, 4, 2, 2, 4, 2, 2]


def test_captions_that_were_done_before_memory_ran_out_are_not_made_again() -> None:
    class Late(Echo):
        """Runs out of memory when two are done."""

        def generate(
            self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
        ) -> Iterator[tuple[int, Caption]]:
            for done, answer in enumerate(super().generate(requests, settings, meter)):
                if done == 2:
                    raise OutOfMemory("later")
                yield answer

    late = Late()

    captioned = Captioner(lambda: late, PROMPTS[:1], SETTINGS).caption(unit([40] * 8))

    assert all(isinstance(a.outcome, Caption) for a in captioned.answers)
    assert late.calls == [8, 3, 1, 3, 1]


def test_one_request_that_does_not_fit_fails_alone() -> None:
    captioned = Captioner(lambda: Echo(room=0), PROMPTS, SETTINGS).caption(unit([40, 50]))

    problem = Problem(Stage.GENERATE, Code.OUT_OF_MEMORY, "1 are too many")
    assert [a.outcome for a in captioned.answers] == [problem] * 4


def test_a_unit_whose_part_came_while_it_waited_is_not_generated(tmp_path: Path) -> None:
    echo, parts = Echo(), Parts(str(tmp_path), "run0")
    captioner = Captioner(lambda: echo, PROMPTS, SETTINGS, parts=parts)
    prepared = unit([30, 40])
    first = captioner(prepared_to_table(prepared))
    storage.put(parts.uri("u"), b"")

    assert table_to_captioned(first).unit == prepared.unit
    assert table_to_done(captioner(prepared_to_table(prepared))) == prepared.unit
    assert echo.calls == [4]


def test_a_unit_that_is_done_passes_the_captioner() -> None:
    given = done_to_table(unit([30]).unit)

    assert Captioner(Echo, PROMPTS, SETTINGS)(given) is given


class Looping(Echo):
    """What it says first of the assets at these positions, and of some with other seeds, is a loop."""

    def __init__(self, loops: Mapping[int, int]) -> None:
        super().__init__()
        self._loops = loops  # by position, how many seeds from 0 on say one
        self.asked: list[tuple[float, int, int]] = []  # temperature, seed, requests

    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        self.asked.append((settings.temperature, settings.seed, len(requests)))
        for number, said in super().generate(requests, settings, meter):
            loops = settings.seed < self._loops.get(requests[number].sample.view.position, 0)
            yield number, replace(said, text="on and " * 20 if loops else f"{said.text} {settings.seed}")


def test_flagged_captions_are_drawn_anew_until_one_is_not_flagged_or_the_retries_are_spent() -> None:
    model = Looping({1: 1, 2: 2, 3: 9})
    settings = replace(SETTINGS, retries=2)

    captioned = Captioner(lambda: model, PROMPTS[:1], settings).caption(unit([30, 40, 50, 60]))

    found = [a.outcome for a in captioned.answers if isinstance(a.outcome, Caption)]
    assert [caption.attempt for caption in found] == [0, 1, 2, 0]
    assert [caption.text.split()[-1] for caption in found] == ["0", "1", "2", "and"]
    assert model.asked == [(0.0, 0, 4), (0.7, 1, 3), (0.7, 2, 2)]


def test_a_job_with_a_temperature_keeps_it_when_it_draws_anew() -> None:
    model = Looping({0: 6})
    settings = replace(SETTINGS, retries=1, temperature=0.2, seed=5)

    Captioner(lambda: model, PROMPTS[:1], settings).caption(unit([30]))

    assert model.asked == [(0.2, 5, 1), (0.2, 6, 1)]


def test_flags_that_do_not_count_are_let_be() -> None:
    model = Looping({0: 9})
    settings = replace(SETTINGS, retries=3, retry_flags=("empty",))

    captioned = Captioner(lambda: model, PROMPTS[:1], settings).caption(unit([30]))

    assert model.calls == [1]
    assert [a.outcome.attempt for a in captioned.answers if isinstance(a.outcome, Caption)] == [0]


def test_memory_that_runs_out_when_a_caption_is_drawn_anew_leaves_the_first() -> None:
    class Full(Looping):
        def generate(
            self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
        ) -> Iterator[tuple[int, Caption]]:
            if settings.seed:
                raise OutOfMemory("no room")
            yield from super().generate(requests, settings, meter)

    captioned = Captioner(lambda: Full({0: 1}), PROMPTS[:1], replace(SETTINGS, retries=1)).caption(unit([30]))

    assert [a.outcome.text[:6] for a in captioned.answers if isinstance(a.outcome, Caption)] == ["on and"]
