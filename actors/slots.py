"""Attention over packed tokens, and the blocks of cache in which captions that are being generated have a slot each.

Tokens of many sequences lie one behind the other, without padding, in every pass of the language model; here alone are
they told apart. The model reaches `attend` through transformers' `AttentionInterface`, with the pass as its keyword.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from actors.attention import causal
from pipeline.batching import Slot

NAME = "captionmill_packed"


@dataclass(eq=False, slots=True)
class Slots:
    """Keys and values of `count` sequences in `dtype`, (count, heads, `room`, width) in each layer, made when first
    used.

    `held` is the number of tokens in each slot.
    """

    count: int
    room: int
    dtype: torch.dtype
    held: list[int] = field(init=False)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.held = [0] * self.count

    def layer(self, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer; `like` is (1, heads, tokens, width)."""
        if number not in self.keys:
            shape = (self.count, like.shape[1], self.room, like.shape[3])
            self.keys[number] = like.new_zeros(shape, dtype=self.dtype)
            self.values[number] = torch.zeros_like(self.keys[number])
        return self.keys[number], self.values[number]


Place = Slot[Slots]


def copy(source: Place, target: Place) -> None:
    """Let the slot `target` hold what `source` holds."""
    n = target.block.held[target.index] = source.block.held[source.index]
    for layer in source.block.keys:
        held = source.block.layer(layer, source.block.keys[layer])
        for into, own in zip(target.block.layer(layer, held[0]), held, strict=True):
            into[target.index, :, :n] = own[source.index, :, :n]


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries, keys and values of some tokens, (1, heads, tokens, width), with fewer heads in the last two.

    A token sees `window` tokens, itself included, or all before it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    window: int | None

    def split(self, lengths: Sequence[int]) -> Iterator[Asked]:
        """So many tokens each."""
        parts = [whole.split(list(lengths), dim=2) for whole in (self.query, self.key, self.value)]
        for query, key, value in zip(*parts, strict=True):
            yield Asked(query, key, value, self.scale, self.window)


@dataclass(frozen=True, slots=True)
class _Places:
    """Of a pass of one token a slot: slots, tokens before, and what each slot sees, (slots, 1, 1, tokens)."""

    slots: Tensor
    before: Tensor
    mask: Tensor


