"""The short form of `python -m tests.faults.machines`: one job with kills of every kind, and both with two drivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.machines import harness
from tests.faults.run import KINDS

pytestmark = pytest.mark.slow


def test_whatever_is_killed_the_published_table_is_an_undisturbed_runs(tmp_path: Path) -> None:
    total = harness(seed=1, modes=("all kinds", "two drivers", "sleeper"), kills=8, root=tmp_path)

    assert (total.lost, total.doubled, total.wrong, total.bad) == (0, 0, 0, 0)
    assert {kind for kind in KINDS if total.kills[kind]} == set(KINDS)
