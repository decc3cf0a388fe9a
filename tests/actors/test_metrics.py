"""actors.metrics: counting does no harm and changes nothing. What is counted, tests/infra/test_metrics.py sees."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa
import pytest

from actors.meter import Meter
from actors.metrics import Spent, metered
from pipeline.errors import StorageError

TABLE = pa.table({"a": [1]})


@dataclass
class Doubling:
    """An actor."""

    fails: bool = False

    @metered("doubling")
    def __call__(self, table: pa.Table) -> pa.Table:
        """Twice."""
        if self.fails:
            raise StorageError("gone")
        return pa.concat_tables([table, table])


def test_a_metered_actor_does_what_it_did_without_ray() -> None:
    assert Doubling()(TABLE).num_rows == 2
    assert Doubling.__call__.__doc__ == "Twice."


def test_what_an_actor_raises_comes_through() -> None:
    with pytest.raises(StorageError, match="gone"):
        Doubling(fails=True)(TABLE)


def test_a_caption_costs_less_than_a_tenth_of_a_millisecond_to_count() -> None:
    meter = Meter()
    spent, begun = Spent(meter), time.process_time()
    for _ in range(1000):
        meter.busy_s += 0.1
        meter.prefill_tokens += 700
        meter.slot_steps += 32
        meter.slots_idle += 1
        spent.publish()

    assert time.process_time() - begun < 0.1
