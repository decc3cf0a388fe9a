"""The captioner: a unit's samples in, an answer per sample and prompt out. It knows batches and no tensors.

What it asks of a model is `Generator`, three methods. `actors.replica.Replica` is the real one; tests and
simulations pass their own through the same seam. This is the one place that shrinks a batch on out-of-memory, and
that takes a unit apart which replicas died of.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import pyarrow as pa

from actors.ledger import Ledger
from pipeline import messages
from pipeline.batching import buckets
from pipeline.commit import Parts
from pipeline.config import GenerationConfig, PromptConfig
from pipeline.errors import CaptionmillError, MediaError, RunError
from pipeline.types import (
    Answer,
    Caption,
    Captioned,
    Code,
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
    def batch_tokens(self, settings: GenerationConfig) -> int:
        """Prompt tokens, padding included, that it can hold at once.

        As many as the settings say, or fewer where its memory holds fewer.
        """

    @abstractmethod
    def generate(self, requests: Sequence[Request], settings: GenerationConfig) -> list[Caption]:
        """One caption per request, in their order, as if each were alone. OutOfMemory where it is too much.

        Requests of one sample, together or in consecutive calls, share its vision pass.
        """


class Captioner:
    """Captions work units with one generator, which `replica` builds where the captioner lives.

    Captioners that may take over each other's units share a `ledger`. A unit that `parts` has by now is passed on
    as done: it may have waited here for minutes, while another driver was at it.
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
        self._parts = parts

    def __call__(self, table: pa.Table) -> pa.Table:
        """`caption` for one-row tables (`pipeline.schema`)."""
        if messages.table_to_done(table):
            return table
        prepared = messages.table_to_prepared(table)
        if self._parts and self._parts.done(prepared.unit.unit_id):
            return messages.done_to_table(prepared.unit)
        return messages.captioned_to_table(self.caption(prepared))

    def caption(self, prepared: Prepared) -> Captioned:
        """Answer every sample under every prompt that asks about its kind, or once where none does.

        Answers by position, then in the job's order of prompts. Raises what the replica failed to start with, and
        RunError where replicas keep dying whatever asset they are given.
        """
        if self._failure:
            raise self._failure
        unit_id = prepared.unit.unit_id
        deaths = self._ledger.begin(unit_id)
        if deaths >= MACHINE_DEATHS:
            said = f"{deaths} replicas died of unit {unit_id}, and not of one of its assets"
            raise RunError(
                f"{said}; look for the cause in Ray's logs and the kernel's, then start the run again"
            )
        run = self._answers if deaths < UNIT_DEATHS else self._apart
        answers = [*prepared.problems, *run(prepared)]
        self._ledger.end(unit_id)
        rank = {prompt.id: i for i, prompt in enumerate(self._prompts)}
        answers.sort(key=lambda a: (a.position, -1 if a.prompt_id is None else rank[a.prompt_id]))
        views = tuple(sample.view for sample in prepared.samples)
        return Captioned(prepared.unit, prepared.assets, views, tuple(answers))

    def _apart(self, prepared: Prepared) -> Iterator[Answer]:
        """The answers of a unit that replicas died of, sample by sample, and a problem for each that one dies of."""
        unit_id = prepared.unit.unit_id
        for sample in prepared.samples:
            position = sample.view.position
            if self._ledger.begin(unit_id, position) >= ASSET_DEATHS:
                message = f"{ASSET_DEATHS} replicas died when they had this asset alone"
                yield _answer(sample, None, Problem(Stage.GENERATE, Code.REPLICA_DIED, message))
            else:
                yield from self._answers(replace(prepared, samples=(sample,)))
                self._ledger.end(unit_id, position)

    def _answers(self, prepared: Prepared) -> Iterator[Answer]:
        """The answers of the samples, in no order."""
        requests = []
        for sample in prepared.samples:
            for asked in self._ask(sample, prepared.assets[sample.view.position].text):
                match asked:
                    case Request():
                        requests.append(asked)
                    case Answer():
                        yield asked
        token_budget = self._generator.batch_tokens(self._settings)
        for batch in batches(requests, token_budget, self._settings.batch_size):
            outcomes = self._generate(batch)
            yield from (_answer(r.sample, r.prompt_id, o) for r, o in zip(batch, outcomes, strict=True))

    def _ask(self, sample: Sample, text: Mapping[str, str]) -> list[Request | Answer]:
        """A request, or the problem instead, from each prompt that asks about the sample's kind."""
        media = sample.view.media
        asked = [self._encode(sample, prompt, text) for prompt in self._prompts if prompt.asked(media)]
        nobody = Problem(Stage.PROMPT, Code.NO_PROMPT, f"no prompt of the job asks about {KINDS[media]}")
        return asked or [_answer(sample, None, nobody)]

    def _encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request | Answer:
        try:
            return self._generator.encode(sample, prompt, text)
        except MediaError as error:
            return _answer(sample, prompt.id, Problem(Stage.PROMPT, error.code, error.message))

    def _generate(self, batch: Sequence[Request]) -> list[Caption | Problem]:
        """An outcome per request; halves the batch while memory does not suffice, down to one."""
        try:
            return [*self._generator.generate(batch, self._settings)]
        except OutOfMemory as error:
            message = str(error)
        # Below the handler on purpose: inside it the error's traceback would still hold the tensors that did
        # not fit.
        if len(batch) == 1:
            return [Problem(Stage.GENERATE, Code.OUT_OF_MEMORY, message[:300])]
        half = len(batch) // 2
        return self._generate(batch[:half]) + self._generate(batch[half:])


def batches(requests: Sequence[Request], token_budget: int, max_size: int) -> Iterator[list[Request]]:
    """The batches to generate, longest first: at most `token_budget` tokens, padding included, and `max_size` requests.

    A sample's requests stay together, because their vision pass is shared; only where one sample's prompts
    alone exceed the bounds are they divided, into consecutive batches.
    """
    samples: defaultdict[int, list[Request]] = defaultdict(list)
    for request in requests:
        samples[request.sample.view.position].append(request)
    groups = list(samples.values())
    each = max(map(len, groups), default=1)
    longest = [max(len(request.input_ids) for request in group) for group in groups]
    for bucket in buckets(longest, token_budget // each, max(1, max_size // each)):
        members = [request for i in bucket for request in groups[i]]
        lengths = [len(request.input_ids) for request in members]
        for part in buckets(lengths, token_budget, max_size):
            yield [members[i] for i in part]


def _answer(sample: Sample, prompt_id: str | None, outcome: Caption | Problem) -> Answer:
    return Answer(sample.view.position, sample.view.sha256, prompt_id, outcome)
