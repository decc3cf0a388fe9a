"""Each part of `captionmill bench`, on small real work: both sides did the same, and what cannot be done is said."""

from __future__ import annotations

import json
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from actors.sandbox import Sandbox
from jobs.bench import (
    framework,
    generation,
    indexing,
    machine,
    planning,
    preprocessing,
    prompts,
    reading,
    subject,
)
from jobs.bench.apart import apart
from jobs.bench.figure import Found
from jobs.bench.machine import Machine
from jobs.bench.measured import Measured, passes
from jobs.bench.subject import Options
from jobs.bench.work import MOST, natural, work
from jobs.cli import main
from jobs.preflight import check, placed
from pipeline import config, flow
from pipeline.config import MIB, ModelConfig
from pipeline.errors import ConfigError, RunError
from pipeline.footprint import BYTES
from pipeline.roofline import prefill_flops, vision_flops
from tests import checkpoints
from tests.made import JOB

VLLM = "CAPTIONMILL_TEST_VLLM"  # an interpreter with vLLM
MACHINE = Machine("a processor", 2, 2, "cpu", 1 << 34, {}, dict.fromkeys(BYTES, 1e12), *[1e10] * 5)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight checkpoint of 72 px."""
    return checkpoints.write(tmp_path_factory.mktemp("bench") / "tiny")


@pytest.fixture
def options(tiny: Path) -> Options:
    """Few pictures, few tokens, one round."""
    about = subject.of_model(ModelConfig(str(tiny), dtype="float32"))
    return Options(about, MACHINE, pairs=1, assets=40, image_bytes=1_000, pictures=3, new_tokens=4)


@pytest.fixture
def own(options: Options, tiny: Path, tmp_path: Path) -> Options:
    """The same of a job over a tar of four images, one of which is cut off."""
    pictures = [preprocessing.photograph(80 + 20 * i, 90) for i in range(4)]
    reading.write(tmp_path / "a.tar", [pictures[0][:500], *pictures])
    ready = check(config.read(job(tiny, tmp_path), ["model.dtype=float32"]))
    return replace(options, subject=subject.of_job(ready, 0))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's rates come of little work; they are not what is looked at."""
    for name, value in (("TIMES", 1), ("COPIED", 16 * MIB), ("PRODUCTS", ((64, 64, 64),))):
        monkeypatch.setattr(machine, name, value)


def job(tiny: Path, folder: Path) -> str:
    """A job file over the folder's tars."""
    uris = [f"{folder}/*.tar"]
    return JOB.format(dataset="d", uris=uris, checkpoint=tiny, output=folder / "out", replicas=1)


