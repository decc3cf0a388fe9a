"""A replica whose passes take the time that the roofline says of a GPU, and say nothing; what feeds it, with a meter.

The engine, its slots and its cache are the real ones, so is all that comes before and after: what is simulated is how
long the model computes. One process, one GPU. Both leave what they counted in files, a line for each unit.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.engine import Call, Engine, Group
from actors.meter import Meter
from actors.preprocessor import Preprocessor
from jobs.bench.cpu import counted
from jobs.bench.work import drawn
from pipeline import fit, messages
from pipeline.anyres import Geometry
from pipeline.batching import Rooms, Slot, longest_first
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.roofline import Roofline
from pipeline.types import Caption, Finish, Request, Sample

TEXT_TOKENS = 30  # of a prompt, beside its picture
REPLICA, PREPROCESSOR = "replica", "preprocessor"  # what files of lines are called
Place = Slot[Any]


@dataclass(eq=False, slots=True)
class Block:
    """Slots of equal room."""

    count: int
    room: int


@dataclass(slots=True)
class Clock:
    """Counts the seconds of simulated passes, times `slower`, and lets them go by."""

    slower: float
    busy: float = 0.0
    _ahead: float = 0.0

    def take(self, seconds: float) -> None:
        """A pass: what a sleep takes too long is taken off the next one."""
        seconds *= self.slower
        self.busy += seconds
        begun = time.perf_counter()
        time.sleep(max(0.0, seconds - self._ahead))
        self._ahead += time.perf_counter() - begun - seconds


@dataclass(frozen=True, slots=True)
class Started:
    """What a group begins with: crops, and tokens of each prompt."""

    crops: int
    lengths: tuple[int, ...]


@dataclass(slots=True)
class Passes:
    """`actors.engine.Decoder` on a simulated GPU. Logits are None."""

    roofline: Roofline
    clock: Clock
    contexts: dict[Place, int] = field(default_factory=dict)

    def start(self, groups: Sequence[Started], into: Sequence[Sequence[Place]]) -> None:
        """Vision, then prompts. A group's common beginning is counted once for each prompt."""
        for group, own in zip(groups, into, strict=True):
            self.contexts.update(zip(own, group.lengths, strict=True))
        lengths = [length for group in groups for length in group.lengths]
        self.clock.take(
            self.roofline.vision_s(sum(g.crops for g in groups)) + self.roofline.prefill_s(lengths)
        )

    def step(self, slots: Sequence[Place], tokens: object) -> None:
        """One token more in each slot."""
        self.clock.take(self.roofline.step_s([self.contexts[slot] for slot in slots]))
        for slot in slots:
            self.contexts[slot] += 1


class Lengths:
    """`actors.engine.Choice`: a caption ends after as many tokens as it was opened with."""

    def __init__(self) -> None:
        self._left: dict[Place, int] = {}
        self._whole: dict[Place, int] = {}

    def join(self, slot: Place, opening: int) -> None:
        """A caption of so many tokens begins in this slot."""
        self._left[slot] = self._whole[slot] = opening

    def next(self, slots: Sequence[Place], logits: object) -> None:
        """One token more in each slot."""
        for slot in slots:
            self._left[slot] -= 1

    def last(self, slots: Sequence[Place]) -> None:
        """Nothing is said."""

    def ended(self, slot: Place) -> bool:
        """Whether the slot's caption is complete."""
        return not self._left[slot]

    def spoken(self, slot: Place) -> int:
        """Tokens of the slot's caption."""
        return self._whole[slot]

    def leave(self, slot: Place) -> None:
        """The slot is free."""
        del self._left[slot], self._whole[slot]

    def reset(self) -> None:
        """All slots are free."""
        self._left.clear()
        self._whole.clear()


class Simulated:
    """`actors.captioner.Generator` on one simulated GPU.

    Output lengths are log-normal, by the asset's bytes alone. Two lines for each unit, when it begins and when it is
    done: the time, what `Clock` and the engine count until then, and its captions that are done.
    """

    def __init__(
        self, roofline: Roofline, geometry: Geometry, model: ModelConfig, slower: float, log: Path
    ) -> None:
        self._roofline, self._geometry, self._model = roofline, geometry, model
        self._clock = Clock(slower)
        self._engine: Engine[Started, int, int] | None = None
        self._log = log

    def encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request:
        """A prompt as long as it would be."""
        view = sample.view
        visual = sum(self._geometry.tokens(view.media, view.sizes, view.n_crops))
        return Request(sample, prompt.id, (0,) * (visual + TEXT_TOKENS), visual)

    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        """Empty captions, when they would be done."""
        lengths = [len(r.input_ids) + settings.max_new_tokens for r in requests]
        outputs = [drawn(random.Random(r.sample.view.sha256), settings.max_new_tokens) for r in requests]
        call = Call[Started, int, int](lengths, outputs, partial(_started, requests, meter), meter)
        groups = longest_first([[i] for i in range(len(requests))], lengths)
        self._tell(settings, 0)
        for number, tokens in self._engine_of(settings).captions(call, groups):
            request = requests[number]
            yield (
                number,
                Caption("", (0,) * tokens, Finish.STOP, 0.0, len(request.input_ids), request.n_visual_tokens),
            )
        self._tell(settings, len(requests))

    def _tell(self, settings: GenerationConfig, captions: int) -> None:
        engine = self._engine_of(settings).meter
        told = (self._clock.busy, engine.slot_steps, engine.slots_idle)
        _tell(self._log, REPLICA, time.time(), *told, captions)

    def _engine_of(self, settings: GenerationConfig) -> Engine[Started, int, int]:
        if self._engine is None:
            memory = int(self._roofline.gpu.memory)
            most = fit.batch_tokens(self._roofline.footprint, self._model, settings, memory)
            tokens = min(settings.batch_tokens, most) + settings.batch_size * settings.max_new_tokens
            rooms = partial(Rooms, tokens, settings.batch_size, Block)
            self._engine = Engine(Passes(self._roofline, self._clock), Lengths(), rooms)
        return self._engine


class Metered(Preprocessor):
    """The real one. A line for each unit: seconds of CPU, its decoder's included, and assets."""

    def __init__(self, log: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self._log = log

    def __call__(self, table: pa.Table) -> pa.Table:
        with counted() as spent:
            prepared = super().__call__(table)
        _tell(self._log, PREPROCESSOR, spent.total, messages.table_to_unit(table)[0].count)
        return prepared


def _tell(log: Path, kind: str, *told: float) -> None:
    with (log / f"{kind}-{os.getpid()}").open("a") as file:
        file.write(json.dumps(told) + "\n")


def lines(path: Path) -> list[list[float]]:
    """What one process told."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _started(requests: Sequence[Request], meter: Meter, groups: Sequence[Group]) -> list[Started]:
    lengths = [tuple(len(requests[i].input_ids) for i in group) for group in groups]
    meter.prefill_tokens += sum(map(sum, lengths))
    return [
        Started(requests[group[0]].sample.view.n_crops, own)
        for group, own in zip(groups, lengths, strict=True)
    ]
