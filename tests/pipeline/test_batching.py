"""pipeline.batching: slots for sequences of all lengths."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pipeline.batching import BLOCK, Rooms, Slot, longest_first, rounded


@dataclass(eq=False)
class Block:
    count: int
    room: int


def rooms(tokens: int, captions: int = 64) -> tuple[Rooms[Block], list[Block]]:
    """With all blocks that it ever makes."""
    made: list[Block] = []

    def make(count: int, room: int) -> Block:
        made.append(Block(count, room))
        return made[-1]

    return Rooms(tokens, captions, make), made


def taken(of: Rooms[Block], length: int, wanted: int = 1) -> Slot[Block]:
    slot = of.take(length, wanted)
    assert slot
    return slot


def test_no_slot_is_two_sequences_and_every_slot_has_room() -> None:
    dice, (of, _) = random.Random(0), rooms(100_000)
    held: list[Slot[Block]] = []
    for _ in range(5_000):
        if held and dice.random() < 0.5:
            of.give(held.pop(dice.randrange(len(held))))
        length = int(dice.lognormvariate(7, 0.6))
        if slot := of.take(length, dice.randrange(1, 20)):
            assert slot not in held
            assert slot.block.room >= length
            assert slot.index < slot.block.count
            held.append(slot)
        in_use = {slot.block for slot in held}
        assert sum(block.count * block.room for block in in_use) <= 100_000
        assert len(held) <= 64


def test_sequences_of_like_lengths_share_a_block() -> None:
    of, made = rooms(1_000_000)
    slots = [taken(of, length, 8) for length in (1000, 900, 1024, 800, 700, 600, 1000, 1000)]

    assert len({slot.block for slot in slots}) == 1
    assert [(block.count, block.room) for block in made] == [(BLOCK, 1024)]


def test_a_block_has_no_more_slots_than_are_wanted_and_fit() -> None:
    of, made = rooms(5000, captions=6)
    taken(of, 1000, wanted=3)
    taken(of, 100, wanted=30)

    assert [block.count for block in made] == [3, 6]


def test_a_short_sequence_takes_a_long_slot_only_where_nothing_else_is_left() -> None:
    of, _ = rooms(2 * rounded(4000) + 200)
    first = taken(of, 4000, wanted=2)
    short = taken(of, 100)
    assert short.block is not first.block
    assert taken(of, 180).block is first.block


def test_blocks_that_nobody_uses_make_way() -> None:
    of, _ = rooms(1000)
    slot = taken(of, 100, wanted=8)
    of.give(slot)

    assert taken(of, 1000).block.room == 1000
    assert of.take(10) is None


def test_a_sequence_beyond_the_budget_is_alone() -> None:
    of, _ = rooms(100)
    slot = taken(of, 500)
    assert (slot.block.count, slot.block.room) == (1, 500)
    assert of.take(1) is None
    of.give(slot)
    assert taken(of, 80).block.room <= 500


def test_no_more_than_the_captions_that_run_at_once() -> None:
    of, _ = rooms(1_000_000, captions=3)
    slots = [taken(of, 10) for _ in range(3)]
    assert of.take(10) is None
    of.give(slots[1])
    assert of.take(10)


def test_rooms_grow_by_a_quarter_of_an_octave() -> None:
    assert [rounded(n) for n in (1, 2, 1000, 1024, 1025, 1217, 1219)] == [1, 2, 1024, 1024, 1218, 1218, 1449]
    assert all(n <= rounded(n) < 1.19 * n + 1 for n in range(1, 20_000))


def test_groups_begin_by_their_longest() -> None:
    assert longest_first([[0, 1], [2], [3]], [5, 90, 70, 90]) == [[0, 1], [3], [2]]
