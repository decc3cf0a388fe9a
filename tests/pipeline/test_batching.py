"""pipeline.batching: requests to buckets."""

from __future__ import annotations

import random

from pipeline.batching import buckets, padding


def lengths(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [max(1, int(rng.lognormvariate(7, 0.6))) for _ in range(count)]


def test_every_index_is_in_exactly_one_bucket() -> None:
    own = lengths(0, 500)

    assert sorted(i for bucket in buckets(own, 8192, 32) for i in bucket) == list(range(500))


def test_padded_tokens_and_size_stay_within_their_bounds() -> None:
    own = lengths(1, 500)

    for bucket in buckets(own, 8192, 6):
        assert len(bucket) <= 6
        assert len(bucket) == 1 or len(bucket) * max(own[i] for i in bucket) <= 8192


def test_a_length_beyond_the_budget_is_alone() -> None:
    assert buckets([10, 50, 10, 60], 40, 8) == [(3,), (1,), (0, 2)]


def test_longest_first_and_equal_lengths_in_their_order() -> None:
    assert buckets([5, 9, 5, 9, 5], 18, 8) == [(1, 3), (0, 2, 4)]


def test_nothing_makes_no_bucket() -> None:
    assert buckets([], 100, 8) == []
    assert padding([], []) == 0.0


def test_padding_is_the_padded_share() -> None:
    assert padding([10, 5, 5], [(0, 1), (2,)]) == 5 / 25


def test_a_unit_of_web_like_lengths_pads_little() -> None:
    """First-in-first-out batches of 16 of such lengths pad about half."""
    own = lengths(2, 512)

    assert padding(own, buckets(own, 32768, 16)) < 0.06
    assert padding(own, [range(i, i + 16) for i in range(0, 512, 16)]) > 0.4
