"""The pipeline's expression on a real Ray, with steps that do nothing."""

from __future__ import annotations

import os
from collections import Counter
from threading import Barrier

import pyarrow as pa
import pytest

from pipeline import flow
from pipeline.config import ClusterConfig
from pipeline.errors import RunError
from pipeline.placement import Claim, Node

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


def nodes(count: int, cpus: float, gpus: float = 0.0) -> list[Node]:
    """So many alike."""
    return [Node(cpus, gpus, 64 << 30, 20 << 30)] * count


@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_a_laptop_without_a_gpu_holds_its_replica_and_a_preprocessor_at_once(cpus: int) -> None:
    size = flow.pools(nodes(1, cpus), ClusterConfig(gpus_per_replica=0))

    assert size.replica.cpus + size.preprocessor.cpus <= cpus
    assert size.preprocessor.cpus > 0


def test_a_replica_on_cpu_fits_on_one_node_however_many_there_are() -> None:
    size = flow.pools(nodes(4, 8), ClusterConfig(gpus_per_replica=0))

    assert size.replica.cpus == 6
    assert size.replica.fits(Node(8, 0, 64 << 30, 20 << 30)) == 1


def test_preprocessors_are_bounded_by_the_replicas_and_not_by_the_cores_of_now() -> None:
    wanted = ClusterConfig(replicas=512)
    few, many = flow.pools(nodes(1, 2, 8), wanted), flow.pools(nodes(64, 192, 8), wanted)

    assert few == many
    assert (few.preprocessors, few.preprocessor.cpus) == (16 * 512, 1.0)
    assert flow.pools(nodes(64, 192, 8), ClusterConfig(replicas=1)).preprocessors == 16
    assert flow.pools(nodes(1, 4, 1), ClusterConfig(preprocessors=8)).preprocessor.cpus == 0.5


def test_only_cores_of_nodes_with_the_labels_are_divided() -> None:
    there = [*nodes(1, 4), Node(64, 0, 64 << 30, 20 << 30, {"for": "replicas"})]
    wanted = ClusterConfig(
        gpus_per_replica=0,
        replica_labels=("for=replicas",),
        reader_labels=("for=!replicas",),
        preprocessors=8,
    )

    size = flow.pools(there, wanted)

    assert (size.replica.cpus, size.preprocessor.cpus) == (48.0, 0.5)


@pytest.mark.usefixtures("ray_local")
def test_a_look_at_the_work_is_taken_again_and_again_and_what_it_raises_ends_the_work() -> None:
    looks = Counter[str]()

    def look() -> None:
        looks["taken"] += 1
        if looks["taken"] == 3:
            raise RunError("enough")

    waiting = Claim(cpus=1000.0)  # of which no node has so many
    same = flow.Actor(Same, {})
    with flow.watched(look), pytest.raises(RunError, match="enough"):
        [
            *flow.caption(
                [pa.table({"unit": [0]})], same, same, same, flow.Pools(1, waiting, 1, waiting)
            ).iter_rows()
        ]
    before = looks["taken"]
    [*flow.publish([pa.table({"unit": [0]})], same).iter_rows()]
    assert (before, looks["taken"]) == (3, 3)  # and no more outside


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
