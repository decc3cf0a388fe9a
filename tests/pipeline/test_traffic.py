"""pipeline.traffic: what storage counts while it works."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import pytest

from pipeline import storage, traffic
from pipeline.retry import call


def had(before: traffic.Traffic) -> tuple[int, ...]:
    """Bytes read and written, and retries, since then."""
    pairs = zip(astuple(traffic.so_far()), astuple(before), strict=True)
    return tuple(now - then for now, then in pairs)


def test_bytes_that_are_written_and_read_are_counted(tmp_path: Path) -> None:
    uri, before = str(tmp_path / "object"), traffic.so_far()

    storage.put(uri, b"x" * 100)
    storage.put_new(uri, b"y" * 7)  # is there: nothing is written
    storage.read(uri)
    storage.read_range(uri, 10, 30)

    assert had(before) == (120, 100, 0)


@pytest.mark.parametrize("failures", [0, 2])
def test_requests_that_are_sent_again_are_counted(failures: int) -> None:
    before, left = traffic.so_far(), [ConnectionResetError()] * failures

    def action() -> None:
        if left:
            raise left.pop()

    call("read", "s3://b/k", action)

    assert had(before) == (0, 0, failures)
