"""pipeline.publish: parts become sorted files, and readers see the old table or the new one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline import publish, storage, unit_records
from pipeline.columns import CAPTIONS, FAILURES
from pipeline.commit import Committer, manifest_uri
from pipeline.errors import IntegrityError, OvertakenError
from pipeline.fit import Needs
from pipeline.plan import Carried, Plan
from pipeline.provenance import Context
from pipeline.publish import Compactor, Done, Partition, done, partitions, snapshot, swap
from pipeline.standing import KINDS, Standing
from pipeline.types import Captioned
from tests import made

NONE: dict[str, tuple[str, ...]] = dict.fromkeys(KINDS, ())
NOTHING = Standing(NONE, NONE, NONE, dict.fromkeys(KINDS, False))
METADATA = {"captionmill.run_id": "run0", "captionmill.software.torch": "2.13.0"}
UNITS = [made.captioned(0, 6, failed=(1, 4)), made.captioned(1, 5), made.captioned(2, 3, failed=(0, 1, 2))]


class Run:
    """A run of some units, committed below `output`, with as many partitions as asked."""

    def __init__(
        self, output: str, run_id: str = "run0", units: Sequence[Captioned] = UNITS, of: int = 3
    ) -> None:
        self.output, self.units = output, units
        context = Context("birds", run_id, "recipe0", made.CHECKPOINT, made.PROMPTS)
        commit = Committer(output, context, METADATA)
        for captioned in units:
            commit.commit(captioned)
        planned = tuple(c.unit for c in units)
        assets = sum(len(c.assets) for c in units)
        needs, before = Needs(0, 0, 0, 0, 0), snapshot(output)
        carried = Carried(before["run_id"], NOTHING, 0, 0) if before else None
        self.plan = Plan(run_id, "recipe0", "birds", (), (), planned, assets, 0, needs, "job0", None, carried)
        self.partitions = [Partition(i, of) for i in range(of)]

    def compact(self) -> list[Done]:
        """What the compactor says of each partition."""
        compactor = Compactor(self.output, self.plan.run_id, self.plan.unit_ids, METADATA, self.plan.carried)
        return [compactor.compact(p) for p in self.partitions]

    def publish(self) -> dict[str, Any]:
        """Compact and publish."""
        return publish.publish(self.output, self.plan, self.compact(), METADATA)

    def files(self, table: str) -> list[Path]:
        """The published files of a table, in order."""
        return sorted(Path(self.output, table, self.plan.run_id).iterdir())

    def rows(self, table: str) -> pa.Table:
        """The published rows of a table."""
        return pa.concat_tables([pq.ParquetFile(path).read() for path in self.files(table)])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path))


def removed(output: str, run_id: str) -> list[tuple[str, str | None, str]]:
    """Asset, prompt and reason of the rows that a run says are gone."""
    rows = pq.ParquetFile(f"{output}/removed/{run_id}.parquet").read().to_pylist()
    return [(row["asset_id"], row["prompt_id"], row["reason"]) for row in rows]


def left(units: Sequence[Captioned]) -> list[tuple[str, str | None, str]]:
    """What is removed when all assets of these units leave the input."""
    rows = {(c.assets[a.position].asset_id, a.prompt_id, "left") for c in units for a in c.answers}
    return sorted(rows, key=lambda row: (row[0], row[1] or "~"))


def ids(units: Sequence[Captioned]) -> set[str]:
    """The assets of some units."""
    return {a.asset_id for c in units for a in c.assets}


@pytest.mark.parametrize("of", [1, 2, 3, 7, 1000])
def test_partitions_cover_every_asset_id_once(of: int) -> None:
    bounds = [Partition(i, of).bounds() for i in range(of)]

    assert bounds[0][0] <= "0" * 32
    assert bounds[-1][1] > "f" * 32
    assert [low for low, _ in bounds[1:]] == [high for _, high in bounds[:-1]]
    assert all(low < high for low, high in bounds)


def test_partitions_are_of_one_size() -> None:
    starts = [int(Partition(i, 7).bounds()[0], 16) for i in range(7)]

    widths = [b - a for a, b in zip(starts, [*starts[1:], 1 << 32], strict=True)]
    assert max(widths) - min(widths) <= 1


@pytest.mark.parametrize(("rows", "n"), [(0, 1), (1, 1), (500_000, 1), (500_001, 2), (10_000_000, 20)])
def test_there_are_as_few_partitions_as_files_of_half_a_million_rows_need(rows: int, n: int) -> None:
    assert len(partitions(rows)) == n


def test_every_answer_is_published_once(run: Run) -> None:
    run.publish()

    captions, failures = run.rows("captions"), run.rows("failures")
    said = {(a.asset_id, p.id) for c in UNITS for i, a in enumerate(c.assets) for p in made.PROMPTS
            if i in {v.position for v in c.views}}  # fmt: skip
    assert sorted(
        zip(captions["asset_id"].to_pylist(), captions["prompt_id"].to_pylist(), strict=True)
    ) == sorted(said)
    assert set(failures["asset_id"].to_pylist()) == ids(UNITS) - {asset_id for asset_id, _ in said}
    assert len(failures) == 5


def test_what_each_unit_took_outlives_its_part(run: Run) -> None:
    run.publish()

    table = pq.ParquetFile(Path(run.output, "runs", "run0", "units.parquet")).read()
    rows = table.to_pylist()
    assert table.schema.equals(unit_records.UNITS, check_metadata=False)
    assert all(
        field.metadata[b"description"]
        for field in pq.read_schema(Path(run.output, "runs", "run0", "units.parquet"))
    )
    assert [row["unit_id"] for row in rows] == run.plan.unit_ids
    assert [row["captions"] for row in rows] == [8, 10, 0]
    assert [row["failures_by_code"] for row in rows] == [[("corrupt", 2)], [], [("corrupt", 3)]]
    assert {row["ended_at"] - row["begun_at"] for row in rows} == {timedelta(seconds=3)}


def test_every_caption_is_on_its_own_row(run: Run) -> None:
    run.publish()

    for row in run.rows("captions").to_pylist():
        assert row["caption"] == f"{row['key']} {row['prompt_id']} {row['content_sha256']}"


def test_published_rows_are_sorted_within_and_across_files(run: Run) -> None:
    run.publish()

    for table in ("captions", "failures"):
        found = run.rows(table)["asset_id"].to_pylist()
        assert found == sorted(found)


def test_published_rows_differ_from_their_parts_in_nothing(run: Run) -> None:
    parts = pa.concat_tables([pq.read_table(p) for p in Path(run.output, "runs/run0/units").iterdir()])

    run.publish()

    order = [("asset_id", "ascending"), ("prompt_id", "ascending")]
    captions = parts.filter(pc.equal(parts["row"], "caption")).select(CAPTIONS.names).sort_by(order)
    assert run.rows("captions").equals(captions)


@pytest.mark.parametrize(("table", "schema"), [("captions", CAPTIONS), ("failures", FAILURES)])
def test_published_files_have_columns_types_and_descriptions(run: Run, table: str, schema: pa.Schema) -> None:
    run.publish()

    for path in run.files(table):
        written = pq.ParquetFile(path).schema_arrow
        assert written.equals(schema)
        for field in schema:
            assert written.field(field.name).metadata[b"description"] == field.metadata[b"description"]


def test_published_files_say_which_run_and_software_made_them(run: Run) -> None:
    run.publish()

    for path in [*run.files("captions"), *run.files("failures"), Path(run.output, "removed/run0.parquet")]:
        footer = pq.ParquetFile(path).schema_arrow.metadata
        assert footer[b"captionmill.run_id"] == b"run0"
        assert footer[b"captionmill.schema_version"] == b"1"
        assert footer[b"captionmill.software.torch"] == b"2.13.0"


def test_the_snapshot_lists_the_published_files(run: Run) -> None:
    run.publish()

    told = json.loads(Path(run.output, "snapshot.json").read_text())
    for table in ("captions", "failures"):
        assert [f["path"] for f in told[table]["files"]] == [
            str(p.relative_to(run.output)) for p in run.files(table)
        ]
        assert told[table]["rows"] == sum(f["rows"] for f in told[table]["files"]) == len(run.rows(table))


def test_the_snapshot_describes_each_file(run: Run) -> None:
    told = run.publish()

    for file in told["captions"]["files"]:
        data = Path(run.output, file["path"]).read_bytes()
        found = pq.ParquetFile(pa.BufferReader(data)).read()["asset_id"].to_pylist()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert (file["min_asset_id"], file["max_asset_id"]) == (found[0], found[-1])


def test_the_snapshot_counts_assets_tokens_and_failures_by_code(run: Run) -> None:
    told = run.publish()

    assert (told["assets"], told["output_tokens"]) == (14, 3 * 2 * 9)
    assert told["failures_by_code"] == {"corrupt": 5}
    assert (told["run_id"], told["previous_run_id"], told["recipe_ids"]) == ("run0", None, ["recipe0"])


def test_the_files_may_be_described_in_any_order(run: Run) -> None:
    told = publish.publish(run.output, run.plan, run.compact()[::-1], METADATA)

    paths = [f["path"] for f in told["captions"]["files"]]
    assert paths == sorted(paths)


def test_unit_parts_are_gone_after_the_swap(run: Run) -> None:
    run.publish()

    assert storage.listing(f"{run.output}/runs/run0/units") == []


def test_compacting_again_gives_the_same_bytes(run: Run) -> None:
    first = run.compact()

    assert run.compact() == first


def test_an_asset_in_two_parts_is_refused(tmp_path: Path) -> None:
    twice = Run(str(tmp_path), units=[made.captioned(0, 4), made.captioned(0, 2, first=1)])

    with pytest.raises(IntegrityError, match="run0: an asset and prompt occur twice"):
        twice.compact()


@pytest.fixture
def broken(run: Run) -> Run:
    """A second run over a published one, whose files lack a partition."""
    run.publish()
    second = Run(run.output, "run1")
    second.partitions = second.partitions[:-1]
    return second


def test_files_that_lack_assets_are_refused(broken: Run) -> None:
    with pytest.raises(IntegrityError, match=r"run1: the unit parts hold \d+ assets of 14 planned"):
        broken.publish()


def test_the_old_snapshot_stays_where_the_new_one_is_refused(broken: Run) -> None:
    before = Path(broken.output, "snapshot.json").read_bytes()

    with pytest.raises(IntegrityError):
        broken.publish()

    assert Path(broken.output, "snapshot.json").read_bytes() == before
    assert not storage.exists(manifest_uri(broken.output, "run1"))


def test_the_parts_stay_where_publishing_is_refused(broken: Run) -> None:
    with pytest.raises(IntegrityError):
        broken.publish()

    assert len(storage.listing(f"{broken.output}/runs/run1/units")) == 3


def test_publishing_twice_changes_nothing(run: Run) -> None:
    done = run.compact()
    first = publish.publish(run.output, run.plan, done, METADATA)
    before = Path(run.output, "snapshot.json").read_bytes()

    assert publish.publish(run.output, run.plan, done, METADATA) == first
    assert Path(run.output, "snapshot.json").read_bytes() == before


def test_publishing_twice_over_an_older_run_keeps_the_difference(tmp_path: Path) -> None:
    Run(str(tmp_path), "run0").publish()
    second = Run(str(tmp_path), "run1", UNITS[1:])
    done = second.compact()
    publish.publish(second.output, second.plan, done, METADATA)

    told = publish.publish(second.output, second.plan, done, METADATA)

    assert told["previous_run_id"] == "run0"
    assert removed(str(tmp_path), "run1") == left(UNITS[:1])


def test_a_driver_that_slept_while_a_later_run_was_published_does_not_take_the_table_back(
    tmp_path: Path,
) -> None:
    sleeper = Run(str(tmp_path), "run0")
    done = sleeper.compact()
    publish.publish(sleeper.output, sleeper.plan, done, METADATA)
    later = Run(str(tmp_path), "run1", UNITS[1:]).publish()

    with pytest.raises(OvertakenError, match="another run published its table"):
        publish.publish(sleeper.output, sleeper.plan, done, METADATA)
    with pytest.raises(OvertakenError, match="another run published its table"):
        publish.follow(sleeper.output, sleeper.plan)
    assert snapshot(str(tmp_path)) == later


def test_a_run_that_died_between_manifest_and_snapshot_goes_on(run: Run) -> None:
    told = run.publish()
    Path(run.output, "snapshot.json").unlink()

    assert swap(run.output, "run0") == told == snapshot(run.output)


def test_a_run_that_died_between_snapshot_and_clean_up_goes_on(run: Run) -> None:
    told = run.publish()
    before = Path(run.output, "snapshot.json").stat().st_mtime_ns
    Run(run.output)  # its parts are there again

    assert swap(run.output, "run0") == told
    assert Path(run.output, "snapshot.json").stat().st_mtime_ns == before
    assert storage.listing(f"{run.output}/runs/run0/units") == []


def test_nothing_is_published_before_the_first_run(tmp_path: Path) -> None:
    assert snapshot(str(tmp_path)) is None


def test_nothing_has_left_the_input_of_a_first_run(run: Run) -> None:
    run.publish()

    assert removed(run.output, "run0") == []


def test_assets_that_left_the_input_are_listed(tmp_path: Path) -> None:
    Run(str(tmp_path), "run0", UNITS, of=2).publish()

    told = Run(str(tmp_path), "run1", UNITS[:1], of=3).publish()

    assert removed(str(tmp_path), "run1") == left(UNITS[1:])
    assert told["removed"]["rows"] == 5 * len(made.PROMPTS) + 3


def test_an_asset_that_was_a_failure_and_left_is_listed_too(tmp_path: Path) -> None:
    Run(str(tmp_path), "run0", UNITS[2:]).publish()

    Run(str(tmp_path), "run1", UNITS[:1]).publish()

    assert removed(str(tmp_path), "run1") == left(UNITS[2:])


def test_a_caption_that_is_a_failure_this_time_is_gone(tmp_path: Path) -> None:
    captioned = made.captioned(0, 4)
    Run(str(tmp_path), "run0", [captioned]).publish()

    Run(str(tmp_path), "run1", [made.captioned(0, 4, failed=range(4))]).publish()

    assert removed(str(tmp_path), "run1") == [(i, prompt, "failed") for i, prompt, _ in left([captioned])]


def test_the_older_run_s_files_stay_for_its_readers(tmp_path: Path) -> None:
    older = Run(str(tmp_path), "run0")
    told = older.publish()

    Run(str(tmp_path), "run1", UNITS[:1]).publish()

    for file in told["captions"]["files"]:
        assert hashlib.sha256(Path(older.output, file["path"]).read_bytes()).hexdigest() == file["sha256"]


def test_a_run_without_assets_publishes_empty_tables(tmp_path: Path) -> None:
    empty = Run(str(tmp_path), units=[], of=1)

    told = empty.publish()

    assert (told["captions"]["rows"], told["failures"]["rows"]) == (0, 0)
    assert empty.rows("captions").schema.equals(CAPTIONS)


def test_a_run_is_published_on_an_object_store(s3: str) -> None:
    told = Run(f"{s3}/out").publish()

    assert snapshot(f"{s3}/out") == told
    assert sorted(
        e.name for e in storage.listing(f"{s3}/out") if not e.name.startswith(("captions", "failures"))
    ) == [
        "removed/run0.parquet",
        "runs/run0/manifest.json",
        "runs/run0/units.parquet",
        "snapshot.json",
    ]


def test_the_compactor_speaks_in_one_row_tables(run: Run) -> None:
    compactor = Compactor(run.output, "run0", run.plan.unit_ids, METADATA)

    said = compactor(pa.table({"number": [1], "of": [3]}))

    assert done(said.to_pylist()[0]) == run.compact()[1]


def test_a_part_that_is_cut_is_refused_by_name(run: Run) -> None:
    part = next(Path(run.output, "runs/run0/units").iterdir())
    part.write_bytes(part.read_bytes()[:-100])

    with pytest.raises(
        IntegrityError, match=rf"{part.name} is no whole unit part: .*; delete it and start again"
    ):
        run.compact()
