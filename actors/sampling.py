"""Which token comes next, and where a caption ends: from logits alone, each sequence as if it were by itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
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


@dataclass(slots=True)
class _Sequence:
    """What one slot has said so far."""

    dice: random.Random
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None


class Choice:
    """The next tokens of sequences in `count` slots, each from its first to its last.

    `prompts` are the sequences' token ids, which the repetition penalty counts too, and `seeds` decide what is drawn.
    The scores are transformers' own processors', in the order of its `generate`: repetition penalty, least length,
    temperature, top-k, top-p.
    """

    def __init__(
        self,
        settings: GenerationConfig,
        ending: Ending,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        count: int,
        device: torch.device,
    ) -> None:
        self._settings, self._ending = settings, ending
        self._prompts, self._seeds = prompts, seeds
        self._processors = tuple(_processors(settings))
        self._stop = torch.tensor(sorted(ending.tokens), dtype=torch.long, device=device)
        self._sequences = dict[int, _Sequence]()
        self._count = count
        self._seen: Tensor | None = None  # (slots, vocabulary): which tokens are in prompt or caption
        self._new = dict[int, int]()  # slots whose prompt is not in `_seen` yet, and its number

    def join(self, slot: int, number: int) -> None:
        """The sequence of this number begins in this slot."""
        self._sequences[slot] = _Sequence(random.Random(self._seeds[number]))
        self._new[slot] = number

    def next(self, slots: Sequence[int], logits: Tensor) -> Tensor:
        """The chosen tokens, (slots,), after float32 `logits`, (slots, vocabulary)."""
        scores = self._scores(slots, logits)
        token = self._drawn(slots, scores) if self._settings.temperature else scores.argmax(-1)
        if self._seen is not None:
            self._seen[list(slots), token] = True
        logprob = logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(-1)
        for slot, *said in zip(slots, token.tolist(), logprob.tolist(), strict=True):
            self._say(self._sequences[slot], *said)
        return token

    def ended(self, slot: int) -> bool:
        """Whether the slot's sequence is complete."""
        return self._sequences[slot].finish is not None

    def spoken(self, slot: int) -> Spoken:
        """The slot's complete sequence."""
        own = self._sequences[slot]
        assert own.finish is not None
        return Spoken(tuple(own.tokens), own.finish, sum(own.logprobs) / len(own.logprobs))

    def _say(self, own: _Sequence, token: int, logprob: float) -> None:
        own.tokens.append(token)
        own.logprobs.append(logprob)
        if token in self._ending.tokens or self._ending.said(own.tokens):
            own.finish = Finish.STOP
        elif len(own.tokens) == self._settings.max_new_tokens:
            own.finish = Finish.LENGTH

    def _scores(self, slots: Sequence[int], logits: Tensor) -> Tensor:
        scores = logits
        if (penalty := self._settings.repetition_penalty) != 1.0:  # as RepetitionPenaltyLogitsProcessor
            seen = self._marked(logits)[list(slots)]
            scores = torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
        short = [len(self._sequences[slot].tokens) < self._settings.min_new_tokens for slot in slots]
        if any(short):
            rows = torch.tensor(short, device=scores.device)
            scores = torch.where(rows[:, None], scores.index_fill(1, self._stop, -torch.inf), scores)
        for process in self._processors:
            scores = process(scores, scores)  # the first is not looked at
        return scores

    def _marked(self, logits: Tensor) -> Tensor:
        """`_seen` with the prompts of all slots in it."""
        if self._seen is None:
            self._seen = logits.new_zeros((self._count, logits.shape[1]), dtype=torch.bool)
        for slot, number in self._new.items():
            self._seen[slot] = False
            self._seen[slot, list(self._prompts[number])] = True
        self._new.clear()
        return self._seen

    def _drawn(self, slots: Sequence[int], scores: Tensor) -> Tensor:
        """One draw a sequence by the inverse of its cumulated probabilities: the same on every device."""
        steps = scores.double().softmax(-1).cumsum(-1)
        dice = [self._sequences[slot].dice for slot in slots]
        drawn = [own.getrandbits(DOUBLE_BITS) / (1 << DOUBLE_BITS) for own in dice]
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
