"""Giants cost their own row at most, and little memory: each in a process of its own, whose peak is its."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.giants import GIANTS, TABLES

pytestmark = pytest.mark.slow

PARENT_MIB = 256  # more than after its imports: the bytes of a member, a few times
CHILD_MIB = 512  # 130 of them are libraries
OUTCOMES = {
    "member_of_2_gb": "too_large",
    "png_of_40000_x_40000": "too_large",
    "jpeg_of_40000_x_40000": "too_large",
}


def handled(path: Path) -> dict[str, Any]:
    """What `tests.corpus.giants` says of a shard."""
    command = [sys.executable, "-m", "tests.corpus.giants", str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", GIANTS)
def test_a_giant_costs_its_row_and_little_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "giant.tar"
    GIANTS[name](path)
    found = handled(path)

    print(f"{name}: {found['parent_mib']} MiB more in the actor, {found['child_mib']} MiB in the decoder")
    assert found["outcomes"] == {"good1": "", "giant": OUTCOMES.get(name, ""), "good2": ""}
    assert found["parent_mib"] < PARENT_MIB
    assert found["child_mib"] < CHILD_MIB
    assert name != "clip_of_10_hours" or found["crops"]["giant"] == 16
    assert found["text"]["good2"] == {"subtitle": "none"}


@pytest.mark.parametrize("name", TABLES)
def test_a_page_that_unpacks_to_half_a_gigabyte_costs_its_row_group_and_no_memory(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "giant.parquet"
    TABLES[name](path)
    found = handled(path)

    print(f"{name}: {path.stat().st_size} bytes, {found['parent_mib']} MiB more in the actor")
    assert path.stat().st_size < 1 << 20
    assert found["outcomes"] == {"good1": "", "giant": "too_large", "good2": ""}
    assert found["parent_mib"] < PARENT_MIB
