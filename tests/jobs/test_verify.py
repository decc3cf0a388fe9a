"""`captionmill verify`: words, exit codes, and what only the input and the model can tell."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console

from jobs.cli import main
from jobs.demo.shards import write_shards
from jobs.verify import Again, Report, inspect, loaded_replica
from pipeline import config
from pipeline.errors import ConfigError
from pipeline.findings import Kind
from tests.double import Double
from tests.output import JOB, Output, captioned, write_input


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of input, checkpoint and output."""
    folder = tmp_path_factory.mktemp("published")
    write_input(folder)
    captioned(JOB.format(folder=folder))
    return folder


@pytest.fixture
def folder(untouched: Path, tmp_path: Path) -> Path:
    """A copy to damage, with the times of the files."""
    shutil.copytree(untouched, tmp_path / "all")
    return tmp_path / "all"


@pytest.fixture
def output(folder: Path) -> Output:
    """The copy's output."""
    return Output(folder / "out")


def again(folder: Path, count: int | None = None, *, captions: bool = True, **overrides: str) -> Report:
    """What is found with the job at hand, a double in the place of the model."""
    given = [f"{name.replace('_', '.', 1)}={value}" for name, value in overrides.items()]
    job = config.read(JOB.format(folder=folder), [*given, 'output.uri="memory://nowhere"'])
    asked = Again(job, count, 0, captions, lambda ready: Double())
    return inspect(str(folder / "out"), asked, Console(quiet=True))


def invoked(*arguments: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(main, ["verify", *arguments], prog_name="captionmill")


def said(report: Report) -> list[str]:
    """The findings in words."""
    return [str(finding) for finding in report.findings]


def swap(name: str) -> Callable[[pa.Table], pa.Table]:
    """The values of the first and the third row in each other's place."""

    def swapped(rows: pa.Table) -> pa.Table:
        values = rows[name].to_pylist()
        values[0], values[2] = values[2], values[0]
        field = rows.schema.field(name)
        return rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))

    return swapped


def plant(output: Output, *changes: Callable[[pa.Table], pa.Table]) -> None:
    """Change the first file of captions, and all that is said of it."""
    path = output.path()
    for change in changes:
        output.rewrite(path, change)
    output.settle(path)


def test_an_untouched_output_is_whole(folder: Path) -> None:
    done = invoked(str(folder / "out"))

    assert done.exit_code == 0, done.stderr
    assert "16 assets in 30 rows: each once, and all as published" in done.stderr
    assert done.stdout == ""


def test_an_untouched_output_comes_out_the_same_again(folder: Path) -> None:
    report = again(folder)

    assert said(report) == []
    assert report.again == 16


def test_captions_that_were_swapped_with_everything_else_in_order_are_found(
    folder: Path, output: Output
) -> None:
    rows = output.rows(output.path()).to_pylist()
    plant(output, swap("caption"), swap("caption_text"))

    report = again(folder)

    assert [f.kind for f in report.findings] == [Kind.CAPTION] * 2
    first = next(f for f in report.findings if f.asset_id == rows[0]["asset_id"])
    assert f"it says {rows[2]['caption']!r}, and made again it says {rows[0]['caption']!r}" in first.what


def test_a_token_count_that_was_changed_with_everything_else_in_order_is_found(
    folder: Path, output: Output
) -> None:
    plant(output, swap("n_prompt_tokens"))

    report = again(folder)

    assert {f.kind for f in report.findings} == {Kind.CAPTION}
    assert "n_prompt_tokens is" in said(report)[0]


def test_bytes_that_changed_under_an_old_time_are_found_by_digest(folder: Path) -> None:
    shard = folder / "0.tar"
    when, data = shard.stat().st_mtime_ns, bytearray(shard.read_bytes())
    data[600] ^= 1  # in the first member, whose header has 512 bytes
    shard.write_bytes(data)
    os.utime(shard, ns=(when, when))

    for captions in (True, False):
        (finding,) = again(folder, captions=captions).findings
        assert finding.kind is Kind.INPUT
        assert "other bytes than were captioned: their sha256 is" in finding.what


def test_a_shard_that_was_written_again_is_named(folder: Path) -> None:
    (folder / "0.tar").write_bytes((folder / "1.tar").read_bytes())

    report = again(folder)

    (finding,) = report.findings
    assert finding.kind is Kind.INPUT
    assert finding.where.endswith("0.tar'")
    assert "it changed since it was captioned: its etag is" in finding.what


def test_a_shard_that_is_gone_is_named(folder: Path) -> None:
    (folder / "0.tar").unlink()

    assert [f.what for f in again(folder).findings] == ["it is not in the input any more"]


def test_a_sample_is_as_large_as_asked_and_the_same_every_time(folder: Path, output: Output) -> None:
    plant(output, swap("n_prompt_tokens"))

    one, other = again(folder, 7), again(folder, 7)

    assert one.again == 7
    assert said(one) == said(other)