def invoked(*arguments: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(main, ["bench", *arguments], prog_name="captionmill")


def same(found: Found) -> set[object]:
    """How many captions were the same, in each comparison."""
    return {figure.details["same tokens"] for figure in found.figures if figure.versus}


def test_reading_is_compared_with_ray_data(options: Options, ray_local: None) -> None:
    found = reading.measure(options)

    assert [(f.name, f.versus and f.versus.peer) for f in found.figures] == list(reading.COMPARED)


def test_every_pass_makes_an_index_of_its_own(options: Options, tmp_path: Path) -> None:
    shard, count = indexing.write(tmp_path / "a.tar", indexing.ordinary(10))
    with Sandbox(options.subject.image, options.subject.video) as sandbox:
        made = [indexing.index(shard, sandbox, tmp_path) for _ in range(2)]

    assert count == 10
    assert len(set(made)) == 2


def test_sizes_of_pictures_that_all_differ_are_exact(tmp_path: Path) -> None:
    upright, _ = indexing.different(50)

    assert len(set(upright)) == 50
    assert indexing.exact(tmp_path, 50) == 50


@pytest.mark.slow
def test_the_framework_is_measured_beside_pixels_and_start(tmp_path: Path, ray_local: None) -> None:
    (cost,) = framework.costs(tmp_path, [40], times=1)

    assert cost.assets == 40
    assert cost.taken.start_s > cost.taken.total_s > cost.taken.pixels_s > 0
    assert sum(map(cost.kind_us, cost.taken.by_kind)) == pytest.approx(cost.each_us)


def test_units_are_planned_from_an_index(options: Options) -> None:
    (figure,) = planning.measure(options).figures

    assert figure.unit == "assets/s"
    assert figure.ceiling


def test_captions_are_those_of_generate_at_both_kinds_of_length(options: Options) -> None:
    found = generation.measure(options)

    assert same(found) == {"3 of 3"}
    assert [figure.name for figure in found.figures] == [
        "from crops, 4 tokens each",
        "from crops, natural lengths",
        "vision and prefill",
    ]


def test_each_caption_is_as_long_as_asked_for(options: Options) -> None:
    replica, todo = Measured(options.subject, 9), work(options, 3, 2)

    said = replica.captions(todo.requests(replica), [1, 9, 2, 5, 5, 3])

    assert [len(ids) for ids in said] == [1, 9, 2, 5, 5, 3]
    assert replica.clock.seconds > 0


def test_natural_lengths_are_log_normal_and_always_the_same() -> None:
    drawn = natural(2_000)

    assert 105 < statistics.median(drawn) < 115
    assert max(drawn) == MOST
    assert natural(16) == drawn[:16]


def test_several_prompts_are_compared_with_one_and_with_separate_runs(options: Options) -> None:
    first, second = prompts.measure(options).figures

    assert first.versus
    assert first.versus.peer == prompts.APART
    assert first.unit == "x the time of one prompt"
    assert second.unit == "x the time of one prompt, in one call"


def test_what_prompts_share_is_counted_once(options: Options) -> None:
    replica, todo = Measured(options.subject, 9), work(options, 1, 2)
    one, other = todo.requests(replica)
    shape = options.subject.footprint
    alone = vision_flops(shape, len(one.sample.crops)) + prefill_flops(shape, [len(one.input_ids)])

    assert passes(shape, [one]) == alone
    assert alone < passes(shape, [one, other]) < alone + prefill_flops(shape, [len(other.input_ids)])


def test_a_jobs_own_images_are_preprocessed(own: Options) -> None:
    *figures, mean = preprocessing.measure(own).figures

    assert [figure.name for figure in figures] == ["80 x 90", "100 x 90", "120 x 90"]
    assert {figure.details["same crops"] for figure in figures} == {"yes"}
    assert mean.name == "all, geometric mean"


def test_a_jobs_own_images_are_read(own: Options, ray_local: None) -> None:
    assert "a tar of 4 images of the job" in reading.measure(own).work


def test_a_jobs_own_index_is_planned(own: Options) -> None:
    assert "the job's first 5 assets over and over" in planning.measure(own).work


def test_a_jobs_own_images_are_captioned(own: Options) -> None:
    found = generation.measure(own)

    assert same(found) == {"3 of 3"}
    assert "3 pictures (the job's first 80x90 100x90 120x90)" in found.work


def test_a_part_that_has_nothing_to_measure_says_so(own: Options) -> None:
    found = prompts.measure(own)  # the job has one prompt

    assert found.figures == ()
    assert found.notes == ["it takes two prompts about single images, and some of these"]


def test_peers_that_cut_otherwise_than_the_job_are_left_out(own: Options) -> None:
    capped = replace(own.subject, image=config.ImageConfig(max_crops=2), tiles=own.subject.tiles.capped(2))

    found = generation.measure(replace(own, subject=capped))

    assert [figure.versus for figure in found.figures] == [None, None, None]
    assert f"transformers is left out: {subject.CAPPED}" in found.notes


def test_an_interpreter_without_vllm_is_told(options: Options) -> None:
    with pytest.raises(RunError, match="No module named 'vllm'"):
        generation.measure(replace(options, vllm_python=sys.executable))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reading", "writing"], "'writing' is not one of"),
        (["--set", "model.threads=2"], "--set needs --job"),
        (["--vllm-python", "/nowhere/python"], "does not exist"),
        (["--model", "/nowhere/model", "planning"], "there is no such folder"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(arguments: list[str], said: str) -> None:
    done = invoked(*arguments)

    assert done.exit_code == 2
    assert said in done.output


def test_a_job_is_changed_by_set_alone(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(job(tiny, tmp_path))

    done = invoked("--job", str(path), "--dtype", "float32")

    assert done.exit_code == 2
    assert "--dtype is for a run without --job" in done.output


@pytest.mark.slow
def test_the_command_prints_json(tiny: Path, tmp_path: Path, brief: None) -> None:
    reading.write(tmp_path / "a.tar", [preprocessing.photograph(80, 90)])
    path = tmp_path / "job.toml"
    path.write_text(job(tiny, tmp_path))

    done = invoked("planning", "preprocessing", "--job", str(path), "--pairs", "1", "--json")

    told = json.loads(done.stdout)
    assert [part["part"] for part in told["parts"]] == ["preprocessing", "planning"]
    assert set(told["machine"]["gemm"]) == set(BYTES)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_prints_tables(tiny: Path, brief: None) -> None:
    done = invoked("planning", "--model", str(tiny), "--pairs", "1", "--assets", "10000")

    assert "Ceilings: matrix products" in done.stdout
    assert "planning: 10,000 assets" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(VLLM not in os.environ, reason=f"{VLLM} names no interpreter that has vLLM")
@pytest.mark.parametrize(("part", "captions"), [(generation, "3 of 3"), (prompts, "9 of 9")])
def test_vllm_says_the_same(part: ModuleType, captions: str, options: Options) -> None:
    demo = subject.of_model(placed(ModelConfig("demo", dtype="float32")))
    found = part.measure(replace(options, subject=demo, vllm_python=os.environ[VLLM]))

    beside = [figure for figure in found.figures if figure.versus and "vLLM" in figure.versus.peer]
    assert {figure.details["same tokens"] for figure in beside} == {captions}
    assert any("vLLM" in note and "decoded pixels" in note for note in found.notes)


def told(_: Options) -> Found:
    """What a part could find of its process."""
    return Found(os.environ["MALLOC_ARENA_MAX"], str(os.getppid()))


def refused(_: Options) -> Found:
    """A part that fails as ours do."""
    raise ConfigError(["one", "two"])


def gone(_: Options) -> Found:
    """A part whose process dies."""
    os._exit(7)


def test_a_part_is_measured_in_a_process_like_a_replicas(options: Options) -> None:
    assert apart(told, options) == Found(flow.KEEP_MEMORY["MALLOC_ARENA_MAX"], str(os.getpid()))
    assert "MALLOC_ARENA_MAX" not in os.environ


def test_what_fails_in_a_process_of_its_own_fails_here(options: Options) -> None:
    with pytest.raises(ConfigError, match="two"):
        apart(refused, options)
    with pytest.raises(RunError, match="ended with 7"):
        apart(gone, options)
