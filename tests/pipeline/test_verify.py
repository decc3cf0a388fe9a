"""pipeline.verify: an untouched output has no finding, and each planted corruption is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline import record, storage, verify
from pipeline.findings import REMEDIES, Finding, Kind
from tests.output import JOB, Output, captioned, encoded, write_input, write_tar

Plant = Callable[[Output], None]


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of two runs, of which the second is published.

    It lacks a shard; of another, one asset is new, one a copy, and one has other bytes; the rest stands.
    """
    folder = tmp_path_factory.mktemp("published")
    write_input(folder, 3)
    captioned(JOB.format(folder=folder))
    (folder / "2.tar").unlink()
    write_tar(folder / "1.tar", 1, {0: encoded(24), 8: encoded(25), 9: encoded(0)})
    captioned(JOB.format(folder=folder))
    return folder / "out"


@pytest.fixture
def output(untouched: Path, tmp_path: Path) -> Output:
    """A copy to damage."""
    shutil.copytree(untouched, tmp_path / "out")
    return Output(tmp_path / "out")


def found(output: Output) -> list[Finding]:
    """Every finding, as the command takes them."""
    findings: list[Finding] = []
    try:
        read, said = record.load(str(output.folder))
        findings += said
        for step in verify.steps(read):
            findings += step.findings
    except record.Unusable as error:
        findings.append(error.finding)
    return findings


def test_an_untouched_output_has_no_finding(output: Output) -> None:
    assert [str(finding) for finding in found(output)] == []
    assert len(output.rows(output.path())) > 4
    told = output.snapshot
    assert (told["removed"]["rows"], told["new_rows"], told["copies"]) == (15, 6, 1)


def test_every_kind_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Kind)


def column(name: str, change: Callable[[list[Any]], Sequence[Any]]) -> Callable[[pa.Table], pa.Table]:
    """A change of one column's values."""

    def changed(rows: pa.Table) -> pa.Table:
        field = rows.schema.field(name)
        values = pa.array(change(rows[name].to_pylist()), field.type)
        return rows.set_column(rows.schema.get_field_index(name), field, values)

    return changed


def first(value: Any) -> Callable[[list[Any]], list[Any]]:
    """Another value in the first row."""
    return lambda values: [value, *values[1:]]


def swapped(values: list[Any]) -> list[Any]:
    """The first and the third row's values in each other's place."""
    return [values[2], values[1], values[0], *values[3:]]


def all_swapped(rows: pa.Table) -> pa.Table:
    """Every trace of a caption in another row's place."""
    for name in ("caption", "caption_text", "flags", "finish_reason", "mean_logprob", "n_output_tokens"):
        rows = column(name, swapped)(rows)
    return rows


def without_first(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


def doubled(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows.slice(0, 1), rows])


def reversed_order(rows: pa.Table) -> pa.Table:
    return rows.take(list(reversed(range(len(rows)))))


def rewrite(
    change: Callable[[pa.Table], pa.Table], table: str = "captions", *, settled: bool = True, **footer: str
) -> Plant:
    """A change of a published file, whose digest, size and count are mended too where it is `settled`."""

    def plant(output: Output) -> None:
        path = next(
            f["path"]
            for f in output.snapshot[table]["files"]
            if f["rows"] > (3 if table == "captions" else 0)
        )
        output.rewrite(path, change, {f"captionmill.{name}": value for name, value in footer.items()})
        if settled:
            output.settle(path)

    return plant


def truncate(output: Output) -> None:
    path = output.folder / output.path()
    path.write_bytes(path.read_bytes()[:-700])


def flip_a_bit(output: Output) -> None:
    path = output.folder / output.path()
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def remove(*names: str) -> Plant:
    """Objects that are gone; {run} and {path} stand for the run and a published file."""

    def plant(output: Output) -> None:
        told = output.snapshot
        words = {"run": output.run, "path": output.path(), "recipe": told["recipe_ids"][0]}
        words["index"] = output.json(f"runs/{output.run}/plan.json")["indexes"][0]
        for name in names:
            (output.folder / name.format(**words)).unlink()

    return plant


def add(name: str) -> Plant:
    """An object that should not be there."""

    def plant(output: Output) -> None:
        path = output.folder / name.format(run=output.run)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(output.folder / output.path(), path)

    return plant


def tell(name: str, value: Any) -> Plant:
    """A wrong word in the snapshot, and in the manifest too."""
    return lambda output: output.tell(lambda told: told.update({name: value}))


def other_rows(output: Output) -> None:
    def change(told: dict[str, Any]) -> None:
        told["captions"]["rows"] += 1
        told["captions"]["files"][0]["rows"] += 1

    output.tell(change)


