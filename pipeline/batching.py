"""Which captions are generated together, and where in the cache each has its place: pure arithmetic on lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

BLOCK = 8  # slots of equal room: one call of attention a layer for each block, so not fewer; idle ones, so not more


class Room(Protocol):
    """A block of slots: keys and values of sequences of at most `room` tokens each."""

    room: int


B = TypeVar("B", bound=Room)


@dataclass(frozen=True, slots=True, eq=False)
class Slot(Generic[B]):
    """The place of one sequence, for as long as it is taken."""

    block: B
    index: int


class Rooms(Generic[B]):
    """Slots for sequences of any length: `make(count, room)` makes a block of them.

    All blocks together have room for at most `tokens`, unless one sequence alone is longer; at most `captions` slots
    are taken at once.
    """

    def __init__(self, tokens: int, captions: int, make: Callable[[int, int], B]) -> None:
        self._tokens, self._captions, self._make = tokens, captions, make
        self._free = dict[B, list[int]]()
        self._sizes = dict[B, int]()  # slots of each block
        self._taken = 0

    @property
    def idle(self) -> int:
        """How many more slots may be taken at once, as far as captions are counted."""
        return self._captions - self._taken

    def take(self, length: int, wanted: int = 1) -> Slot[B] | None:
        """A slot for a sequence of at most `length` tokens; None while there is none.

        `wanted` are the sequences that wait: no larger block is made than they can fill. A slot twice as long as it
        has to be is taken only where no better one fits beside those that are in use.
        """
        if self._taken == self._captions:
            return None
        block = (
            self._with_room(length, 2 * length)
            or self._made(length, wanted)
            or self._with_room(length, math.inf)
            or (self._made(length, wanted) if self._emptied() else None)
        )
        if block is None:
            return None
        self._taken += 1
        return Slot(block, self._free[block].pop())

    def give(self, slot: Slot[B]) -> None:
        """The slot is free again."""
        self._taken -= 1
        self._free[slot.block].append(slot.index)

    def _with_room(self, least: int, most: float) -> B | None:
        """The closest fit among blocks with a free slot."""
        fitting = [block for block, free in self._free.items() if free and least <= block.room <= most]
        return min(fitting, key=lambda block: block.room, default=None)

    def _made(self, length: int, wanted: int) -> B | None:
        """A new block, where there is room for one slot of it."""
        room = min(rounded(length), max(length, self._tokens))
        left = self._tokens - sum(block.room * size for block, size in self._sizes.items())
        if left < room and self._sizes:
            return None
        count = max(1, min(BLOCK, wanted, self._captions, left // room))
        block = self._make(count, room)
        self._free[block], self._sizes[block] = list(range(count))[::-1], count
        return block

    def _emptied(self) -> bool:
        """Forget the blocks that nobody has a slot of; whether there were any."""
        empty = [block for block, free in self._free.items() if len(free) == self._sizes[block]]
        for block in empty:
            del self._free[block], self._sizes[block]
        return bool(empty)


def rounded(length: int) -> int:
    """The next quarter of an octave, at most 19 % more: sequences of like lengths share a block."""
    return max(length, math.ceil(2 ** (math.ceil(4 * math.log2(max(1, length))) / 4)))


def longest_first(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[Sequence[int]]:
    """Groups of requests, as places in `lengths`, by their longest: what runs long shall not begin last."""
    return sorted(groups, key=lambda group: -max(lengths[i] for i in group))
