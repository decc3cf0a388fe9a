"""pipeline.batching: requests to waves."""

from __future__ import annotations

import random

from pipeline.batching import waves


def lengths(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [max(1, int(rng.lognormvariate(7, 0.6))) for _ in range(count)]


def alone(count: int) -> list[list[int]]:
    return [[i] for i in range(count)]


def test_every_request_is_in_exactly_one_wave() -> None:
    found = list(waves(alone(500), lengths(0, 500), 8192, 32))

    assert sorted(i for _, groups in found for group in groups for i in group) == list(range(500))


def test_slots_have_room_for_the_longest_within_the_budget_and_are_no_more_than_asked() -> None:
    own = lengths(1, 500)

    for count, groups in waves(alone(500), own, 8192, 6):
        assert count <= 6
        assert count == 1 or count * max(own[i] for group in groups for i in group) <= 8192


def test_a_wave_ends_where_prompts_half_as_long_could_have_more_slots() -> None:
    assert list(waves(alone(6), [50, 10, 100, 60, 9, 20], 200, 8)) == [
        (2, [[2], [3]]),
        (1, [[0]]),
        (3, [[5], [1], [4]]),
    ]


def test_one_wave_does_where_the_budget_allows_all_slots() -> None:
    assert list(waves(alone(4), [10, 100, 9, 50], 1000, 3)) == [(3, [[1], [3], [0], [2]])]


def test_a_length_beyond_the_budget_has_a_slot_of_its_own() -> None:
    assert list(waves(alone(2), [60, 10], 40, 8)) == [(1, [[0]]), (1, [[1]])]


def test_equal_lengths_keep_their_order() -> None:
    assert list(waves(alone(5), [5, 9, 5, 9, 5], 100, 8)) == [(5, [[1], [3], [0], [2], [4]])]


def test_prompts_of_a_sample_begin_together_unless_there_are_more_of_them_than_slots() -> None:
    assert list(waves([[0, 1, 2], [3, 4]], [9, 9, 9, 8, 8], 20, 8)) == [(2, [[0, 1], [2], [3, 4]])]


def test_nothing_makes_no_wave() -> None:
    assert list(waves([], [], 100, 8)) == []
