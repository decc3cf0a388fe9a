"""pipeline.placement: labels, and how many actors a node holds."""

from __future__ import annotations

import pytest

from pipeline.placement import (
    MIB,
    READER_BYTES,
    Claim,
    Node,
    allows,
    mistakes,
    reader_memory,
    selector,
    too_large,
)

BIG = Node(96, 8, 512 << 30, 150 << 30, {"market": "spot", "zone": "b"})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], True),
        (["market=spot"], True),
        (["market=!spot"], False),
        (["market=in(on-demand,spot)", "zone=b"], True),
        (["market=spot", "zone=in(a, c)"], False),
        (["zone=!in(a,b)"], False),
        (["gpu=a100"], False),
        (["gpu=!a100"], True),  # as Ray has it: a node without the label is not one with this value
    ],
)
def test_a_selector_means_the_nodes_that_ray_means(labels: list[str], expected: bool) -> None:
    assert allows(selector(labels), BIG.labels) is expected


@pytest.mark.parametrize(
    "label", ["spot", "=spot", "a=", "a=b c", "a=!!b", "a=in()", "a=in(b", "a=b,c=d", "a=é"]
)
def test_labels_that_ray_would_not_take_are_named(label: str) -> None:
    (problem,) = mistakes("[cluster] reader_labels", [label])

    assert problem.startswith("[cluster] reader_labels must be like")
    assert repr(label) in problem


def test_a_key_that_is_given_twice_is_a_mistake() -> None:
    (problem,) = mistakes("[cluster] reader_labels", ["a=b", "a=c"])

    assert "names a key twice" in problem


@pytest.mark.parametrize(
    ("claim", "count"),
    [
        (Claim(cpus=1), 96),
        (Claim(cpus=0, gpus=1), 8),
        (Claim(cpus=0, gpus=2), 4),
        (Claim(cpus=0, gpus=3), 2),
        (Claim(cpus=0, gpus=16), 0),
        (Claim(cpus=0, gpus=0.25), 32),
        (Claim(cpus=0, gpus=0.6), 8),  # two would share a third's GPU
        (Claim(cpus=1, memory=100 << 30), 5),
        (Claim(cpus=0, gpus=1, labels={"market": "on-demand"}), 0),
    ],
)
def test_a_node_holds_as_many_as_each_of_its_resources_does(claim: Claim, count: int) -> None:
    assert claim.fits(BIG) == count


def test_units_that_the_object_store_beside_a_replica_cannot_hold_are_refused_with_what_it_can() -> None:
    small = Node(4, 1, 16 << 30, 600 * MIB)
    (problem,) = too_large([small, Node(4, 0, 16 << 30, 10 << 30)], Claim(0, gpus=1), Claim(1), 256 * MIB)

    assert "256.0 MiB of pixels" in problem
    assert f"at most {200 * MIB}" in problem
    assert f"--object-store-memory={768 * MIB}" in problem
    assert [*too_large([small], Claim(0, gpus=1), Claim(1), 200 * MIB)] == []


def test_units_that_no_preprocessor_has_memory_for_are_refused_with_what_it_has() -> None:
    node = Node(4, 1, READER_BYTES + 100 * MIB, 10 << 30)
    (problem,) = too_large([node], Claim(0, gpus=1), Claim(1, memory=reader_memory(256 * MIB)), 256 * MIB)

    assert f"at most {50 * MIB}" in problem
    assert [*too_large([node], Claim(0), Claim(1, memory=reader_memory(50 * MIB)), 50 * MIB)] == []


def test_units_are_not_measured_by_nodes_that_have_yet_to_come() -> None:
    assert [*too_large([Node(4, 0, 1, 1)], Claim(0, gpus=1), Claim(8, memory=9), 256 * MIB)] == []