def only_the_snapshot(output: Output) -> None:
    output.edit("snapshot.json", lambda told: told.update(assets=15))


def edit_recipe(output: Output) -> None:
    recipe_id = output.snapshot["recipe_ids"][0]
    output.edit(f"recipes/{recipe_id}.json", lambda recipe: recipe["generation"].update(temperature=1.0))


def damage_index(output: Output) -> None:
    name = output.json(f"runs/{output.run}/plan.json")["indexes"][0]
    path = output.folder / "index" / name
    data = bytearray(path.read_bytes())
    data[20:200] = bytes(180)
    path.write_bytes(data)


def edit_plan(output: Output) -> None:
    output.edit(f"runs/{output.run}/plan.json", lambda plan: plan["units"].pop())


def older_snapshot(output: Output) -> None:
    older = output.json(f"runs/{output.snapshot['previous_run_id']}/manifest.json")["snapshot"]
    (output.folder / "snapshot.json").write_text(json.dumps(older))


def garbled(output: Output) -> None:
    (output.folder / "snapshot.json").write_text('{"schema_version": "1", "run_id": ["x"]')


def other_version(output: Output) -> None:
    output.edit("snapshot.json", lambda told: told.update(schema_version="9"))


def leading_out(output: Output) -> None:
    file = {"path": "captions/../../../etc/passwd.parquet"}
    output.tell(lambda told: told["captions"]["files"][0].update(file))


def escaping(output: Output) -> None:
    output.edit("snapshot.json", lambda told: told.update(run_id="../../etc"))


def of_this_run(name: str, value: str) -> Plant:
    """A wrong word in all rows of the published run that are not copies."""

    def plant(output: Output) -> None:
        path = next(f["path"] for f in output.snapshot["captions"]["files"] if _own(output, f["path"]).any())
        own = _own(output, path)
        output.rewrite(
            path, column(name, lambda values: [value if o else v for o, v in zip(own, values, strict=True)])
        )
        output.settle(path)

    return plant


def _own(output: Output, path: str) -> Any:
    rows = output.rows(path)
    return pc.and_(pc.equal(rows["run_id"], output.run), pc.is_null(rows["duplicate_of"])).to_numpy()


def to_earlier_run(output: Output) -> None:
    of_this_run("run_id", output.snapshot["previous_run_id"])(output)


def uncounted(output: Output) -> None:
    output.rewrite(output.snapshot["removed"]["path"], without_first)


def another_left(output: Output) -> None:
    output.rewrite(
        output.snapshot["removed"]["path"],
        column("asset_id", lambda ids: [*ids[:-1], "f" * 32]),
    )


def of_failure(name: str, value: Any) -> Plant:
    return rewrite(column(name, first(value)), "failures")


@dataclass(frozen=True, slots=True)
class Corruption:
    """What is done to an output, and how what is found of it must be called."""

    plant: Plant
    kind: Kind
    words: str


