"""The demo: the shipped checkpoint through the whole product, judged against the truth."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
ROOT = Path(__file__).parents[2]


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


def test_it_ends_with_a_report_that_has_pictures(demo: tuple[Path, str]) -> None:
    line = next(line for line in demo[1].splitlines() if line.startswith("report "))
    text = Path(line.removeprefix("report").strip()).read_text(encoding="utf-8")

    assert text.count('class="card ') == 200
    assert text.count("<img ") >= 200


def test_the_output_says_where_the_captions_lie(demo: tuple[Path, str]) -> None:
    line = next(line for line in demo[1].splitlines() if line.startswith("captions  "))

    assert list(Path(line.removeprefix("captions").strip()).glob("part-*.parquet"))


def test_duckdb_reads_the_captions_in_one_line(demo: tuple[Path, str]) -> None:
    query = f"SELECT count(*) FROM '{demo[0]}/captions/captions/**/*.parquet'"

    assert duckdb.execute(query).fetchone() == ((3 * SCENES + SCENES // 2) * len(PROMPTS),)


def test_a_second_demo_has_nothing_to_do(demo: tuple[Path, str]) -> None:
    again = subprocess.run(command(demo[0]), capture_output=True, text=True, check=True)

    assert "Nothing to do" in again.stderr


def readme(name: str) -> list[list[str]]:
    """The README's commands of this name, as words."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.partition("#")[0] for line in text.splitlines() if line.startswith(f"captionmill {name} ")]
    return [shlex.split(line) for line in lines]


def said(demo: Path, words: Sequence[str]) -> str:
    """What a command of the README prints about the demo; Ray must not have been imported for it."""
    places = {
        "job.toml": str(demo / "demo.toml"),
        "s3://bucket/captions/holiday-photos": str(demo / "captions"),
    }
    code = (
        "import sys; from jobs.cli import main; main(standalone_mode=False); assert 'ray' not in sys.modules"
    )
    arguments = [places.get(word, word) for word in words[1:]]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["plan", "status"])
def test_the_readmes_commands_answer_from_the_output_alone(demo: tuple[Path, str], name: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo[0].rglob("*")}

    assert readme(name)
    for words in readme(name):
        assert "demo" in said(demo[0], words)
    assert {path: path.stat().st_mtime_ns for path in demo[0].rglob("*")} == before


def test_the_plan_is_what_was_published(demo: tuple[Path, str]) -> None:
    told = json.loads(said(demo[0], ["captionmill", "plan", "job.toml", "--json"]))
    table = f"'{demo[0]}/captions/captions/**/*.parquet'"
    each = f"SELECT DISTINCT ON (asset_id) media, n_crops, n_visual_tokens, unit_id FROM {table}"
    totals = "count(*), sum(n_crops), sum(n_visual_tokens), count(DISTINCT unit_id)"

    planned = tuple(told[name] for name in ("assets", "crops", "visual_tokens", "units"))
    assert duckdb.execute(f"SELECT {totals} FROM ({each})").fetchone() == planned
    kinds = duckdb.execute(f"SELECT media, count(*) FROM ({each}) GROUP BY media").fetchall()
    assert dict(kinds) == told["by_kind"]
    rows = duckdb.execute(f"SELECT count(*), sum(n_visual_tokens) FROM {table}").fetchone()
    assert rows == (told["captions"], told["prompt_tokens"]["visual"])
    assert (told["done"]["units"], told["left"]["units"]) == (told["units"], 0)


def test_each_units_time_is_kept(demo: tuple[Path, str]) -> None:
    units = f"'{demo[0]}/captions/runs/*/units.parquet'"
    captions = f"'{demo[0]}/captions/captions/**/*.parquet'"
    same = f"""
        SELECT bool_and(u.captions = c.n AND u.output_tokens = c.tokens AND u.prompt_tokens = c.prompt) FROM {units} u
        JOIN (SELECT unit_id, count(*) n, sum(n_output_tokens) tokens, sum(n_prompt_tokens) prompt
              FROM {captions} GROUP BY unit_id) c USING (unit_id)"""
    sound = f"""
        SELECT bool_and(busy_s > 0 AND busy_s <= caption_s AND prepare_s > 0 AND ended_at > begun_at
                        AND prefill_tokens < prompt_tokens
                        AND abs(slot_steps - slots_idle - (output_tokens - captions)) < 0.01)
        FROM {units}"""

    assert duckdb.execute(same).fetchone() == (True,)
    assert duckdb.execute(sound).fetchone() == (True,)


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
    status = [program, "status", str(tmp_path / "captions"), "--json"]
    (run,) = json.loads(subprocess.run(status, capture_output=True, check=True).stdout)["runs"]
    assert 0 <= run["units"]["done"] < run["units"]["planned"] == 28
    assert f"go on with: captionmill run {job} --set unit.max_assets=1" in said
    quietly = subprocess.run([*slowly, "--quiet"], check=False, capture_output=True, text=True)
    assert quietly.returncode == 0
    assert quietly.stderr.startswith("84 captions of 28 assets")
