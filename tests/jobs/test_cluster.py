"""jobs.cluster: whether a run can start on a cluster, on this machine's Ray, which has four cores and no GPU."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jobs import cluster
from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError

pytestmark = pytest.mark.usefixtures("ray_local")


def said(wanted: ClusterConfig) -> str:
    """What the check says of it."""
    sink = io.StringIO()
    cluster.check(wanted, Console(file=sink, width=200))
    return sink.getvalue()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that was started for this run."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("wanted", "needs"),
    [
        (ClusterConfig(), "a node with 1 GPU"),
        (ClusterConfig(replicas=4, gpus_per_replica=0.25), "a node with 0.25 GPU"),
        (ClusterConfig(gpus_per_replica=0, replica_labels=("gpu=a100",)), "CPU, gpu=a100"),
    ],
)
def test_a_replica_that_no_node_can_hold_ends_a_run_whose_cluster_does_not_grow(
    wanted: ClusterConfig, needs: str
) -> None:
    with pytest.raises(ConfigError, match="a replica needs a node with") as raised:
        said(wanted)

    assert needs in raised.value.problems[0]


def test_on_a_cluster_that_may_grow_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")

    assert said(ClusterConfig()) == "There is room for 0 of 1 replicas now; others start when nodes join\n"
    with pytest.raises(ConfigError, match="a replica needs a node"):
        said(ClusterConfig(wait_s=0.0))


def test_replicas_on_cpu_for_which_there_is_room_are_nothing_to_speak_of() -> None:
    assert said(ClusterConfig(replicas=3, gpus_per_replica=0)) == ""
