"""Which token comes next, and where a caption ends: from logits alone, each sequence as if it were by itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
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


class Choice:
    """The next tokens of one batch of sequences, from the first to the last.

    `prompts` are the sequences' token ids, which the repetition penalty counts too, and `seeds` decide what is
    drawn. The scores are transformers' own processors', in the order of its `generate`: repetition penalty,
    least length, temperature, top-k, top-p.
    """

    def __init__(
        self,
        settings: GenerationConfig,
        ending: Ending,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        self._settings, self._ending = settings, ending
        self._processors = tuple(_processors(settings))
        self._dice = [random.Random(seed) for seed in seeds]
        self._stop = torch.tensor(sorted(ending.tokens), dtype=torch.long, device=device)
        self._finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self._prompts = _padded(prompts).to(device)
        self._tokens: list[Tensor] = []
        self._logprobs: list[Tensor] = []
        self._said: dict[int, int] = {}  # sequences that a stop text ended, and their lengths then

    def next(self, logits: Tensor) -> Tensor:
        """The chosen tokens, (batch,), after float32 `logits`, (batch, vocabulary)."""
        scores = self._scores(logits)
        token = self._drawn(scores) if self._settings.temperature else scores.argmax(-1)
        self._tokens.append(token)
        self._logprobs.append(logits.log_softmax(-1).gather(1, token[:, None])[:, 0])
        self._finished |= torch.isin(token, self._stop)
        if self._ending.texts:
            self._look()
        return token

    def done(self) -> bool:
        """Whether every sequence has ended."""
        return len(self._tokens) == self._settings.max_new_tokens or bool(self._finished.all())

    def spoken(self) -> list[Spoken]:
        """The sequences, each up to its own end."""
        ids, logprobs = torch.stack(self._tokens, 1).tolist(), torch.stack(self._logprobs, 1).tolist()
        return [self._cut(i, *each) for i, each in enumerate(zip(ids, logprobs, strict=True))]

    def _scores(self, logits: Tensor) -> Tensor:
        seen = self._prompts
        if self._settings.repetition_penalty != 1.0 and self._tokens:
            seen = torch.cat([seen, torch.stack(self._tokens, 1)], dim=1)
        scores = logits
        for process in self._processors:
            scores = process(seen, scores)
        if len(self._tokens) < self._settings.min_new_tokens:
            scores = scores.index_fill(1, self._stop, -torch.inf)
        return scores

    def _drawn(self, scores: Tensor) -> Tensor:
        """One draw a sequence by the inverse of its cumulated probabilities: the same on every device."""
        steps = scores.double().softmax(-1).cumsum(-1)
        drawn = [dice.getrandbits(DOUBLE_BITS) / (1 << DOUBLE_BITS) for dice in self._dice]
        heights = steps.new_tensor(drawn)[:, None] * steps[:, -1:]
        return torch.searchsorted(steps, heights, right=True)[:, 0]

    def _look(self) -> None:
        """Note which sequences have said a stop text."""
        rows = torch.stack(self._tokens, 1).tolist()
        for i, finished in enumerate(self._finished.tolist()):
            if not finished and self._ending.said(rows[i]):
                self._said[i] = len(rows[i])
        self._finished[list(self._said)] = True

    def _cut(self, row: int, ids: list[int], logprobs: list[float]) -> Spoken:
        stops = (i for i, token in enumerate(ids, 1) if token in self._ending.tokens)
        end = self._said.get(row, next(stops, None))
        own = ids[:end]
        finish = Finish.LENGTH if end is None else Finish.STOP
        return Spoken(tuple(own), finish, sum(logprobs[:end]) / len(own))


def _processors(settings: GenerationConfig) -> Iterator[LogitsProcessor]:
    if settings.repetition_penalty != 1.0:
        yield RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
    if not settings.temperature:
        return
    if settings.temperature != 1.0:
        yield TemperatureLogitsWarper(settings.temperature)
    if settings.top_k:
        yield TopKLogitsWarper(settings.top_k)
    if settings.top_p < 1.0:
        yield TopPLogitsWarper(settings.top_p)


def _padded(prompts: Sequence[Sequence[int]]) -> Tensor:
    """The prompts as one tensor. Padding repeats the first token of the row: no token is seen that is not there."""
    longest = max(map(len, prompts))
    rows = [[*prompt, *[prompt[0]] * (longest - len(prompt))] for prompt in prompts]
    return torch.tensor(rows)