CHANGED = "changed since it was published"
CORRUPTIONS = {
    "swapped captions": Corruption(rewrite(all_swapped, settled=False), Kind.FILE, CHANGED),
    "lost row": Corruption(
        rewrite(without_first), Kind.CONSERVATION, "lost: it has neither a caption nor a failure"
    ),
    "lost failure": Corruption(
        rewrite(without_first, "failures", settled=False), Kind.CONSERVATION, "lost: it has neither"
    ),
    "doubled row": Corruption(rewrite(doubled), Kind.CONSERVATION, "2 rows, and there must be one"),
    "edited text": Corruption(rewrite(column("caption", first("A cat.")), settled=False), Kind.FILE, CHANGED),
    "edited text, digest mended": Corruption(
        rewrite(column("caption", first("A cat."))),
        Kind.ROW,
        "caption_text is not what the caption gives, 'A cat.'",
    ),
    "edited caption_text": Corruption(
        rewrite(column("caption_text", first("A\u200bcat."))),
        Kind.ROW,
        "caption_text is not what the caption gives",
    ),
    "wrong flag": Corruption(
        rewrite(column("flags", first(["refusal"]))), Kind.ROW, "flags are ['refusal'], the caption gives []"
    ),
    "wrong recipe": Corruption(
        rewrite(column("recipe_id", first("0" * 16))),
        Kind.ROW,
        "recipe_id is '0000000000000000', which the snapshot does not list",
    ),
    "row of another run": Corruption(
        rewrite(column("run_id", first("1" * 16))),
        Kind.ROW,
        "run_id is '1111111111111111', which is no run of this output",
    ),
    "other model": Corruption(
        rewrite(column("model", first("gpt"))), Kind.ROW, "model is 'gpt', the run's is"
    ),
    "wrong key": Corruption(rewrite(column("key", first("006"))), Kind.ROW, "asset_id is not that of shard"),
    "wrong key, seen from the index": Corruption(
        rewrite(column("key", first("x"))), Kind.INDEX, "key is x, the index says"
    ),
    "wrong asset_id": Corruption(
        rewrite(column("asset_id", first("0" * 32))), Kind.INDEX, "no asset of the plan has this id"
    ),
    "wrong asset_uuid": Corruption(
        rewrite(column("asset_uuid", swapped)), Kind.ROW, "asset_uuid is not that of asset_id"
    ),
    "wrong digest": Corruption(
        rewrite(column("content_sha256", first("ab" * 32))), Kind.INDEX, "content_sha256 is abababab"
    ),
    "wrong width": Corruption(rewrite(column("width", first(1))), Kind.INDEX, "width is 1, the index says"),
    "wrong unit": Corruption(of_this_run("unit_id", "u"), Kind.INDEX, "unit_id is u, the plan says"),
    "wrong media": Corruption(
        rewrite(column("media", first("video"))), Kind.INDEX, "media is video, the index says"
    ),
    "unknown prompt": Corruption(
        rewrite(column("prompt_id", first("poem"))), Kind.ROW, "no prompt 'poem' of the recipe asks about"
    ),
    "wrong finish": Corruption(
        rewrite(column("finish_reason", first("bored"))), Kind.ROW, "finish_reason is 'bored', which is none"
    ),
    "wrong crops": Corruption(rewrite(column("n_crops", first(77))), Kind.ROW, "77 crops for one base crop"),
    "too many tokens": Corruption(
        rewrite(column("n_output_tokens", first(300))), Kind.ROW, "300 output tokens; the recipe allows 256"
    ),
    "too many attempts": Corruption(
        rewrite(column("attempt", first(1))), Kind.ROW, "attempt 1; the recipe allows 0"
    ),
    "null caption": Corruption(rewrite(column("caption", first(None))), Kind.ROW, "caption is null"),
    "wrong code": Corruption(
        of_failure("error_code", "corrupt"), Kind.INDEX, "this asset failed with unidentified"
    ),
    "wrong retriable": Corruption(
        of_failure("retriable", True), Kind.ROW, "retriable is True, which is wrong"
    ),
    "unsafe message": Corruption(
        of_failure("error_message", "\x1b[31mred"), Kind.ROW, "error_message is not text"
    ),
    "unsorted": Corruption(rewrite(reversed_order), Kind.SCHEMA, "not in order of asset_id"),
    "missing column": Corruption(
        rewrite(lambda rows: rows.drop_columns("flags")), Kind.SCHEMA, "not those of captions: flags"
    ),
    "other type": Corruption(
        rewrite(lambda rows: rows.set_column(8, "width", rows["width"].cast(pa.int64()))),
        Kind.SCHEMA,
        "not those of captions: width",
    ),
    "other footer": Corruption(
        rewrite(lambda rows: rows, run_id="other"),
        Kind.SCHEMA,
        "its footer says captionmill.run_id = 'other'",
    ),
    "missing part": Corruption(remove("{path}"), Kind.FILE, "it is gone, and the snapshot lists it"),
    "truncated part": Corruption(truncate, Kind.FILE, "bytes, the snapshot says"),
    "a flipped bit": Corruption(flip_a_bit, Kind.FILE, CHANGED),
    "extra file": Corruption(
        add("captions/{run}/part-00007.parquet"), Kind.FILE, "the snapshot does not list it"
    ),
    "unit part left over": Corruption(
        add("runs/{run}/units/000000-00000000-00005.parquet"),
        Kind.LEFTOVER,
        "a unit part of a run that is published",
    ),
    "unfinished write": Corruption(
        add("captions/{run}/.part-00000.parquet.00.captionmill-tmp"),
        Kind.LEFTOVER,
        "a file that was being written",
    ),
    "stale snapshot": Corruption(older_snapshot, Kind.SNAPSHOT, "stale: it shows run"),
    "snapshot of a run that is gone": Corruption(
        remove("runs/{run}/manifest.json"), Kind.SNAPSHOT, "it is gone, and the published run needs it"
    ),
    "snapshot and manifest differ": Corruption(only_the_snapshot, Kind.SNAPSHOT, "/manifest.json in assets"),
    "garbled snapshot": Corruption(garbled, Kind.SNAPSHOT, "it is not what captionmill writes"),
    "snapshot of another version": Corruption(
        other_version, Kind.SNAPSHOT, "schema version '9', this captionmill knows 1"
    ),
    "snapshot that leads out of the output": Corruption(escaping, Kind.SNAPSHOT, "'../../etc' is no id"),
    "file that leads out of the output": Corruption(
        leading_out, Kind.SNAPSHOT, "/etc/passwd.parquet' is no published file"
    ),
    "wrong row count": Corruption(other_rows, Kind.FILE, "rows, the snapshot says"),
    "wrong asset count": Corruption(
        tell("assets", 17), Kind.SNAPSHOT, "17 assets are said to be there, and 18 are in the indexes"
    ),
    "wrong token count": Corruption(
        tell("output_tokens", 1), Kind.SNAPSHOT, "output_tokens: it says 1, the files hold"
    ),
    "wrong failure codes": Corruption(
        tell("failures_by_code", {}), Kind.SNAPSHOT, "failures_by_code: it says {}, the files hold"
    ),
    "edited recipe": Corruption(
        edit_recipe, Kind.RECORD, "it was changed, and no longer says how the captions were made"
    ),
    "missing recipe": Corruption(
        remove("recipes/{recipe}.json"), Kind.RECORD, "it is gone, and the published run needs it"
    ),
    "edited plan": Corruption(edit_plan, Kind.RECORD, "the plan divides"),
    "damaged index": Corruption(damage_index, Kind.RECORD, "it cannot be read: "),
    "missing index": Corruption(
        remove("index/{index}"), Kind.RECORD, "it is gone; without it no asset can be checked"
    ),
    "departed row that is not listed": Corruption(
        uncounted, Kind.CONSERVATION, "it is not there any more, and not listed as removed"
    ),
    "departed row that nobody had": Corruption(
        another_left, Kind.CONSERVATION, "it is listed as removed, and was not there before"
    ),
    "row of an earlier run that was to be made anew": Corruption(
        to_earlier_run, Kind.INDEX, "was to make it anew"
    ),
    "copy of another": Corruption(
        rewrite(column("duplicate_of", first("f" * 32))),
        Kind.INDEX,
        f"duplicate_of is {'f' * 32}, the index says None",
    ),
    "missing list of copies": Corruption(
        remove("runs/{run}/copies.parquet"), Kind.RECORD, "it cannot be read"
    ),
    "missing work": Corruption(
        remove("runs/{run}/work/000000.parquet"),
        Kind.RECORD,
        "it is gone; without it no asset can be checked",
    ),
    "wrong count of copies": Corruption(tell("copies", 2), Kind.SNAPSHOT, "its copies is 2, the plan's 1"),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_a_planted_corruption_is_found_and_named(output: Output, corruption: Corruption) -> None:
    corruption.plant(output)

    findings = found(output)

    print(*findings, sep="\n")
    assert any(f.kind is corruption.kind and corruption.words in str(f) for f in findings)


def test_swapped_captions_whose_digest_is_mended_need_the_model_to_be_found(output: Output) -> None:
    rewrite(all_swapped)(output)

    assert found(output) == []


def test_a_finding_names_file_row_asset_and_prompt(output: Output) -> None:
    rewrite(column("flags", first(["refusal"])))(output)

    (finding,) = found(output)

    path = output.path()
    row = output.rows(path).slice(0, 1).to_pylist()[0]
    assert (finding.where, finding.asset_id, finding.prompt_id) == (
        f"{path} row 0",
        row["asset_id"],
        row["prompt_id"],
    )


def test_a_lost_row_is_named_by_shard_and_key(output: Output) -> None:
    path = output.path()
    lost = output.rows(path).slice(0, 1).to_pylist()[0]
    output.rewrite(path, without_first)
    output.settle(path)

    (finding,) = [f for f in found(output) if f.kind is Kind.CONSERVATION]

    assert finding.where == f"shard {lost['shard']!r}, key {lost['key']!r}"
    assert (finding.asset_id, finding.prompt_id) == (lost["asset_id"], lost["prompt_id"])


def test_all_rows_of_an_asset_that_are_lost_are_one_finding(output: Output) -> None:
    path = output.path()
    asset_id = output.rows(path)["asset_id"][0].as_py()
    output.rewrite(path, lambda rows: rows.filter(pc.not_equal(rows["asset_id"], asset_id)))
    output.settle(path)

    (finding,) = [f for f in found(output) if f.kind is Kind.CONSERVATION]

    assert (finding.asset_id, finding.prompt_id) == (asset_id, None)


def test_an_output_without_a_snapshot_is_named(tmp_path: Path) -> None:
    (finding,) = found(Output(tmp_path))

    assert str(finding) == "snapshot.json: there is none: nothing is published here"


def test_an_output_on_an_object_store_is_verified(untouched: Path, s3: str) -> None:
    for entry in storage.listing(str(untouched)):
        storage.put(f"{s3}/out/{entry.name}", storage.read(entry.uri))

    read, findings = record.load(f"{s3}/out")

    assert [*findings, *(f for step in verify.steps(read) for f in step.findings)] == []
