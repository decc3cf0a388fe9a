"""The short form of `python -m tests.faults.machines`: one job with kills of several kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.machines import harness
from tests.faults.run import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a minute and a half on two quiet cores


def test_whatever_is_killed_the_published_table_is_an_undisturbed_runs(tmp_path: Path) -> None:
    total = harness(seed=1, modes={0: "two drivers"}, kills=8, root=tmp_path)

    assert (total.lost, total.doubled, total.wrong, total.bad) == (0, 0, 0, 0)
    # A kill whose moment passes without a victim, a write task above all, is dropped.
    assert sum(total.kills[kind] > 0 for kind in KINDS) >= 4
