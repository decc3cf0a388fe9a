"""Which requests run together: pure arithmetic on lengths in tokens."""

from __future__ import annotations

from collections.abc import Sequence


def buckets(lengths: Sequence[int], token_budget: int, max_size: int) -> list[tuple[int, ...]]:
    """Divide the indices of `lengths` into buckets of near lengths, the longest first.

    Padded to its longest, a bucket has at most `token_budget` tokens and at most `max_size` members; a single
    length beyond the budget is alone. Equal lengths keep their order, so the result depends on the arguments
    only.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    found: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        fits = token_budget // max(lengths[order[start]], 1)
        size = max(1, min(fits, max_size))
        found.append(tuple(order[start : start + size]))
        start += size
    return found


def padding(lengths: Sequence[int], buckets: Sequence[Sequence[int]]) -> float:
    """The share of padding among all tokens of `buckets`, each padded to its longest; 0.0 where there are none."""
    padded = sum(len(bucket) * max(lengths[i] for i in bucket) for bucket in buckets)
    real = sum(lengths[i] for bucket in buckets for i in bucket)
    return (padded - real) / padded if padded else 0.0
