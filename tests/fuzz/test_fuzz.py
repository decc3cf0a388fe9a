"""The fuzzer in short: enough to notice a fault that is easy to find. In long, it is `python -m tests.fuzz`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.types import Code
from tests.fuzz.__main__ import POOLS, fuzz, made
from tests.fuzz.bench import Bench

pytestmark = pytest.mark.slow

COUNTS = {"image": 700, "clip": 400, "tar": 150, "parquet": 250}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("shards")) as ready:
        yield ready


@pytest.mark.parametrize("kind", COUNTS)
def test_no_promise_breaks_on_mutated_files(bench: Bench, kind: str, tmp_path: Path) -> None:
    tally = fuzz(bench, kind, 0, range(COUNTS[kind]), tmp_path)

    assert tally.broken == []
    assert list(tmp_path.iterdir()) == []  # no input that a decoder did not survive
    assert tally.outcomes.total() >= COUNTS[kind]


@pytest.mark.parametrize("kind", COUNTS)
def test_files_that_nobody_mutated_are_good(bench: Bench, kind: str) -> None:
    act = {"image": bench.image, "clip": bench.clip, "tar": bench.tar, "parquet": bench.table}[kind]
    bad = {Code.EMPTY} if kind in ("tar", "parquet") else set()

    assert [found for data in POOLS[kind]() if not set(found := act(data)) <= {"pixels", *bad}] == []


@pytest.mark.parametrize("kind", COUNTS)
def test_an_input_is_the_same_for_the_same_seed(kind: str) -> None:
    first = [made(kind, 5, number) for number in range(50)]

    assert first == [made(kind, 5, number) for number in range(50)]
    assert len(set(first)) > 40
    assert first != [made(kind, 6, number) for number in range(50)]
