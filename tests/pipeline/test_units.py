"""How a shard's assets become units."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from pipeline.config import UnitConfig
from pipeline.types import Cost, Shard, ShardFormat, Unit
from pipeline.units import longest_first, split

SHARD = Shard("s3://bucket/0.tar", "0.tar", "etag", 1, ShardFormat.TAR)


def units(tokens: list[int], pixels: list[int] | None = None, limits: UnitConfig | None = None) -> list[Unit]:
    """Units of assets with one crop each."""
    crops = np.ones(len(tokens), np.int64)
    cost = np.stack(
        [np.array(tokens, np.int64), crops, np.array(pixels or [0] * len(tokens), np.int64)], axis=1
    )
    limits = limits or UnitConfig(max_assets=3, max_visual_tokens=10, max_pixel_bytes=100)
    return split(SHARD, 7, cost, limits)


def tokens(of: list[Unit]) -> list[int]:
    """Their visual tokens, in order."""
    return [u.cost.visual_tokens for u in of]


def test_a_unit_is_named_after_shard_and_range() -> None:
    assert [u.unit_id for u in units([1] * 5)] == ["000007-00000000-00003", "000007-00000003-00002"]


@pytest.mark.parametrize(
    ("tokens", "pixels", "counts"),
    [
        ([1] * 7, None, [3, 3, 1]),
        ([5, 5, 5, 6, 4], None, [2, 1, 2]),
        ([1] * 4, [60, 40, 1, 99], [2, 2]),
        ([0] * 4, None, [3, 1]),
        ([], None, []),
    ],
)
def test_units_are_as_long_as_the_limits_allow(
    tokens: list[int], pixels: list[int] | None, counts: list[int]
) -> None:
    assert [u.count for u in units(tokens, pixels)] == counts


def test_an_asset_beyond_a_limit_is_a_unit_by_itself() -> None:
    assert [u.count for u in units([1, 99, 1, 1], [1, 1, 999, 1])] == [1, 1, 1, 1]


def test_costs_are_sums() -> None:
    assert units([2, 3, 4], [10, 20, 30])[0].cost == Cost(9, 3, 60)


def test_units_cover_the_shard_without_gaps() -> None:
    random = np.random.default_rng(0)
    tokens, pixels = random.integers(0, 12, 10_000).tolist(), random.integers(0, 120, 10_000).tolist()
    covered = [i for u in units(tokens, pixels) for i in range(u.first, u.first + u.count)]
    assert covered == list(range(10_000))


def test_units_are_greedy() -> None:
    """One more asset would break a limit, or there is none."""
    random = np.random.default_rng(1)
    tokens, pixels = random.integers(0, 8, 1000), random.integers(0, 80, 1000)
    limits = UnitConfig(max_assets=3, max_visual_tokens=10, max_pixel_bytes=100)
    for unit in units(tokens.tolist(), pixels.tolist(), limits)[:-1]:
        more = slice(unit.first, unit.first + unit.count + 1)
        assert unit.count == 3 or tokens[more].sum() > 10 or pixels[more].sum() > 100


def test_long_units_come_first() -> None:
    assert tokens(longest_first(units([1, 99, 5, 40]), Random(0))) == [99, 40, 5, 1]


def test_a_unit_never_waits_behind_one_that_is_a_fifth_shorter() -> None:
    random = np.random.default_rng(0)
    ordered = tokens(longest_first(units(random.integers(11, 999, 1000).tolist()), Random(0)))

    assert all(later < 1.2 * min(ordered[: i + 1]) for i, later in enumerate(ordered))


def test_drivers_do_not_go_through_units_of_one_length_in_the_same_order() -> None:
    alike = units([99] * 1000)
    one, other = (longest_first(alike, Random(seed)) for seed in range(2))

    assert {u.unit_id for u in one} == {u.unit_id for u in other} == {u.unit_id for u in alike}
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 10
