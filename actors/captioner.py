"""The captioner: a unit's samples in, an answer per sample and prompt out. It knows batches and no tensors.

What it asks of a model is `Generator`, two methods. `actors.replica.Replica` is the real one; tests and
simulations pass their own through the same seam. This is the one place that shrinks a batch on out-of-memory, and
that takes a unit apart which replicas died of.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

import pyarrow as pa

from actors.gate import Gate
from actors.ledger import Ledger
from actors.meter import Meter
from actors.metrics import Spent, metered
from pipeline import messages
from pipeline.commit import Parts
from pipeline.config import GenerationConfig, PromptConfig
from pipeline.errors import CaptionmillError, MediaError, RunError
from pipeline.prompt import of_unit
from pipeline.quality import flags
from pipeline.types import (
    Answer,
    Caption,
    Captioned,
    Code,
    Effort,
    Media,
    Prepared,
    Problem,
    Request,
    Sample,
    Stage,
)

KINDS = {Media.IMAGE: "single images", Media.IMAGES: "several images under one key", Media.VIDEO: "videos"}
# Replicas that may die, each of which costs the next one's start, seconds to minutes:
UNIT_DEATHS = 3  # of a unit, before it is run asset by asset
ASSET_DEATHS = 2  # of an asset alone, before it is given up; one death may be the machine's fault
MACHINE_DEATHS = 20  # of one unit, by then of eight assets in a row, before it must be the machine


class OutOfMemory(CaptionmillError):
    """The device has not enough memory for this batch; a smaller one may fit."""


class Generator(Protocol):
    """A model that says what it sees."""

    @abstractmethod
    def encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request:
        """The sample under the prompt's conversation about its kind, in token ids; `text` has the asset's fields.

        MediaError where this asset cannot be asked this: missing_field, image_count, unsupported_media,
        prompt_too_long.
        """

    @abstractmethod
    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterable[tuple[int, Caption]]:
        """One caption per request, as if each were alone, with its request's number; in whatever order they are done.

        OutOfMemory where it is too much: the captions until then stand. Requests of one sample share its vision
        pass where as many captions are generated at once. What it takes is added to `meter`.
        """


class Captioner:
    """Captions work units with one generator, which `replica` builds where the captioner lives.

    Two threads may each caption a unit: the generator continues both together, so that the end of one does not leave
    it idle. Captioners that may take over each other's units share a `ledger`. A unit that `parts` has by now is
    passed on as done: it may have waited here for minutes, while another driver was at it.
    """

    def __init__(
        self,
        replica: Callable[[], Generator],
        prompts: Sequence[PromptConfig],
        settings: GenerationConfig,
        ledger: Ledger | None = None,
        parts: Parts | None = None,
    ) -> None:
        self._failure: CaptionmillError | None = None
        try:
            self._generator = replica()
        except CaptionmillError as error:
            # The first unit raises it and so ends the run. Raised here, it would have Ray start the actor over, and
            # print a traceback of 100 lines each time: two minutes where it took one start of some seconds.
            self._failure = error
        self._prompts = tuple(prompts)
        self._settings = settings
        self._ledger = ledger or Ledger()
        self._gate = Gate()
        self._parts = parts

    @metered("caption")
    def __call__(self, table: pa.Table) -> pa.Table:
        """`caption` for one-row tables (`pipeline.schema`)."""
        if messages.table_to_done(table):
            return table
        prepared = messages.table_to_prepared(table)
        if self._parts and self._parts.done(prepared.unit.unit_id):
            return messages.done_to_table(prepared.unit)
        return messages.captioned_to_table(self.caption(prepared), table)

    def caption(self, prepared: Prepared) -> Captioned:
        """Answer every sample under every prompt that asks about its kind, or once where none does.

        Answers by position, then in the job's order of prompts. Raises what the replica failed to start with, and
        RunError where replicas keep dying whatever asset they are given.
        """
        if self._failure:
            raise self._failure
        begun, meter = time.perf_counter(), Meter()
        found = [*prepared.problems, *self._answers(prepared, meter)]
        self._ledger.end(prepared.unit.unit_id)
        answers = [one for answer in found for one in self._under_prompts(answer, prepared)]
        rank = {prompt.id: i for i, prompt in enumerate(self._prompts)}
        answers.sort(key=lambda a: (a.position, -1 if a.prompt_id is None else rank[a.prompt_id]))
        views = tuple(sample.view for sample in prepared.samples)
        effort = _effort(prepared, time.perf_counter() - begun, meter)
        return Captioned(prepared.unit, prepared.assets, views, tuple(answers), effort)

    def _under_prompts(self, answer: Answer, prepared: Prepared) -> list[Answer]:
        """A problem of the whole asset, once under each prompt where the asset has rows under others already."""
        media = prepared.assets[answer.position].media
        if answer.prompt_id is not None or not prepared.unit.prompts or media is None:
            return [answer]
        asked = of_unit(self._prompts, prepared.unit)
        return [replace(answer, prompt_id=prompt.id) for prompt in asked if prompt.asked(media)]

    def _answers(self, prepared: Prepared, meter: Meter) -> Iterator[Answer]:
        """The answers of the unit, in no order.

        Beside those of another unit, but for what memory does not suffice for, and for a unit that replicas died of: in
        company nobody could tell whose fault it is.
        """
        with self._gate.together():
            apart = self._begin(prepared.unit.unit_id) >= UNIT_DEATHS
            answers, requests = self._asked(prepared, () if apart else prepared.samples)
            done, left, _ = self._tried(requests, meter, self._settings)
        yield from answers
        if apart:
            yield from self._apart(prepared, meter)
        if left:
            with self._gate.alone():
                done += self._halved(left, meter, self._settings)
        yield from self._retried(done, requests, meter, self._gate.alone)

    def _begin(self, unit_id: str) -> int:
        """How many replicas died of the unit. RunError where it must be the machine."""
        deaths = self._ledger.begin(unit_id)
        if deaths >= MACHINE_DEATHS:
            said = f"{deaths} replicas died of unit {unit_id}, and not of one of its assets"
            raise RunError(
                f"{said}; look for the cause in Ray's logs and the kernel's, then start the run again"
            )
        return deaths

    def _apart(self, prepared: Prepared, meter: Meter) -> Iterator[Answer]:
        """The answers of a unit that replicas died of, sample by sample, and a problem for each that one dies of."""
        unit_id = prepared.unit.unit_id
        for sample in prepared.samples:
            position = sample.view.position
            with self._gate.alone():
                if self._ledger.begin(unit_id, position) >= ASSET_DEATHS:
                    message = f"{ASSET_DEATHS} replicas died when they had this asset alone"
                    yield _answer(sample, None, Problem(Stage.GENERATE, Code.REPLICA_DIED, message))
                else:
                    answers, requests = self._asked(prepared, [sample])
                    done = [*self._alone(requests, meter, self._settings)]
                    yield from [*answers, *self._retried(done, requests, meter, nullcontext)]
                    self._ledger.end(unit_id, position)

    def _asked(self, prepared: Prepared, samples: Sequence[Sample]) -> tuple[list[Answer], list[Request]]:
        """Of these samples of the unit: the answers that need no model, and the requests."""
        prompts = of_unit(self._prompts, prepared.unit)
        asked = [one for s in samples for one in self._ask(s, prompts, prepared.assets[s.view.position].text)]
        return [a for a in asked if isinstance(a, Answer)], [r for r in asked if isinstance(r, Request)]

    def _ask(
        self, sample: Sample, prompts: Sequence[PromptConfig], text: Mapping[str, str]
    ) -> list[Request | Answer]:
        """A request, or the problem instead, from each prompt that asks about the sample's kind."""
        media = sample.view.media
        asked = [self._encode(sample, prompt, text) for prompt in prompts if prompt.asked(media)]
        nobody = Problem(Stage.PROMPT, Code.NO_PROMPT, f"no prompt of the job asks about {KINDS[media]}")
        return asked or [_answer(sample, None, nobody)]

    def _encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request | Answer:
        try:
            return self._generator.encode(sample, prompt, text)
        except MediaError as error:
            return _answer(sample, prompt.id, Problem(Stage.PROMPT, error.code, error.message))

    def _retried(
        self,
        answers: Sequence[Answer],
        requests: Sequence[Request],
        meter: Meter,
        gate: Callable[[], AbstractContextManager[None]],
    ) -> list[Answer]:
        """The answers; flagged captions drawn anew behind the gate, each time with another seed, until one has no flag.

        Where all have one, the first stands.
        """
        asked: dict[tuple[int, str | None], Request] = {
            (one.sample.view.position, one.prompt_id): one for one in requests
        }
        found = {(one.position, one.prompt_id): one for one in answers}
        for attempt in range(1, self._settings.retries + 1):
            again = [asked[place] for place, answer in found.items() if self._flagged(answer, asked[place])]
            if not again:
                break
            with gate():
                drawn = list(self._alone(again, meter, _another(self._settings, attempt)))
            for answer in drawn:
                place = answer.position, answer.prompt_id
                if isinstance(answer.outcome, Caption) and not self._flagged(answer, asked[place]):
                    found[place] = replace(answer, outcome=replace(answer.outcome, attempt=attempt))
        return list(found.values())

    def _flagged(self, answer: Answer, request: Request) -> bool:
        """Whether it is a caption with a flag that counts."""
        if not isinstance(answer.outcome, Caption):
            return False
        prompt = next(prompt for prompt in self._prompts if prompt.id == answer.prompt_id)
        question = prompt.asked(request.sample.view.media)[-1].text
        return not set(self._settings.retry_flags).isdisjoint(flags(answer.outcome, question))

    def _alone(
        self, requests: Sequence[Request], meter: Meter, settings: GenerationConfig
    ) -> Iterator[Answer]:
        """An answer per request, in no order; halves them while memory does not suffice, down to one."""
        done, left, message = self._tried(requests, meter, settings)
        yield from done
        if left and len(requests) == 1:
            yield _answer(
                left[0].sample,
                left[0].prompt_id,
                Problem(Stage.GENERATE, Code.OUT_OF_MEMORY, message[:300]),
            )
        else:
            yield from self._halved(left, meter, settings)

    def _halved(
        self, requests: Sequence[Request], meter: Meter, settings: GenerationConfig
    ) -> Iterator[Answer]:
        half = len(requests) // 2
        for part in filter(None, (requests[:half], requests[half:])):
            yield from self._alone(part, meter, settings)

    def _tried(
        self, requests: Sequence[Request], meter: Meter, settings: GenerationConfig
    ) -> tuple[list[Answer], list[Request], str]:
        """The answers until memory ran out, the requests that are left then, and what was said of it."""
        left, done, spent = dict(enumerate(requests)), list[Answer](), Spent(meter)
        try:
            asked = self._generator.generate(requests, settings, meter) if requests else ()
            for number, caption in asked:
                request = left.pop(number)
                done.append(_answer(request.sample, request.prompt_id, caption))
                spent.publish()
        except OutOfMemory as error:
            return done, list(left.values()), str(error)
        return done, [], ""


def _another(settings: GenerationConfig, attempt: int) -> GenerationConfig:
    """The settings of the `attempt`th time after the first."""
    warm = settings.temperature or settings.retry_temperature
    return replace(settings, temperature=warm, seed=settings.seed + attempt)


def _effort(prepared: Prepared, seconds: float, meter: Meter) -> Effort:
    before = prepared.preparation
    return Effort(
        begun_at=before.begun_at,
        ended_at=time.time_ns() // 1000,
        prepare_s=before.prepare_s,
        caption_s=seconds,
        busy_s=meter.busy_s,
        prefill_tokens=meter.prefill_tokens,
        slot_steps=meter.slot_steps,
        slots_idle=meter.slots_idle,
    )


def _answer(sample: Sample, prompt_id: str | None, outcome: Caption | Problem) -> Answer:
    return Answer(sample.view.position, sample.view.sha256, prompt_id, outcome)
