"""Which token comes next, and where a caption ends: from logits alone, each sequence as if it were by itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pipeline.config import GenerationConfig
from pipeline.types import Finish

DOUBLE_BITS = 53  # of a float's fraction: as many random bits as a number in [0, 1) can hold


@dataclass(frozen=True, slots=True)
class Spoken:
    """One generated sequence: its tokens, the one that ended it included, and their mean log-probability."""

    token_ids: tuple[int, ...]
    finish: Finish
    mean_logprob: float


@dataclass(frozen=True, slots=True)
class Ending:
    """What ends a caption beside its length: `tokens`, and `texts` in what `decode` makes of its tokens."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    def said(self, token_ids: Sequence[int]) -> bool:
        """Whether a stop text stands in the caption."""
        return bool(self.texts) and self.cut(text := self.decode(token_ids)) != text

    def cut(self, text: str) -> str:
        """`text` up to the first stop text in it."""
        return text[: min((at for stop in self.texts if (at := text.find(stop)) >= 0), default=len(text))]


def seed_of(seed: int, content: str, prompt_id: str) -> int:
    """The seed of one caption: the same bytes under the same prompt are drawn the same, whatever else is there."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{content}/{prompt_id}".encode(), digest_size=8).digest())


@dataclass(frozen=True, slots=True)
class Opening:
    """What a sequence begins with: the prompt's token ids, which the repetition penalty counts too, and a seed."""

    prompt: Sequence[int]
    seed: int


@dataclass(slots=True)
class _Sequence:
    """What one slot has said so far; `seen` tells which tokens are in prompt or caption, where that counts."""

    opening: Opening
    dice: random.Random
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    seen: Tensor | None = None


class Choice:
    """The next tokens of sequences in slots, each from its first to its last.

    The scores are transformers' own processors', in the order of its `generate`: repetition penalty, least length,
    temperature, top-k, top-p.
    """

    def __init__(self, settings: GenerationConfig, ending: Ending, device: torch.device) -> None:
        self._settings, self._ending = settings, ending
        self._processors = tuple(_processors(settings))
        self._stop = torch.tensor(sorted(ending.tokens), dtype=torch.long, device=device)
        self._sequences = dict[Hashable, _Sequence]()

    def join(self, slot: Hashable, opening: Opening) -> None:
        """A sequence begins in this slot."""
        self._sequences[slot] = _Sequence(opening, random.Random(opening.seed))

    @torch.inference_mode()
    def next(self, slots: Sequence[Hashable], logits: Tensor) -> None:
        """Choose a token in each slot from float32 `logits`, (slots, vocabulary), which are its own from now on."""
        own = [self._sequences[slot] for slot in slots]
        logprobs = logits.log_softmax(-1)
        scores = self._scores(own, logits)
        token = _drawn(own, scores) if self._settings.temperature else scores.argmax(-1)
        logprob = logprobs.gather(1, token[:, None])[:, 0]
        for one, *said in zip(own, token.tolist(), logprob.tolist(), strict=True):
            self._say(one, *said)

    def last(self, slots: Sequence[Hashable]) -> list[int]:
        """The tokens that were chosen last."""
        return [self._sequences[slot].tokens[-1] for slot in slots]

    def ended(self, slot: Hashable) -> bool:
        """Whether the slot's sequence is complete."""
        return self._sequences[slot].finish is not None

    def spoken(self, slot: Hashable) -> Spoken:
        """The slot's complete sequence."""
        own = self._sequences[slot]
        assert own.finish is not None
        return Spoken(tuple(own.tokens), own.finish, sum(own.logprobs) / len(own.logprobs))

    def leave(self, slot: Hashable) -> None:
        """The slot is free."""
        del self._sequences[slot]

    def reset(self) -> None:
        """All slots are free."""
        self._sequences.clear()

    def _say(self, own: _Sequence, token: int, logprob: float) -> None:
        own.tokens.append(token)
        own.logprobs.append(logprob)
        if token in self._ending.tokens or self._ending.said(own.tokens):
            own.finish = Finish.STOP
        elif len(own.tokens) == self._settings.max_new_tokens:
            own.finish = Finish.LENGTH

    def _scores(self, own: Sequence[_Sequence], logits: Tensor) -> Tensor:
        scores = logits
        if (penalty := self._settings.repetition_penalty) != 1.0:  # as RepetitionPenaltyLogitsProcessor
            seen = torch.stack([_seen(one, logits) for one in own])
            scores = torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
        short = [i for i, one in enumerate(own) if len(one.tokens) < self._settings.min_new_tokens]
        if short:
            scores[torch.tensor(short, device=scores.device)[:, None], self._stop] = -torch.inf
        for process in self._processors:
            scores = process(scores, scores)  # the first is not looked at
        return scores


def _seen(one: _Sequence, logits: Tensor) -> Tensor:
    """bool (vocabulary,): the tokens in the sequence's prompt and caption."""
    if one.seen is None:
        one.seen = logits.new_zeros(logits.shape[1], dtype=torch.bool)
        one.seen[list(one.opening.prompt)] = True
    one.seen[one.tokens[-1:]] = True
    return one.seen


def _drawn(own: Sequence[_Sequence], scores: Tensor) -> Tensor:
    """One draw a sequence by the inverse of its cumulated probabilities: the same on every device."""
    steps = scores.double().softmax(-1).cumsum(-1)
    drawn = [one.dice.getrandbits(DOUBLE_BITS) / (1 << DOUBLE_BITS) for one in own]
    heights = steps.new_tensor(drawn)[:, None] * steps[:, -1:]
    return torch.searchsorted(steps, heights, right=True)[:, 0]


def _processors(settings: GenerationConfig) -> Iterator[LogitsProcessor]:
    if not settings.temperature:
        return
    if settings.temperature != 1.0:
        yield TemperatureLogitsWarper(settings.temperature)
    if settings.top_k:
        yield TopKLogitsWarper(settings.top_k)
    if settings.top_p < 1.0:
        yield TopPLogitsWarper(settings.top_p)
