"""Which requests run together: pure arithmetic on lengths in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def waves(
    groups: Sequence[Sequence[int]], lengths: Sequence[int], token_budget: int, max_size: int
) -> Iterator[tuple[int, list[Sequence[int]]]]:
    """Waves of groups that run through the same slots, and how many slots each wave has; longest groups first.

    A group is the requests of one sample, as places in `lengths`; they begin together. Every slot has room for the
    longest request of its wave: slots times that are at most `token_budget` tokens, unless one request alone is more.
    There are at most `max_size` slots, and no more than requests. Where the budget allows fewer than `max_size`, a
    wave ends before requests half as long as its longest, and the next has more slots.
    """
    order = sorted(groups, key=lambda group: -_longest(group, lengths))
    while order:
        longest = max(1, _longest(order[0], lengths))
        fits = max(1, min(max_size, token_budget // longest))
        stop = len(order)
        if fits < max_size:
            stop = next((i for i, g in enumerate(order) if 2 * _longest(g, lengths) <= longest), stop)
        wave = [part for group in order[:stop] for part in _parts(group, fits)]
        yield min(fits, sum(map(len, wave))), wave
        order = order[stop:]


def _longest(group: Sequence[int], lengths: Sequence[int]) -> int:
    return max(lengths[i] for i in group)


def _parts(group: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The group, or what of it there are slots for, and the rest."""
    for start in range(0, len(group), size):
        yield group[start : start + size]