class Pass:
    """Which tokens of one pass belong to which slot: `lengths[i]` of them, in order, join `slots[i]`.

    Where all are 1, the slots of a block are side by side. Attention is `eager`, or, where no window ends, `products`.
    Of the layer that is `trimmed`, what each slot's last token takes is read, and nothing else.
    """

    def __init__(
        self,
        slots: Sequence[Place],
        lengths: Sequence[int],
        *,
        eager: bool,
        products: bool = False,
        trimmed: int | None = None,
    ) -> None:
        self._slots, self._lengths = slots, lengths
        self._eager, self._products, self._trimmed = eager, products, trimmed
        self._before = [slot.block.held[slot.index] for slot in slots]
        self._made: dict[tuple[Slots, torch.device, int | None], _Places] = {}

    def positions(self) -> list[int]:
        """Each token's place in its own sequence."""
        segments = zip(self._before, self._lengths, strict=True)
        return [position for before, n in segments for position in range(before, before + n)]

    def last(self) -> list[int]:
        """Where in the pass each slot's last token is."""
        ends = torch.tensor(self._lengths).cumsum(0) - 1
        found: list[int] = ends.tolist()
        return found

    def done(self) -> None:
        """The tokens are in the cache."""
        for slot, n in zip(self._slots, self._lengths, strict=True):
            slot.block.held[slot.index] += n

    def attend(self, layer: int, asked: Asked) -> Tensor:
        """What the tokens of the pass take from their own sequences: (1, tokens, heads, width)."""
        with sdpa_kernel(SDPBackend.MATH) if self._eager else nullcontext():
            if max(self._lengths) == 1:
                blocks = [(block, list(own)) for block, own in groupby(self._slots, lambda slot: slot.block)]
                parts = zip(blocks, asked.split([len(own) for _, own in blocks]), strict=True)
                return torch.cat([self._step(layer, block, part) for (block, _), part in parts], dim=1)
            segments = zip(self._slots, self._before, asked.split(self._lengths), strict=True)
            return torch.cat([self._segment(layer, *segment) for segment in segments], dim=1)

    def _segment(self, layer: int, slot: Place, before: int, asked: Asked) -> Tensor:
        """One sequence goes on by some tokens: each sees itself and those before it. (1, tokens, heads, width)."""
        query, scale = asked.query, asked.scale
        held = [own[slot.index] for own in slot.block.layer(layer, asked.key)]
        end = before + query.shape[2]
        for own, new in zip(held, (asked.key, asked.value), strict=True):
            own[:, before:end] = new[0]
        keys, values = (
            (own[None, :, :end].to(query.dtype) for own in held) if before else (asked.key, asked.value)
        )
        if layer == self._trimmed:
            found = query.new_zeros(1, query.shape[2], query.shape[1], query.shape[3])
            found[:, -1:] = self._taken(query[:, :, -1:], keys, values, scale, asked.window)
            return found
        return self._taken(query, keys, values, scale, asked.window)

    def _taken(self, query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None) -> Tensor:
        """What the last tokens take of all: (1, queries, heads, width)."""
        count, end = query.shape[2], keys.shape[2]
        windowless = window is None or end <= window
        if windowless and self._products and count > 1:
            return causal(query, keys, values, scale)
        times = query.shape[1] // keys.shape[1]
        keys, values = _repeated(keys, times), _repeated(values, times)
        if windowless and count in (1, end):  # no mask: the fastest kernels
            return sdpa(query, keys, values, is_causal=count > 1, scale=scale).transpose(1, 2)
        at = torch.arange(end, device=query.device)
        mask = _seen(at, at[end - count :, None], window)
        return sdpa(query, keys, values, attn_mask=mask, scale=scale).transpose(1, 2)

    def _step(self, layer: int, block: Slots, asked: Asked) -> Tensor:
        """Sequences of one block go on by one token: the heads that share keys and values are rows of one query."""
        query, shared = asked.query, asked.key.shape[1]
        keys, values = block.layer(layer, asked.key)
        at = self._places(block, query.device, asked.window)
        keys[at.slots, :, at.before] = asked.key[0].transpose(0, 1).to(keys.dtype)
        values[at.slots, :, at.before] = asked.value[0].transpose(0, 1).to(keys.dtype)
        top, longest = at.mask.shape[0], at.mask.shape[-1]
        heads, tokens, width = query.shape[1:]
        rows = query.new_zeros(top, shared, heads // shared, width)
        rows[at.slots] = query[0].transpose(0, 1).reshape(tokens, shared, heads // shared, width)
        keys, values = (own[:top, :, :longest].to(query.dtype) for own in (keys, values))
        found = sdpa(rows, keys, values, attn_mask=at.mask, scale=asked.scale)
        return found[at.slots].reshape(1, tokens, heads, width)

    def _places(self, block: Slots, device: torch.device, window: int | None) -> _Places:
        """Made once for all layers."""
        if (block, device, window) not in self._made:
            own = [slot.index for slot in self._slots if slot.block is block]
            self._made[block, device, window] = _places(own, [block.held[i] for i in own], device, window)
        return self._made[block, device, window]


def _places(slots: Sequence[int], before: Sequence[int], device: torch.device, window: int | None) -> _Places:
    into, held = torch.tensor(slots, device=device), torch.tensor(before, device=device)
    last = held.new_zeros(max(slots) + 1)  # an idle slot sees its first token
    last[into] = held
    mask = _seen(torch.arange(max(before) + 1, device=device), last[:, None], window)
    return _Places(into, held, mask[:, None, None])


def _seen(at: Tensor, place: Tensor, window: int | None) -> Tensor:
    """Which of the tokens `at` the token in `place` sees."""
    return at <= place if window is None else (at <= place) & (at > place - window)


def _repeated(heads: Tensor, times: int) -> Tensor:
    """Keys or values once for each head of the queries."""
    return heads if times == 1 else heads.repeat_interleave(times, dim=1)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    *,
    scaling: float,
    captions: Pass,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: whatever mask there is, the pass knows it."""
    layer: Any = module.layer_idx
    return captions.attend(layer, Asked(query, key, value, scaling, sliding_window)), None


AttentionInterface.register(NAME, attention)
