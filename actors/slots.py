"""Attention over packed tokens, and the cache in which captions that are being generated have a slot each.

Tokens of many sequences lie one behind the other, without padding, in every pass of the language model; here alone are
they told apart. The model reaches `attend` through transformers' `AttentionInterface`, with the pass as its keyword.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

NAME = "captionmill_packed"


@dataclass(slots=True)
class Slots:
    """Keys and values of `count` sequences, (count, heads, `room`, width) in each layer, made when first used.

    `held` is the number of tokens in each slot.
    """

    count: int
    room: int
    held: list[int] = field(init=False)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.held = [0] * self.count

    def layer(self, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer; `like` is (1, heads, tokens, width)."""
        if number not in self.keys:
            shape = (self.count, like.shape[1], self.room, like.shape[3])
            self.keys[number], self.values[number] = like.new_zeros(shape), like.new_zeros(shape)
        return self.keys[number], self.values[number]

    def copy(self, source: int, target: int) -> None:
        """Let `target` hold what `source` holds."""
        n = self.held[target] = self.held[source]
        for held in (*self.keys.values(), *self.values.values()):
            held[target, :, :n] = held[source, :, :n]


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
    """Which tokens of one pass belong to which slot: `lengths[i]` of them, in order, join slot `slots[i]`."""

    def __init__(self, cache: Slots, slots: Sequence[int], lengths: Sequence[int], *, eager: bool) -> None:
        self._cache, self._slots, self._lengths, self._eager = cache, slots, lengths, eager
        self._before = [cache.held[slot] for slot in slots]
        self._made: dict[tuple[torch.device, int | None], _Places] = {}

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
            self._cache.held[slot] += n

    def attend(self, layer: int, asked: Asked) -> Tensor:
        """What the tokens of the pass take from their own sequences: (1, tokens, heads, width)."""
        keys, values = self._cache.layer(layer, asked.key)
        with sdpa_kernel(SDPBackend.MATH) if self._eager else nullcontext():
            if max(self._lengths) == 1:
                return self._step(keys, values, asked)
            segments = zip(self._slots, self._before, asked.split(self._lengths), strict=True)
            found = [_segment(keys[slot], values[slot], before, own) for slot, before, own in segments]
        return torch.cat(found, dim=2).transpose(1, 2)

    def _step(self, keys: Tensor, values: Tensor, asked: Asked) -> Tensor:
        """Every sequence goes on by one token: the heads that share keys and values are rows of one query."""
        query, shared = asked.query, asked.key.shape[1]
        at = self._places(query.device, asked.window)
        keys[at.slots, :, at.before] = asked.key[0].transpose(0, 1)
        values[at.slots, :, at.before] = asked.value[0].transpose(0, 1)
        top, longest = at.mask.shape[0], at.mask.shape[-1]
        heads, tokens, width = query.shape[1:]
        rows = query.new_zeros(top, shared, heads // shared, width)
        rows[at.slots] = query[0].transpose(0, 1).reshape(tokens, shared, heads // shared, width)
        held = keys[:top, :, :longest], values[:top, :, :longest]
        found = sdpa(rows, *held, attn_mask=at.mask, scale=asked.scale)
        return found[at.slots].reshape(1, tokens, heads, width)

    def _places(self, device: torch.device, window: int | None) -> _Places:
        """Made once for all layers."""
        if (device, window) not in self._made:
            self._made[device, window] = _places(self._slots, self._before, device, window)
        return self._made[device, window]


def _segment(keys: Tensor, values: Tensor, before: int, asked: Asked) -> Tensor:
    """One sequence goes on by some tokens: each sees itself and those before it. (1, heads, tokens, width)."""
    query, scale = asked.query, asked.scale
    end = before + query.shape[2]
    keys[:, before:end], values[:, before:end] = asked.key[0], asked.value[0]
    times = query.shape[1] // asked.key.shape[1]
    if before == 0 and (asked.window is None or end <= asked.window):  # no mask: the fastest kernels
        return sdpa(
            query, _repeated(asked.key, times), _repeated(asked.value, times), is_causal=True, scale=scale
        )
    at = torch.arange(end, device=query.device)
    mask = _seen(at, at[before:, None], asked.window)
    held = _repeated(keys[None, :, :end], times), _repeated(values[None, :, :end], times)
    return sdpa(query, *held, attn_mask=mask, scale=scale)


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
