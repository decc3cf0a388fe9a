"""What the language model computes: prompts and their next tokens to logits, each sequence as if it were by itself.

Arithmetic on tensors only: no files, no tokenizer, no Ray. Tokens of many prompts go through the model one behind the
other, without padding, and what the prompts of one sample have in common is run once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors import slots
from actors.kernels import Adapted
from actors.slots import Pass, Place
from actors.trimming import trim_text
from actors.vision import Model


@dataclass(frozen=True, slots=True)
class Branches:
    """Prompts with a common beginning, as embeddings (tokens, width).

    `prefix` is the beginning, which may be empty; each of `suffixes` goes on from it with one token at least.
    """

    prefix: Tensor
    suffixes: tuple[Tensor, ...]


class Decoder:
    """The language model of a loaded checkpoint, whose attention is `actors.slots` from now on.

    Tokens go through it as it was `adapted` (`actors.kernels`), where it was.
    """

    def __init__(self, model: Model, adapted: Adapted | None = None) -> None:
        self._model = model
        self._adapted = adapted or Adapted(model.dtype, model.dtype)
        self._text = model.model.language_model
        self._eager = self._text.config._attn_implementation == "eager"
        self._text.set_attn_implementation(slots.NAME)
        self._trimmed = trim_text(self._text)

    def embed(self, input_ids: Sequence[int], placeholder: int, visual: Tensor) -> Tensor:
        """(tokens, width): the embeddings of `input_ids`, with `visual` in place of the placeholder's id."""
        ids = torch.tensor(input_ids, device=self._model.device)
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        here = (ids == placeholder).to(
            embedded.device
        )  # which of several GPUs this is, is the embedding's to say
        embedded[here] = visual.to(embedded)
        return embedded

    @torch.inference_mode()
    def start(self, groups: Sequence[Branches], into: Sequence[Sequence[Place]]) -> Tensor:
        """Begin every prompt of every group, in order, in the slot that `into` has for it: logits (prompts, tokens).

        The prefix of a group is run once, and copied to its other slots.
        """
        for slot in (slot for own in into for slot in own):
            slot.block.held[slot.index] = 0
        shared = [(group, own) for group, own in zip(groups, into, strict=True) if len(group.prefix)]
        if shared:
            self._run(
                [own[0] for _, own in shared], [group.prefix for group, _ in shared], self._adapted.many
            )
        for _, (first, *others) in shared:
            for other in others:
                slots.copy(first, other)
        return self._run(
            [slot for own in into for slot in own],
            [suffix for group in groups for suffix in group.suffixes],
            self._adapted.many,
        )

    @torch.inference_mode()
    def step(self, running: Sequence[Place], tokens: Sequence[int]) -> Tensor:
        """Logits (slots, vocabulary) after one more token in each of these slots, those of a block side by side."""
        ids = torch.tensor(tokens, device=self._model.device)
        return self._run(running, self._model.get_input_embeddings()(ids).split(1), self._adapted.few)

    def _run(self, into: Sequence[Place], inputs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """float32 logits after the last token of each of `inputs`, (tokens, width), which join these slots."""
        packed = torch.cat(list(inputs)).to(dtype)
        this = Pass(
            into,
            [len(own) for own in inputs],
            eager=self._eager,
            products=self._adapted.products,
            trimmed=self._trimmed,
        )
        hidden = self._text(
            inputs_embeds=packed[None],
            position_ids=torch.tensor([self._positions(this)], device=packed.device),
            use_cache=False,
            captions=this,
        ).last_hidden_state[0]
        this.done()
        if len(hidden) > len(into):  # the last layer is not trimmed
            hidden = hidden[this.last()]
        logits: Tensor = self._model.get_output_embeddings()(hidden.to(self._adapted.few))
        return logits.to(self._model.device, torch.float32)

    def _positions(self, this: Pass) -> Sequence[int]:
        """Each token's place in its own sequence."""
        return this.positions()
