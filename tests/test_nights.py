"""A job every night: the table is that night's after each, whatever overlaps, and several drivers can share a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from pipeline import parquet, publish, record, storage, verify
from tests import made, weeks
from tests.double import caption_with_doubles
from tests.weekly_table import published

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NIGHTS = 10
OVERLAPPED, KILLED = 4, 7  # the driver stands still until the next night is done; it gets SIGKILL
Input = Mapping[str, Mapping[str, weeks.Asset]]


def shards(night: int) -> Input:
    """What is in the input: a new shard each night, in which the night after one asset changes and one leaves."""
    found = {}
    for at in range(night + 1):
        numbers = range(5 * at + 1, 5 * at + 5)
        assets = {str(i): weeks.Asset(i) for i in numbers}
        if at < night:
            first, last = min(numbers), max(numbers)
            assets[str(first)] = weeks.Asset(last + 1)
            del assets[str(last)]
        found[f"{at:02d}.tar"] = assets
    return found


def write(folder: Path, night: int) -> None:
    """The night's input: shards that differ from those of the night before."""
    before = shards(night - 1) if night else {}
    for name, assets in shards(night).items():
        if before.get(name) != assets:
            weeks.write_tar(folder / "new.tmp", assets)
            (folder / "new.tmp").rename(folder / "in" / name)


def expected(night: int) -> dict[tuple[str, str], str]:
    """The captions by shard and key."""
    return {
        (shard, key): weeks.told(asset.picture, "p")
        for shard, assets in shards(night).items()
        for key, asset in assets.items()
    }


def table(output: Path) -> dict[tuple[str, str], str]:
    """The published captions, each once."""
    rows = [(row["shard"], row["key"], row["caption"]) for row in published(str(output))]
    assert len({row[:2] for row in rows}) == len(rows)
    return {(shard, key): caption for shard, key, caption in rows}


def job(folder: Path, output: Path) -> str:
    """The job file, and its folders."""
    (folder / "in").mkdir(exist_ok=True)
    if not (folder / "checkpoint").exists():
        made.checkpoint(folder / "checkpoint")
    prompt = '[[prompt]]\nid = "p"\ntext = "What is it?"\n'
    text = weeks.JOB.format(folder=folder, output=output, prompts=prompt)
    (folder / "job.toml").write_text(text)
    return text


def driver(folder: Path, delay_s: float, *share: str) -> subprocess.Popen[str]:
    """A driver with a Ray of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.double", str(folder / "job.toml"), str(delay_s), *share],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What a driver that ended well has said."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def wait_for_a_unit(output: Path, process: subprocess.Popen[str], before: set[Path]) -> None:
    """Until the driver has committed one."""
    while not set(output.glob("runs/*/units/*.parquet")) - before:
        assert process.poll() is None
        time.sleep(0.02)


def test_ten_nights_of_which_two_overlap_and_one_is_killed(tmp_path: Path, ray_local: None) -> None:
    output = tmp_path / "out"
    text = job(tmp_path, output)
    late: subprocess.Popen[str] | None = None
    for night in range(NIGHTS):
        write(tmp_path, night)
        print(time.time(), night, flush=True)
        if night in (OVERLAPPED, KILLED):
            there = set(output.glob("runs/*/units/*.parquet"))
            late = driver(tmp_path, 1.0)
            wait_for_a_unit(output, late, there)
            late.send_signal(signal.SIGSTOP if night == OVERLAPPED else signal.SIGKILL)
            if night == KILLED:
                late.communicate()
                caption_with_doubles(text, Console(quiet=True))
        else:
            caption_with_doubles(text, Console(quiet=True))
            if night == OVERLAPPED + 1 and late:
                late.send_signal(signal.SIGCONT)
                said = ended(late)
                assert "Another run has published its table meanwhile" in said
                assert "Nothing to do: this job is published" in said

        if night != OVERLAPPED:
            assert table(output) == expected(night)
    read_back, findings = record.load(str(output))
    assert [*findings, *(f for step in verify.steps(read_back) for f in step.findings)] == []


def test_four_drivers_that_split_a_run_publish_the_table_of_one(tmp_path: Path, ray_local: None) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    text = job(tmp_path, whole)
    for night in range(4):
        write(tmp_path, night)
        print(time.time(), night, flush=True)
    single = caption_with_doubles(text, Console(quiet=True))
    job(tmp_path, split)

    drivers = [driver(tmp_path, 0.1, f"{i}/4") for i in (1, 2, 3, 4)]
    said = [ended(process) for process in drivers]

    one, four = rows(whole), rows(split)
    assert four.equals(one)
    told = publish.snapshot(str(split))
    assert told is not None
    assert told["run_id"] == single["run_id"]
    assert 1 <= sum("snapshot  " in words for words in said) <= 4
    assert all("This share is done" in words or "snapshot  " in words for words in said)


def rows(output: Path) -> pa.Table:
    """The published captions, but for the time at which they were made."""
    told = publish.snapshot(str(output))
    assert told is not None
    files = [storage.read(storage.join(str(output), file["path"])) for file in told["captions"]["files"]]
    return pa.concat_tables(parquet.read(data) for data in files).drop_columns(["created_at"])
