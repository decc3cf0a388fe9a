"""Three weeks: each run does what is new and nothing else, and the table is right row by row after each.

So are the search indexes that the examples keep in step with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from jobs.preflight import check
from jobs.run import actors, run
from pipeline import record, verify
from pipeline.config import read
from tests import weeks
from tests.double import with_doubles
from tests.jobs.test_keep import EXAMPLES, as_rows
from tests.weekly_table import published

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
Run = Callable[[str, Path], dict[str, Any]]


def captioned(job: str, output: Path) -> dict[str, Any]:
    """A run on the cluster of this process. Returns the snapshot."""
    ready = check(read(job))
    return run(ready, with_doubles(actors(ready), ready), Console(quiet=True))


def killed_first(job: str, output: Path) -> dict[str, Any]:
    """A run whose driver, and with it its cluster, is killed when it has committed a unit; then the same once more."""
    before = set(output.glob("runs/*/units/*.parquet"))
    path = output.parent / "job.toml"
    path.write_text(job)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.double", str(path), "0.5"], cwd=ROOT, env=environment
    )
    while not set(output.glob("runs/*/units/*.parquet")) - before:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(list(output.glob("runs/*/manifest.json"))) == 1
    return captioned(job, output)


def rows(output: Path, snapshot: dict[str, Any], runs: list[str]) -> dict[weeks.Key, weeks.Row]:
    """The published table as `weeks.expected` tells it; `runs` are the ids of the weeks' runs."""
    captions, failures = (
        pa.concat_tables(
            [pq.ParquetFile(output / f["path"]).read() for f in snapshot[name]["files"]]
        ).to_pylist()
        for name in ("captions", "failures")
    )
    names = {row["asset_id"]: (row["shard"], row["key"]) for row in captions}
    found = {}
    for row in captions:
        copy_of = names[row["duplicate_of"]] if row["duplicate_of"] else None
        key = (row["shard"], row["key"], row["prompt_id"])
        found[key] = weeks.Row(row["caption"], copy_of, runs.index(row["run_id"]))
    for row in failures:
        key = (row["shard"], row["key"], row["prompt_id"])
        found[key] = weeks.Row(f"!{row['error_code']}", None, runs.index(row["run_id"]))
    assert len(found) == len(captions) + len(failures)
    return found


def removed(
    output: Path, snapshot: dict[str, Any], names: dict[str, tuple[str, str]]
) -> set[tuple[weeks.Key, str]]:
    """What the run says is gone, by shard, key and prompt, with the reason."""
    told = pq.ParquetFile(output / snapshot["removed"]["path"]).read().to_pylist()
    return {((*names[row["asset_id"]], row["prompt_id"]), row["reason"]) for row in told}


def known(output: Path) -> dict[str, tuple[str, str]]:
    """Shard and key of every asset that any run published."""
    files = [*output.glob("captions/*/*.parquet"), *output.glob("failures/*/*.parquet")]
    tables = [pq.ParquetFile(path).read(["asset_id", "shard", "key"]).to_pylist() for path in files]
    return {row["asset_id"]: (row["shard"], row["key"]) for table in tables for row in table}


@pytest.mark.parametrize("second", [captioned, killed_first])
def test_three_weeks(tmp_path: Path, ray_local: None, second: Run) -> None:
    output, runs = tmp_path / "out", list[str]()
    for number, how in enumerate((captioned, second, captioned)):
        weeks.write(tmp_path, number)
        snapshot = how(weeks.job(tmp_path, output, number), output)
        runs.append(snapshot["run_id"])

        expected = weeks.expected(number)
        assert rows(output, snapshot, runs) == expected
        assert removed(output, snapshot, known(output)) == weeks.removed(number)
        assert snapshot["new_rows"] == sum(row.week == number for row in expected.values())
        for name, example in EXAMPLES.items():
            example.keep(str(output), str(tmp_path / name))
            assert example.rows(str(tmp_path / name)) == as_rows(published(str(output)))
        read_back, findings = record.load(str(output))
        assert [*findings, *(f for step in verify.steps(read_back) for f in step.findings)] == []


def test_failures_are_tried_again_alone(tmp_path: Path, ray_local: None) -> None:
    weeks.write(tmp_path, 0)
    job, output = weeks.job(tmp_path, tmp_path / "out", 0), tmp_path / "out"
    first = captioned(job, output)
    ready = replace(check(read(job)), again=("missing_field",))

    again = run(ready, with_doubles(actors(ready), ready), Console(quiet=True))

    plan = json.loads((output / "runs" / again["run_id"] / "plan.json").read_text())
    assert (plan["planned"], [prompts for _, _, prompts in plan["work"]]) == (1, [["text"]])
    assert (again["previous_run_id"], again["new_rows"]) == (first["run_id"], 1)
    both = [first["run_id"], again["run_id"]]
    expected = weeks.expected(0)
    failed = [key for key, row in expected.items() if row.said == "!missing_field"]
    assert rows(output, again, both) == expected | {key: replace(expected[key], week=1) for key in failed}
