"""Attention as two products with powers of two between them, for CPUs that multiply 16 bits fast.

torch's fused attention for CPUs multiplies small blocks: on two cores of an EPYC with AVX512-BF16, whose products reach
400 GFLOP/s, it reaches 100 in the layers of a model, where this reaches 180.

Between the products, scores are rounded to 16 bits, with an error that grows with their size: with keys that have
something large in common, as Qwen2's have by their bias, 5 % of the result. What is taken from all scores of a row
changes no softmax, so a number near the row's largest is taken from them before they are rounded, by one more column of
queries and keys: then those that count are near zero, and exact. It is the largest among every `EVERY`th key; rows of
which it turns out that this was not near are computed again with their largest. The result is 0.4 % off, whatever the
keys have in common, the fused attention's 0.2 %. Softmax would look for the largest, too, in half its time; here one
more column of the values has the sums.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "captionmill_products"
EVERY = 16  # keys: of 729, 46 are looked at, 3 % of what all scores cost
FAR = 2.0**16  # sums beyond: a score of 16 powers of two is off by 1 / 32 of one, and what it weighs by 2 %
AGAIN = 64  # rows that are computed again are a multiple of it: each number of rows is a kernel to make
ROWS = 128  # queries of each head at once: scores of 7 heads by 4,096 keys are 7 MB, and stay in the cache


def dense(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """What every token takes from all: (samples, heads, tokens, width) each to (samples, tokens, heads, width)."""
    samples, heads, tokens, width = query.shape
    queries, keys, values = _columns(query, key, value)
    queries[..., -1] = _near(queries.flatten(0, 1), keys.flatten(0, 1)).unflatten(0, (samples, heads))
    found = query.new_empty(samples, tokens, heads, width)
    for i, into in enumerate(found):
        into.copy_(_attended(queries[i], keys[i], values[i], scale).transpose(0, 1))
    return found


def causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """What the last tokens of a sequence take from themselves and those before: to (1, queries, heads, width).

    `query` is (1, heads, queries, width). `key` and `value` are of all tokens, with fewer heads, each for as many of
    the queries' that stand side by side.
    """
    count, (shared, tokens) = query.shape[2], key.shape[1:3]
    queries, keys, values = (own[0] for own in _columns(query, key, value))
    found, queries = (
        query.new_empty(query.shape[2:0:-1] + query.shape[3:]),
        queries.unflatten(0, (shared, -1)),
    )
    later = torch.ones(ROWS, ROWS, dtype=torch.bool, device=query.device).triu_(1)
    for first in range(0, count, ROWS):
        own = queries[:, :, first : first + ROWS]
        rows, before = own.shape[2], tokens - count + first
        end = before + rows
        itself = (own * keys[:, None, before:end]).sum(-1).flatten(1)
        own = own.flatten(1, 2)
        own[..., -1] = _near(own, keys[:, : max(before, 1)]).maximum(itself)  # all of them see these keys
        hidden = later[:rows, :rows].repeat(own.shape[1] // rows, 1)
        each = _attended(own, keys[:, :end], values[:, :end], scale, hidden)
        found[first : first + rows] = each.unflatten(1, (-1, rows)).flatten(0, 1).transpose(0, 1)
    return found[None]


def _columns(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each with one more column: what is taken from scores, 0 yet; how often it is taken; and what is summed up."""
    found = [own.new_empty(*own.shape[:-1], own.shape[-1] + 1) for own in (query, key, value)]
    for into, own, last in zip(found, (query, key, value), (0.0, -1.0, 1.0), strict=True):
        into[..., :-1], into[..., -1] = own, last
    return found[0], found[1], found[2]


def _near(queries: Tensor, keys: Tensor) -> Tensor:
    """(heads, queries): the largest of some products with the keys."""
    found = torch.bmm(
        keys[:, ::EVERY], queries.transpose(1, 2)
    )  # this way round, amax takes a quarter of the time
    return found.amax(1)


def _attended(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, hidden: Tensor | None = None
) -> Tensor:
    """(heads, queries, width), given (heads, queries or keys, width + 1).

    `hidden`, (queries, last keys), says which of the last keys a query does not see.
    """
    found = torch.bmm(_powers(queries, keys, scale, hidden).exp2_(), values)
    if not found[..., -1].amax() <= FAR:  # also where it is not finite
        for head, far in enumerate(~(found[..., -1] <= FAR)):
            if (rows := _padded(far.nonzero()[:, 0])).numel():
                own, here = slice(head, head + 1), None if hidden is None else hidden[rows]
                found[own, rows] = _again(queries[own, rows], keys[own], values[own], scale, here)
    return found[..., :-1] / found[..., -1:]


def _again(queries: Tensor, keys: Tensor, values: Tensor, scale: float, hidden: Tensor | None) -> Tensor:
    """The weighted sums with the largest score of each row at zero."""
    queries[..., -1] += _powers(queries, keys, scale, hidden).amax(-1) / (scale / math.log(2))
    return torch.bmm(_powers(queries, keys, scale, hidden).exp2_(), values)


def _padded(rows: Tensor) -> Tensor:
    """The last of them again, until there is a multiple of `AGAIN`."""
    count = math.ceil(len(rows) / AGAIN) * AGAIN
    return rows[torch.arange(count, device=rows.device).clamp(max=len(rows) - 1)]


def _powers(queries: Tensor, keys: Tensor, scale: float, hidden: Tensor | None) -> Tensor:
    """(heads, queries, keys): what two is raised to; minus infinity where a key is not seen."""
    found = queries.new_empty(len(keys), queries.shape[1], keys.shape[1])
    torch.baddbmm(found, queries, keys.transpose(1, 2), beta=0, alpha=scale / math.log(2), out=found)
    if hidden is not None:
        found[..., -hidden.shape[1] :].masked_fill_(hidden, -torch.inf)
    return found


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface, for vision towers: there is no mask."""
    return dense(query, key, value, scaling), None


AttentionInterface.register(NAME, attention)
