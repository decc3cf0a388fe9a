"""The pipeline's expression on a real Ray, with steps that do nothing."""

from __future__ import annotations

import os
from threading import Barrier

import pyarrow as pa
import pytest

from pipeline import flow
from pipeline.placement import Claim

UNITS = 6


class Same:
    """An actor that returns what it is given."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table."""
        return table


class Environment:
    """An actor that says what its process has in its environment, of what a replica's has."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The variables."""
        return pa.table({name: [os.environ.get(name)] for name in flow.KEEP_MEMORY})


class InPairs:
    """An actor that returns what it is given when two have been given to it."""

    def __init__(self) -> None:
        self._pair = Barrier(2)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table. BrokenBarrierError where it is alone for a minute."""
        self._pair.wait(60)
        return table


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.timeout(180)
def test_a_replica_has_two_units_at_once() -> None:
    size = flow.Pools(1, Claim(cpus=0.5), preprocessors=1, preprocessor=Claim(cpus=0.5))
    units = [pa.table({"unit": [number]}) for number in range(UNITS)]

    same = flow.Actor(Same, {})
    done = flow.caption(units, same, flow.Actor(InPairs, {}), same, size)

    assert sorted(row["unit"] for row in done.iter_rows()) == list(range(UNITS))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.timeout(180)
def test_the_process_of_a_replica_on_cpu_keeps_its_memory() -> None:
    size = flow.Pools(1, Claim(cpus=0.5), preprocessors=1, preprocessor=Claim(cpus=0.5))

    same = flow.Actor(Same, {})
    (told,) = flow.caption(
        [pa.table({"unit": [0]})], same, flow.Actor(Environment, {}), same, size
    ).iter_rows()

    assert told == flow.KEEP_MEMORY


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.timeout(180)
def test_units_are_committed_on_a_cluster_whose_every_core_an_actor_holds_or_waits_for() -> None:
    # for a cluster that had five cores, and lost one of them
    size = flow.Pools(4, Claim(cpus=1.0), preprocessors=1, preprocessor=Claim(cpus=1.0))
    units = [pa.table({"unit": [number]}) for number in range(UNITS)]

    same = flow.Actor(Same, {})
    done = flow.caption(units, same, same, same, size)

    assert sorted(row["unit"] for row in done.iter_rows()) == list(range(UNITS))