def test_a_job_with_another_recipe_is_refused_with_what_differs(folder: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        again(folder, generation_temperature="0.5", input_dataset="birds")

    assert "[input] dataset: the job has 'birds', the table 'colours'" in refused.value.problems
    assert "generation.temperature: the job has 0.5, the table 0.0" in refused.value.problems


def test_nothing_is_made_again_where_the_records_are_wrong(folder: Path, output: Output) -> None:
    recipe = f"recipes/{output.snapshot['recipe_ids'][0]}.json"
    output.edit(recipe, lambda told: told["software"].update(torch="0"))

    report = again(folder)

    assert [f.kind for f in report.findings] == [Kind.RECORD]
    assert report.again == 0


def test_findings_end_with_exit_code_1_and_a_remedy(output: Output) -> None:
    (output.folder / output.path()).unlink()

    done = invoked(str(output.folder))

    assert done.exit_code == 1
    assert f"✗ file: {output.path()}: it is gone, and the snapshot lists it" in done.stderr
    assert "restore the file from a copy" in done.stderr
    assert "✗ findings: " in done.stderr


def test_the_report_is_json_where_a_program_reads_it(output: Output) -> None:
    plant(output, swap("asset_uuid"))

    done = invoked(str(output.folder), "--json")

    told = json.loads(done.stdout)
    assert (done.exit_code, told["holds"], told["counts"]) == (1, False, {"row": 2})
    assert told["findings"][0]["kind"] == "row"


def test_many_findings_of_a_kind_are_counted_and_a_few_are_told(output: Output) -> None:
    for number in (0, 1):
        output.edit("snapshot.json", lambda told: told)
        path = output.path(number=number)
        output.rewrite(
            path, lambda rows: rows.set_column(0, rows.schema.field(0), rows["asset_id"]).slice(0, 0)
        )

    done = invoked(str(output.folder))

    assert done.stderr.count("✗ conservation") == 14
    assert done.exit_code == 1


def test_what_a_strange_name_holds_does_not_reach_the_terminal(output: Output) -> None:
    strange = output.folder / "captions" / output.run / "part-\x1b[31m.parquet"
    shutil.copy(output.folder / output.path(), strange)

    done = invoked(str(output.folder))

    assert "\x1b" not in done.stderr
    assert "part-.parquet: the snapshot does not list it" in done.stderr


def test_nothing_published_is_named(tmp_path: Path) -> None:
    done = invoked(str(tmp_path))

    assert done.exit_code == 1
    assert "snapshot.json: there is none: nothing is published here" in done.stderr


@pytest.mark.parametrize(
    "option", [("--sample", "5"), ("--all",), ("--digests",), ("--input", "x"), ("--seed", "1")]
)
def test_what_needs_the_job_asks_for_it(tmp_path: Path, option: tuple[str, ...]) -> None:
    done = invoked(str(tmp_path), *option)

    assert done.exit_code == 2
    assert "need --job" in done.stderr


def test_the_job_s_own_output_is_not_touched(folder: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(JOB.format(folder=folder).replace(f"{folder}/out", f"{tmp_path}/elsewhere"))

    done = invoked(str(folder / "out"), "--job", str(job), "--all", "--digests")

    assert done.exit_code == 0, done.stderr
    assert "16 assets read again" in done.stderr
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the tests share two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


DEMO = JOB.replace('path = "{folder}/checkpoint"', 'path = "demo"\ndtype = "float32"\nthreads = 1')


@pytest.fixture
def demo(tmp_path: Path, one_thread: None) -> str:
    """A job file of one scene of each kind and an empty shard, captioned by the demo checkpoint."""
    write_shards(tmp_path, 1)
    text = DEMO.format(folder=tmp_path).replace("/*.tar", "/shards/*.tar")
    captioned(text + "[generation]\nmax_new_tokens = 12\n", loaded_replica)
    path = tmp_path / "job.toml"
    path.write_text(text + "[generation]\nmax_new_tokens = 12\n")
    return str(path)


def test_the_model_says_the_same_again_and_what_it_did_not_say_is_found(demo: str) -> None:
    output = Output(Path(demo).parent / "out")
    untouched = invoked(str(output.folder), "--job", demo, "--all")
    path = output.path()
    output.rewrite(path, retold)
    output.settle(path)

    touched = invoked(str(output.folder), "--job", demo, "--all")

    assert untouched.exit_code == 0, untouched.stderr
    assert touched.exit_code == 1
    assert "✗ caption: " in touched.stderr
    assert "it says 'A red circle.', and made again it says" in touched.stderr
    assert "✗ findings: 1;" in touched.stderr


def retold(rows: pa.Table) -> pa.Table:
    """The first row with other words, in both columns."""
    told: list[dict[str, Any]] = rows.to_pylist()
    told[0] = told[0] | {
        "caption": "A red circle.",
        "caption_text": "A red circle.",
        "flags": told[0]["flags"],
    }
    return pa.Table.from_pylist(told, schema=rows.schema)
