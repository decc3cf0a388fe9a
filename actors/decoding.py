"""What the language model computes: prompts and their next tokens to logits, each sequence as if it were by itself.

Arithmetic on tensors only: no files, no tokenizer, no Ray. Tokens of many prompts go through the model one behind the
other, without padding, and what the prompts of one sample have in common is run once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors import slots
from actors.sampling import Choice, Spoken
from actors.slots import Pass, Slots
from actors.vision import Model
from pipeline.fit import PREFILL_TOKENS

Group = Sequence[int]  # numbers of the prompts of one sample


@dataclass(frozen=True, slots=True)
class Branches:
    """Prompts with a common beginning, as embeddings (tokens, width).

    `prefix` is the beginning, which may be empty; each of `suffixes` goes on from it with one token at least.
    """

    prefix: Tensor
    suffixes: tuple[Tensor, ...]


class Decoder:
    """The language model of a loaded checkpoint, whose attention is `actors.slots` from now on."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._text = model.model.language_model
        self._eager = self._text.config._attn_implementation == "eager"
        self._text.set_attn_implementation(slots.NAME)

    def embed(self, input_ids: Sequence[int], placeholder: int, visual: Tensor) -> Tensor:
        """(tokens, width): the embeddings of `input_ids`, with `visual` in place of the placeholder's id."""
        ids = torch.tensor(input_ids, device=self._model.device)
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        embedded[ids == placeholder] = visual.to(embedded)
        return embedded

    def speak(
        self,
        groups: Sequence[Group],
        lengths: Sequence[int],
        embed: Callable[[Sequence[Group]], Sequence[Branches]],
        choice: Choice,
        cache: Slots,
    ) -> Iterator[tuple[int, Spoken]]:
        """Continue every prompt of `groups` by `choice`; each as it is done, with its number.

        A group begins when there is a slot for each of its prompts, of `lengths` tokens by number; then `embed` is
        asked for what it begins with. A slot is free again as soon as its caption ends.
        """
        waiting, running = deque(groups), dict[int, int]()  # which prompt a slot has
        last = torch.zeros(cache.count, dtype=torch.long, device=self._model.device)
        while waiting or running:
            free = [slot for slot in range(cache.count) if slot not in running]
            if begin := _next(waiting, len(free), lengths):
                taken = iter(free)
                into = [[next(taken) for _ in group] for group in begin]
                now = [slot for own in into for slot in own]
                for slot, number in zip(now, (n for group in begin for n in group), strict=True):
                    running[slot] = number
                    choice.join(slot, number)
                logits = self._start(cache, embed(begin), into)
            else:
                now = sorted(running)
                logits = self._step(cache, now, last[now])
            last[now] = choice.next(now, logits)
            for slot in [slot for slot in now if choice.ended(slot)]:
                yield running.pop(slot), choice.spoken(slot)

    def _start(self, cache: Slots, groups: Sequence[Branches], free: Sequence[Sequence[int]]) -> Tensor:
        """Begin every prompt of every group, in order, in the slot that `free` has for it: logits (prompts, tokens).

        The prefix of a group is run once, and copied to its other slots.
        """
        for slot in (slot for own in free for slot in own):
            cache.held[slot] = 0
        shared = [(group, own) for group, own in zip(groups, free, strict=True) if len(group.prefix)]
        if shared:
            self._run(cache, [own[0] for _, own in shared], [group.prefix for group, _ in shared])
        for _, (first, *others) in shared:
            for other in others:
                cache.copy(first, other)
        return self._run(
            cache,
            [slot for own in free for slot in own],
            [suffix for group in groups for suffix in group.suffixes],
        )

    def _step(self, cache: Slots, running: Sequence[int], tokens: Tensor) -> Tensor:
        """Logits (slots, vocabulary) after one more token, `tokens` (slots,), in each of these slots."""
        embedded = self._model.get_input_embeddings()(tokens)
        return self._run(cache, running, embedded.split(1))

    def _run(self, cache: Slots, into: Sequence[int], inputs: Sequence[Tensor]) -> Tensor:
        """float32 logits after the last token of each of `inputs`, (tokens, width), which join these slots."""
        packed = torch.cat(list(inputs))
        this = Pass(cache, into, [len(own) for own in inputs], eager=self._eager)
        hidden = self._text(
            inputs_embeds=packed[None],
            position_ids=torch.tensor([self._positions(this)], device=packed.device),
            use_cache=False,
            captions=this,
        ).last_hidden_state[0]
        this.done()
        logits: Tensor = self._model.get_output_embeddings()(hidden[this.last()])
        return logits.to(self._model.device, torch.float32)

    def _positions(self, this: Pass) -> Sequence[int]:
        """Each token's place in its own sequence."""
        return this.positions()


def _next(waiting: deque[Group], free: int, lengths: Sequence[int]) -> list[Group]:
    """Takes the groups that begin next: as many as have slots, of `PREFILL_TOKENS` together, or one."""
    found, tokens = list[Group](), 0
    while waiting and len(waiting[0]) <= free:
        tokens += sum(lengths[number] for number in waiting[0])
        if found and tokens > PREFILL_TOKENS:
            break
        found.append(waiting.popleft())
        free -= len(found[-1])
    return found
