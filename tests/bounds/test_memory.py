"""What actors hold does not grow with what they have done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline import messages
from pipeline.types import Cost, Media, Prepared, Sample, Size, Unit, View
from tests import made
from tests.bounds import memory

MIB = 1 << 20


def test_a_message_lets_go_of_its_pixels() -> None:
    unit, of = Unit("unit", made.shard(), 0, 1, Cost(0, 8, 0)), made.asset(0, 0)
    view = View(0, Media.IMAGE, of.sha256, (Size(1, 1),), (1, 7), 8, ())
    crops = np.ones((8, 592, 592, 3), np.uint8)  # 8 MiB
    before = psutil.Process().memory_info().rss

    for _ in range(30):
        table = messages.prepared_to_table(
            Prepared(unit, (of,), (Sample(view, crops),), (), made.PREPARATION)
        )
        assert messages.table_to_prepared(table).samples[0].crops.nbytes == crops.nbytes

    assert psutil.Process().memory_info().rss - before < 80 * MIB


@pytest.mark.slow
def test_the_actors_that_read_media_do_not_grow(tmp_path: Path) -> None:
    memory.write_shards(tmp_path, 1_000, 100)

    grown = {
        role: memory.figures(memory.apart(role, tmp_path, 0)["actor"])[0].growth
        for role in ("indexer", "preprocessor")
    }

    assert all(growth <= memory.GROWTH for growth in grown.values()), grown
