"""The demo: the shipped checkpoint through the whole product, judged against the truth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pytest

from jobs.demo import sensitivity
from jobs.demo.command import job_file, score
from jobs.demo.scenes import KINDS, PROMPTS
from jobs.demo.shards import write_shards
from jobs.preflight import DEMO

pytestmark = pytest.mark.slow
SCENES = 200


def command(folder: Path) -> list[str]:
    """The command of the README, in this environment."""
    program = str(Path(sys.executable).with_name("captionmill"))
    return [program, "demo", "--output", str(folder), "--scenes", str(SCENES)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stderr
    print(done.stderr)
    return folder, done.stderr


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_captions_of_scenes_never_trained_on_are_right(
    demo: tuple[Path, str], kind: str, prompt: str
) -> None:
    truth = json.loads((demo[0] / "truth.json").read_text(encoding="utf-8"))

    right, asked = score(str(demo[0] / "captions"), truth)

    assert asked[kind, prompt] >= SCENES
    assert right[kind, prompt] / asked[kind, prompt] >= 0.95


def test_the_output_says_where_the_captions_lie(demo: tuple[Path, str]) -> None:
    line = next(line for line in demo[1].splitlines() if line.startswith("captions  "))

    assert list(Path(line.removeprefix("captions").strip()).glob("part-*.parquet"))


def test_duckdb_reads_the_captions_in_one_line(demo: tuple[Path, str]) -> None:
    query = f"SELECT count(*) FROM '{demo[0]}/captions/captions/**/*.parquet'"

    assert duckdb.execute(query).fetchone() == ((3 * SCENES + SCENES // 2) * len(PROMPTS),)


def test_a_second_demo_has_nothing_to_do(demo: tuple[Path, str]) -> None:
    again = subprocess.run(command(demo[0]), capture_output=True, text=True, check=True)

    assert "Nothing to do" in again.stderr


def test_the_checkpoint_is_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in DEMO.iterdir()) <= 8_000_000


@pytest.fixture(scope="module")
def mistakes() -> Mapping[str, tuple[float, float]]:
    """Accuracy without and with each mistake."""
    measured = sensitivity.measure()
    print(*(f"{name}: {before:.1%} -> {after:.1%}" for name, (before, after) in measured.items()), sep="\n")
    return measured


@pytest.mark.parametrize(
    "mistake",
    [
        "tiles in reverse order",
        "base crop last",
        "positions counted through the pass",
        "EXIF orientation ignored",
        "images in reverse order",
        "frames in reverse order",
    ],
)
def test_a_mistake_shows_as_wrong_words(mistakes: Mapping[str, tuple[float, float]], mistake: str) -> None:
    without, with_it = mistakes[mistake]

    assert without >= 0.95
    assert with_it <= 0.7


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path: Path) -> None:
    program, job = command(tmp_path)[0], tmp_path / "demo.toml"
    write_shards(tmp_path, 8)
    job.write_text(job_file(tmp_path), encoding="utf-8")
    slowly = [program, "run", str(job), "--set", "unit.max_assets=1"]
    with subprocess.Popen(slowly, stderr=subprocess.PIPE, text=True, start_new_session=True) as begun:
        assert begun.stderr is not None
        next(line for line in begun.stderr if " assets " in line)
        os.killpg(begun.pid, signal.SIGINT)  # as a terminal does it: to every process of the group
        said = begun.stderr.read()

    assert begun.returncode == 130
    assert f"go on with: captionmill run {job} --set unit.max_assets=1" in said
    assert subprocess.run(slowly, check=False, capture_output=True).returncode == 0
