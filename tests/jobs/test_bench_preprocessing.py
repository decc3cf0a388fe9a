"""The benchmarks' two sides do the same work."""

from __future__ import annotations

import pytest

from jobs.bench import preprocessing


@pytest.mark.parametrize(("width", "height"), [(384, 384), (640, 480), (500, 700)])
def test_crops_here_are_those_of_transformers(width: int, height: int) -> None:
    data = preprocessing.photograph(width, height)
    assert preprocessing.same(preprocessing.ours(data), preprocessing.Peer()(data))


def test_a_crop_that_differs_by_one_is_told() -> None:
    data = preprocessing.photograph(100, 100)
    crops, pixels = preprocessing.ours(data), preprocessing.Peer()(data)
    crops[0, 0, 0, 0] ^= 1
    assert not preprocessing.same(crops, pixels)
