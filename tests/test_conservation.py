"""Conservation at size: 20,000 assets in 40 shards, captioned once and exactly, also when the driver is killed."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.publish import snapshot
from tests import made
from tests.double import said

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SHARDS, EACH = 40, 500
BAD = {7: "empty_input", 250: "truncated", 333: "unidentified"}  # by place, in every sixth shard
JOB = """
[input]
dataset = "colours"
uris = ["{folder}/*.tar"]
[model]
path = "{folder}/checkpoint"
[[prompt]]
id = "short"
text = "What is it?"
[[prompt]]
id = "long"
text = "Describe the image in detail."
[output]
uri = "{output}"
[cluster]
replicas = 2
gpus_per_replica = 0
"""
Identity = tuple[str, str]  # shard and key, which are read from the tar without any code of ours


def encoded(number: int, form: str = "PNG") -> bytes:
    """A small picture of a colour and size of its own."""
    sink = io.BytesIO()
    colour = (number % 256, number // 256, 77)
    Image.new("RGB", (16 + number % 25, 16 + number % 15), colour).save(sink, form)
    return sink.getvalue()


def member(shard: int, place: int) -> tuple[str, bytes]:
    """Name and bytes of one asset."""
    number = shard * EACH + place
    match BAD.get(place) if shard % 6 == 0 else None:
        case "empty_input":
            return f"{place:05d}.jpg", b""
        case "truncated":
            whole = encoded(number, "JPEG")
            return f"{place:05d}.jpg", whole[: len(whole) * 3 // 4]
        case "unidentified":
            return f"{place:05d}.jpg", f"<!DOCTYPE html><title>{number}</title>".encode()
        case _:
            return f"{place:05d}.png", encoded(number)


@dataclass(frozen=True, slots=True)
class Truth:
    """What must come out for each asset."""

    captions: dict[tuple[Identity, str], str]
    failures: dict[Identity, str]


@pytest.fixture(scope="module")
def expected(folder: Path) -> Truth:
    """The truth, read from the tars with Python's tarfile, hashlib and PIL."""
    captions, failures = {}, {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                key = entry.name.partition(".")[0]
                file = tar.extractfile(entry)
                assert file is not None
                data = file.read()
                if entry.name.endswith(".jpg"):
                    failures[path.name, key] = BAD[int(key)]
                    continue
                colour = Image.open(io.BytesIO(data)).getpixel((8, 8))
                assert isinstance(colour, tuple)
                for prompt in ("short", "long"):
                    said_of_it = said(hashlib.sha256(data).hexdigest(), prompt, [int(c) for c in colour])
                    captions[(path.name, key), prompt] = said_of_it
    return Truth(captions, failures)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The input: shards and a checkpoint."""
    folder = tmp_path_factory.mktemp("input")
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for place in range(EACH):
                name, data = member(shard, place)
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    made.checkpoint(folder / "checkpoint")
    return folder


def start(folder: Path, output: Path) -> subprocess.Popen[str]:
    """The driver, as a process of its own with a Ray of its own."""
    job = output.parent / "job.toml"
    job.write_text(JOB.format(folder=folder, output=output))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
        "RAY_USAGE_STATS_ENABLED": "0"
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.double", str(job)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(driver: subprocess.Popen[str]) -> str:
    """What the driver said until it ended well."""
    _, said_by_it = driver.communicate()
    assert driver.returncode == 0, said_by_it
    return said_by_it


def published(output: Path, table: str) -> pa.Table:
    """The rows of a table, by the snapshot."""
    told = snapshot(str(output))
    assert told is not None
    return pa.concat_tables([pq.ParquetFile(output / f["path"]).read() for f in told[table]["files"]])


def identities(table: pa.Table) -> list[Identity]:
    """Shard and key of each row."""
    return list(zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True))


@dataclass(frozen=True, slots=True)
class Published:
    """The published table of a run."""

    captions: pa.Table
    failures: pa.Table


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The published table of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    finish(start(folder, output))
    return Published(published(output, "captions"), published(output, "failures"))


@dataclass(frozen=True, slots=True)
class Killed:
    """A run whose driver was killed half way and started again: its parts when it died, what the second said."""

    parts: dict[str, pa.Table]
    units: int
    said: str
    again: Published


@pytest.fixture(scope="module")
def killed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Kill the driver with SIGKILL when half of the parts are there, and start the same command again."""
    output = tmp_path_factory.mktemp("killed") / "out"
    driver = start(folder, output)
    units = SHARDS * -(-EACH // 256)
    while len(list(output.glob("runs/*/units/*.parquet"))) < units // 2:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    parts = {p.stem: pq.read_table(p) for p in output.glob("runs/*/units/*.parquet")}
    said_by_second = finish(start(folder, output))
    return Killed(
        parts, units, said_by_second, Published(published(output, "captions"), published(output, "failures"))
    )


@pytest.fixture(params=["undisturbed", "killed"])
def table(request: pytest.FixtureRequest) -> Published:
    """The published table, of either run."""
    run = request.getfixturevalue(request.param)
    return run.again if isinstance(run, Killed) else run


def unequal(found: Iterable[Any], wanted: Iterable[Any]) -> list[Any]:
    """What is in one more often than in the other; at most ten of them, for pytest would print 40,000."""
    one, other = Counter(found), Counter(wanted)
    return [*(one - other), *(other - one)][:10]


def test_every_asset_is_captioned_under_every_prompt_or_failed_and_none_is_twice(
    expected: Truth, table: Published
) -> None:
    rows = zip(identities(table.captions), table.captions["prompt_id"].to_pylist(), strict=True)

    assert unequal(rows, expected.captions.keys()) == []
    assert unequal(identities(table.failures), expected.failures.keys()) == []
    assert len(expected.captions) // 2 + len(expected.failures) == SHARDS * EACH == 20_000


def test_every_answer_is_on_its_own_asset(expected: Truth, table: Published) -> None:
    asked = zip(identities(table.captions), table.captions["prompt_id"].to_pylist(), strict=True)
    answers = zip(asked, table.captions["caption"].to_pylist(), strict=True)

    assert unequal(answers, expected.captions.items()) == []


def test_every_failure_has_its_own_code(expected: Truth, table: Published) -> None:
    codes = zip(identities(table.failures), table.failures["error_code"].to_pylist(), strict=True)

    assert dict(codes) == expected.failures


def test_a_killed_run_ends_in_the_table_of_an_undisturbed_one(undisturbed: Published, killed: Killed) -> None:
    for one, other in (
        (undisturbed.captions, killed.again.captions),
        (undisturbed.failures, killed.again.failures),
    ):
        assert one.drop_columns("created_at").equals(other.drop_columns("created_at"))


def test_no_unit_that_was_finished_when_the_driver_died_is_done_again(killed: Killed) -> None:
    done_again = [
        unit for unit, part in killed.parts.items() if _times(part) != _published_times(killed.again, unit)
    ]

    print(f"done again: {len(done_again)} of {len(killed.parts)} finished units; {killed.units} units in all")
    assert killed.units // 2 <= len(killed.parts) < killed.units
    assert done_again == []


def test_the_second_driver_says_how_much_is_there_already(killed: Killed) -> None:
    assert f"of {killed.units} units are there already" in killed.said


def _times(part: pa.Table) -> set[Any]:
    return set(part["created_at"].to_pylist())


def _published_times(table: Published, unit: str) -> set[Any]:
    return {
        time
        for rows in (table.captions, table.failures)
        for time in rows.filter(pc.equal(rows["unit_id"], unit))["created_at"].to_pylist()
    }
