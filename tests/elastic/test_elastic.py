"""Nodes that come and go during a run, on real raylets with GPUs that are labels."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.elastic.conftest import UNITS, Write
from tests.elastic.nodes import SPOT, Drive, Nodes, driving
from tests.faults.compare import compare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SOON_S = 60.0  # in which a node that joins is used


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """No node yet."""
    with Nodes() as found:
        yield found


def again(drive: Drive) -> int:
    """How many units were captioned more than once, counting each time."""
    begun = Counter(line.who for line in drive.lines("caption"))
    return begun.total() - len(begun)


def test_readers_stay_off_spot_nodes_and_four_replicas_share_a_gpu_there(
    nodes: Nodes, write: Write, undisturbed: Path, tmp_path: Path
) -> None:
    nodes.start("head", cpus=2)
    nodes.start("spot", cpus=2, gpus=1, labels=SPOT)
    job = write(
        "replicas = 4",
        "gpus_per_replica = 0.25",
        'replica_labels = ["ray.io/market-type=spot"]',
        'reader_labels = ["ray.io/market-type=!spot"]',
    )

    with driving(nodes, job) as drive:
        assert drive.ends() == 0, drive.said()

    where = {(line.who.partition("(")[2] or line.who, line.node) for line in drive.lines("actor")}
    print(sorted(where))
    captioners = [line for line in drive.lines("actor") if "Captioner" in line.who]
    assert [line.node for line in captioners] == ["spot"] * 4
    others = {
        line.node for line in drive.lines("actor") if "MapWorker" in line.who and line not in captioners
    }
    assert others == {"head"}
    assert {line.node for line in drive.lines("prepare")} == {"head"}
    assert {line.node for line in drive.lines("caption")} == {"spot"}
    assert compare(undisturbed, tmp_path / "out").good


def test_nodes_that_join_are_used_within_a_minute_by_replicas_and_by_preprocessors(
    nodes: Nodes, write: Write, undisturbed: Path, tmp_path: Path
) -> None:
    nodes.start("head", cpus=1)
    nodes.start("old", cpus=0, gpus=1)
    job = write("replicas = 3", "gpus_per_replica = 1")

    with driving(nodes, job, "prepare_s=2", "caption_s=0") as drive:
        drive.wait_for("caption", count=2)
        began = time.time()
        nodes.start("new", cpus=2, gpus=2)
        captioned, prepared = drive.wait_for("caption", "new"), drive.wait_for("prepare", "new")
        assert drive.ends() == 0, drive.said()

    seconds = captioned.at - began, prepared.at - began
    print("from `ray start` to the first unit: replica {:.1f} s, preprocessor {:.1f} s".format(*seconds))
    assert max(seconds) < SOON_S
    assert "There is room for 1 of 3 replicas now; others start when nodes join" in drive.said()
    assert compare(undisturbed, tmp_path / "out").good


def test_a_drained_node_is_given_no_more_units_and_costs_no_rows(
    nodes: Nodes, write: Write, undisturbed: Path, tmp_path: Path
) -> None:
    nodes.start("head", cpus=2)
    for name in ("stays", "goes"):
        nodes.start(name, cpus=1, gpus=1)
    job = write("replicas = 2", "gpus_per_replica = 1")

    with driving(nodes, job, "caption_s=0.2") as drive:
        drive.wait_for("caption", "goes", count=3)
        nodes.drain(drive.lines("node", "goes")[0].who, seconds=10)
        drained = time.time()
        time.sleep(8)  # three units at once of 8 assets at 0.2 s: what it had in hand is done by then
        nodes.stop("goes")
        assert drive.ends() == 0, drive.said()

    late = [line for line in drive.lines("caption", "goes") if line.at > drained + 4]
    print(
        f"{again(drive)} of {UNITS} units were captioned again; after the notice {len(late)} were begun there"
    )
    assert (again(drive), late) == (0, [])
    assert compare(undisturbed, tmp_path / "out").good


def test_where_all_gpus_go_the_run_waits_says_so_ends_and_goes_on(
    nodes: Nodes, write: Write, undisturbed: Path, tmp_path: Path
) -> None:
    nodes.start("head", cpus=2)
    nodes.start("first", cpus=0, gpus=1)
    job = write("replicas = 1", "gpus_per_replica = 1", "wait_s = 25")

    with driving(nodes, job) as drive:
        drive.wait_for("caption", "first", count=4)
        nodes.kill("first")
        drive.hears(
            "Waiting: no node of the cluster can hold a replica (1 GPU); the run ends if none joins within 25 s"
        )
        nodes.start("second", cpus=0, gpus=1)
        drive.hears("A node for a replica has joined; the run goes on")
        drive.wait_for("caption", "second", count=2)
        nodes.kill("second")
        assert drive.ends() == 1, drive.said()
    assert "✗ for 25 s no node of the cluster can hold a replica (1 GPU)" in drive.said()
    assert "start the same command again" in drive.said()

    begun = drive.lines("caption")
    nodes.start("third", cpus=0, gpus=1)
    with driving(nodes, job, "caption_s=0") as drive:
        assert drive.ends() == 0, drive.said()
    print(
        f"{len(begun)} units begun on two nodes that died, {len(drive.lines('caption'))} by the same command after"
    )
    assert compare(undisturbed, tmp_path / "out").good
