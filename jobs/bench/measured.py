"""The replica under measurement: captions of given lengths, and a clock on vision and prefill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from actors.decoding import Branches, Decoder
from actors.engine import Group
from actors.meter import Meter
from actors.replica import Replica, common
from actors.sampling import Choice, Ending, seed_of
from actors.slots import Place
from actors.vision import distinct_crops
from jobs.bench.figure import Details
from jobs.bench.machine import Machine
from jobs.bench.rounds import Rounds
from jobs.bench.subject import Subject
from pipeline.config import GenerationConfig
from pipeline.footprint import Footprint
from pipeline.roofline import Gpu, Roofline, prefill_flops, vision_flops
from pipeline.types import Finish, Request, View

Ids = list[tuple[int, ...]]


@dataclass
class Clock:
    """Seconds of what is done under it."""

    device: torch.device
    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts until a GPU, too, is done."""
        begun = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - begun


class _Timed(Decoder):
    """The decoder, whose prefill goes by the clock."""

    clock: Clock

    def start(self, groups: Sequence[Branches], into: Sequence[Sequence[Place]]) -> Tensor:
        with self.clock.running():
            return super().start(groups, into)


class _Drawn(Choice):
    """Each caption ends after as many tokens as `lengths` has for its seed: random weights never end one."""

    def __init__(
        self, settings: GenerationConfig, ending: Ending, device: torch.device, lengths: Mapping[int, int]
    ) -> None:
        super().__init__(settings, ending, device)
        self._lengths = lengths

    def _say(self, own: Any, token: int, logprob: float) -> None:
        super()._say(own, token, logprob)
        if len(own.tokens) == self._lengths[own.opening.seed]:
            own.finish = Finish.LENGTH


class Measured(Replica):
    """The replica of a subject. `clock` has the seconds of vision and prefill since it was set to 0."""

    def __init__(self, subject: Subject, most: int) -> None:
        super().__init__(subject.model, str(subject.folder), subject.tiles, most, subject.gpus, _Timed)
        assert isinstance(self._decoder, _Timed)
        self.clock = self._decoder.clock = Clock(self._model.device)
        self._settings = partial(
            GenerationConfig,
            batch_tokens=subject.generation.batch_tokens,
            batch_size=subject.generation.batch_size,
        )
        self._lengths = dict[int, int]()

    def captions(self, requests: Sequence[Request], lengths: Sequence[int]) -> Ids:
        """Greedy token ids of each request, exactly as many as its length says."""
        most = max(lengths)
        settings = self._settings(max_new_tokens=most, min_new_tokens=most)
        seeds = [seed_of(settings.seed, r.sample.view.sha256, r.prompt_id) for r in requests]
        self._lengths.update(zip(seeds, lengths, strict=True))
        found = dict(self.generate(requests, settings, Meter()))
        return [found[number].token_ids for number in range(len(requests))]

    def _choice(self, settings: GenerationConfig) -> Choice:
        return _Drawn(settings, self._ending(settings), self._model.device, self._lengths)

    def _branches(self, requests: Sequence[Request], meter: Meter, groups: Sequence[Group]) -> list[Branches]:
        with self.clock.running():
            return super()._branches(requests, meter, groups)


def passes(footprint: Footprint, requests: Sequence[Request]) -> float:
    """Operations of vision and prefill: equal crops once, and what the prompts about a picture begin with once."""
    groups = dict[View, list[Request]]()
    for request in requests:
        groups.setdefault(request.sample.view, []).append(request)
    flops = vision_flops(footprint, sum(len(distinct_crops(own[0].sample.crops)) for own in groups.values()))
    flops += prefill_flops(footprint, [len(request.input_ids) for request in requests])
    for own in groups.values():
        if len(own) > 1:
            again = common([request.input_ids for request in own])
            flops -= (len(own) - 1) * prefill_flops(footprint, [again])
    return flops


def least_s(subject: Subject, machine: Machine, requests: Sequence[Request], lengths: Sequence[int]) -> float:
    """Seconds that the roofline allows for all captions, decoded side by side, at this machine's measured rates."""
    model = subject.model
    peaks = Gpu(
        machine.gemm[machine.products(model)], machine.memory, machine.memory_bytes, compute=1.0, stream=1.0
    )
    roofline = Roofline(subject.footprint, model.dtype, model.quantization, peaks)
    tokens = [(len(request.input_ids), own) for request, own in zip(requests, lengths, strict=True)]
    steps = (roofline.step_s([n + i for n, own in tokens if own > i]) for i in range(1, max(lengths)))
    return passes(subject.footprint, requests) / peaks.flops + sum(steps)


def theirs(done: Rounds[Ids], here: str, there: str) -> Details:
    """Captions a second of a peer, and how many of its captions have our tokens."""
    ours, others = done.made[here], done.made[there]
    same = sum(a == b for a, b in zip(ours, others, strict=True))
    return {"theirs": done.rate(there, len(ours)).median, "same tokens": f"{same} of {len(ours)}"}
