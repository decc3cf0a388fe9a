"""captionmill export: each format as its readers read it, deltas, and folders that are whole or say they are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import lancedb
import pytest
from click.testing import CliRunner, Result
from webdataset import tariterators

from jobs.cli import main
from jobs.export.lines import parts
from jobs.export.sidecars import tar_name
from pipeline import storage
from tests.weekly_table import WEEKS, Captions, Weeks, published

LONG = "k" * 300
HOSTILE: Captions = {
    ("../../../etc/passwd", "short"): 'A caption with \x1b[31m \u202e and\nlines,\t"quotes" and {braces}.',
    (f"deep/{LONG}", "short"): "A long key.",
    ("海", "short"): "两只狗。",
    ("it's", "long"): "' OR 1=1 --",
    ("quoted", "long"): "a quoted mean_logprob is not a number",
}


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Weeks:
    """A table of hostile captions."""
    made = Weeks(str(tmp_path_factory.mktemp("weeks") / "out"))
    made.publish(HOSTILE)
    return made


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments])


def export(output: str, destination: Path | str, to: str, *options: str) -> Result:
    done = invoke(output, str(destination), "--to", to, *options)
    assert done.exit_code == 0, done.output
    return done


def lines(folder: Path, suffix: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob(f"*.{suffix}"))
        for line in path.read_bytes().splitlines()
    ]


def plain(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    told = []
    for row in rows:
        at = row["created_at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        number = row["mean_logprob"]
        told.append(row | {"created_at": at, "mean_logprob": number if number == number else None})
    return told


def test_jsonl_has_every_row_and_column(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "jsonl")

    assert lines(tmp_path, "jsonl") == plain(published(weeks.output))
    assert (tmp_path / "part-00000.jsonl").read_bytes().isascii()


def test_lines_go_to_standard_output(weeks: Weeks) -> None:
    done = export(weeks.output, "-", "jsonl")

    assert [json.loads(line) for line in done.stdout.splitlines()] == plain(published(weeks.output))
    assert weeks.runs[-1] in done.stderr


def test_bulk_lines_are_actions_and_documents(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "opensearch")
    told = lines(tmp_path, "ndjson")

    ids = [action["index"]["_id"] for action in told[::2]]
    assert told[1::2] == plain(published(weeks.output))
    assert ids == [f"{row['asset_id']}:{row['prompt_id']}" for row in told[1::2]]
    assert max(map(len, ids)) <= 512
    assert (tmp_path / "part-00000.ndjson").read_bytes().endswith(b"}\n")


def test_the_mapping_has_every_column(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "opensearch")
    mapped = json.loads((tmp_path / "mapping.json").read_text())["mappings"]["properties"]

    assert mapped.keys() == next(published(weeks.output)).keys()
    assert mapped["caption_text"] == {"type": "text"}
    assert {mapped[name]["type"] for name in ("created_at", "frame_pts_s", "flags")} == {
        "date",
        "double",
        "keyword",
    }


def test_parts_stay_below_their_limit() -> None:
    written: dict[str, bytes] = {}
    stretches = [b"1\n" * 10, b"2\n" * 10, b"3\n" * 10, b"4\n" * 50, b"5\n"]
    n = parts(stretches, "{}", 40, written.__setitem__)

    assert n == len(written) == 4
    assert b"".join(written.values()) == b"".join(stretches)
    assert [len(data) for data in written.values()] == [40, 20, 100, 2]


def test_sidecars_are_read_by_webdataset(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "webdataset")
    samples = [sample for path in tmp_path.rglob("*.tar") for sample in read(path)]

    rows = {(row["key"], row["prompt_id"]): row for row in plain(published(weeks.output))}
    told = {(sample["__key__"], json.loads(sample["json"])["prompt_id"]): sample for sample in samples}
    assert {pair: json.loads(sample["json"]) for pair, sample in told.items()} == rows
    assert all(sample["txt"].decode() == rows[pair]["caption_text"] for pair, sample in told.items())


def read(path: Path) -> list[dict[str, Any]]:
    """The samples, as webdataset makes them."""
    with path.open("rb") as file:  # webdataset's own opening never closes
        members = [{"url": str(path), "stream": file}]
        return list(tariterators.group_by_keys(tariterators.tar_file_expander(members)))


def test_sidecars_lie_beside_their_shards(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "webdataset")
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tar")}

    assert names == {"short/a/1.tar", "long/a/0.tar"}
    assert members(tmp_path / "short/a/1.tar") == sorted(members(tmp_path / "short/a/1.tar"))


def members(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


@pytest.mark.parametrize(
    ("prompt", "shard", "number", "name"),
    [
        ("short", "a/b.tar", 0, "short/a/b.tar"),
        ("short", "a/b.tar", 2, "short/a/b+2.tar"),
        ("short", "a/b+2.tar", 0, "short/a/b%2B2.tar"),
        ("..", "../../x.tar", 0, "%2E%2E/%2E%2E/%2E%2E/x.tar"),
        (".", "/etc/passwd", 0, "%2E/%/etc/passwd.tar"),
        ("short", "photos", 0, "short/photos.tar"),
        ("short", "", 0, "short/%.tar"),
        ("short", "a\\b\0\n.parquet", 0, "short/a%5Cb%00%0A.parquet.tar"),
    ],
)
def test_no_shard_leads_out_of_the_folder(prompt: str, shard: str, number: int, name: str) -> None:
    assert tar_name(prompt, shard, number) == name


def test_a_large_shard_goes_on_in_another_tar(
    weeks: Weeks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.export.sidecars.TAR_BYTES", 1000)
    export(weeks.output, tmp_path, "webdataset")

    assert len(list(tmp_path.glob("short/a/*.tar"))) == 3
    names = [name for path in tmp_path.rglob("*.tar") for name in members(path)]
    assert len(set(names)) == len(names) == 2 * len(HOSTILE)


@pytest.mark.slow
def test_a_hugging_face_folder_is_loaded_by_datasets(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path / "hub", "huggingface")
    script = "import datasets, json, sys\nfolder, cache = sys.argv[1:]\n"
    script += "rows = datasets.load_dataset(folder, split='train', cache_dir=cache)\n"
    script += "print(json.dumps([[row['key'], row['caption_text'], str(row['created_at'])] for row in rows]))"
    command = [sys.executable, "-c", script, str(tmp_path / "hub"), str(tmp_path / "cache")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )

    rows = [[r["key"], r["caption_text"], str(r["created_at"])] for r in published(weeks.output)]
    assert json.loads(done.stdout) == rows
    assert "Ignoring" not in done.stderr


def test_the_card_says_what_and_leaves_the_license_open(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "huggingface")
    card = (tmp_path / "README.md").read_text()

    assert f"{len(HOSTILE)} captions of {len(HOSTILE)} images" in card
    assert weeks.runs[-1] in card
    assert "license: yours to choose" in card
    assert "\nlicense:" not in card
    assert "failures" not in card.partition("| column")[0]  # there are none


def rows_of(uri: Path | str) -> list[dict[str, Any]]:
    """What LanceDB has, in the order of the published table."""
    rows: list[dict[str, Any]] = lancedb.connect(str(uri)).open_table("captions").to_arrow().to_pylist()
    return sorted(rows, key=lambda row: (row["asset_id"], row["prompt_id"]))


def same(rows: list[dict[str, Any]]) -> str:
    return repr(rows)  # a NaN is not equal to itself


def test_lancedb_has_the_table_and_follows_it(tmp_path: Path) -> None:
    weeks = Weeks(str(tmp_path / "out"))
    for captions in WEEKS:
        weeks.publish(captions)
        since = ("--since", weeks.runs[-2]) if len(weeks.runs) > 1 else ()
        export(weeks.output, tmp_path / "lance", "lancedb", *since)

        assert same(rows_of(tmp_path / "lance")) == same(list(published(weeks.output)))


def test_lancedb_is_made_anew_without_since(weeks: Weeks, tmp_path: Path) -> None:
    for _ in range(2):
        export(weeks.output, tmp_path, "lancedb")

    assert same(rows_of(tmp_path)) == same(list(published(weeks.output)))


def followed(folder: Path, index: dict[str, str], form: str) -> dict[str, str]:
    """An index that loads the lines one after the other, as its reader would."""
    if form == "jsonl":
        for row in lines(folder, "jsonl"):
            key = f"{row['asset_id']}:{row['prompt_id']}"
            index.pop(key, None) if "removed" in row else index.update({key: row["caption_text"]})
        return index
    todo = iter(lines(folder, "ndjson"))
    for action in todo:
        if "delete" in action:
            index.pop(action["delete"]["_id"], None)
        else:
            index[action["index"]["_id"]] = next(todo)["caption_text"]
    return index


@pytest.mark.parametrize("form", ["jsonl", "opensearch"])
@pytest.mark.parametrize("seen", [(0, 1, 2, 3), (0, 2, 3)], ids=["all", "one skipped"])
def test_lines_since_a_run_lead_to_the_table(tmp_path: Path, form: str, seen: tuple[int, ...]) -> None:
    weeks, at = Weeks(str(tmp_path / "out")), ""
    index: dict[str, str] = {}
    for number, captions in enumerate(WEEKS):
        weeks.publish(captions)
        if number not in seen:
            continue
        folder = tmp_path / f"week{number}"
        export(weeks.output, folder, form, *(("--since", at) if at else ()))
        index, at = followed(folder, index, form), weeks.runs[-1]

        rows = published(weeks.output)
        assert index == {f"{r['asset_id']}:{r['prompt_id']}": r["caption_text"] for r in rows}


def test_a_run_that_did_not_lead_here_is_a_usage_error(weeks: Weeks, tmp_path: Path) -> None:
    done = invoke(weeks.output, str(tmp_path), "--to", "jsonl", "--since", "f" * 16)

    assert done.exit_code == 2
    assert "make the index anew" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "webdataset", "--since", "0" * 16], "no way to say what was removed"),
        (["--to", "huggingface", "--since", "0" * 16], "no way to say what was removed"),
    ],
)
def test_what_a_format_cannot_do_is_said(weeks: Weeks, tmp_path: Path, options: list[str], said: str) -> None:
    done = invoke(weeks.output, str(tmp_path), *options)

    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize("form", ["webdataset", "huggingface", "lancedb"])
def test_only_lines_go_to_standard_output(weeks: Weeks, form: str) -> None:
    assert invoke(weeks.output, "-", "--to", form).exit_code == 2


@pytest.mark.parametrize("place", ["", "captions", "new/folder"])
def test_nothing_is_written_into_the_output(weeks: Weeks, place: str) -> None:
    before = {entry.name for entry in storage.listing(weeks.output)}

    assert invoke(weeks.output, storage.join(weeks.output, place), "--to", "jsonl").exit_code == 2
    assert {entry.name for entry in storage.listing(weeks.output)} == before


def test_a_folder_with_other_files_is_left_alone(weeks: Weeks, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    done = invoke(weeks.output, str(tmp_path), "--to", "jsonl", "--replace")

    assert done.exit_code == 2
    assert "name an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_export_that_is_there_is_not_written_again(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "jsonl")
    before = (tmp_path / "part-00000.jsonl").stat().st_mtime_ns

    assert "it is there already" in export(weeks.output, tmp_path, "jsonl").stderr
    assert (tmp_path / "part-00000.jsonl").stat().st_mtime_ns == before


def test_another_export_is_replaced_only_when_asked(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "jsonl")
    (tmp_path / "part-00001.jsonl").write_bytes(b"of a larger table")
    uri = str(tmp_path)

    assert invoke(weeks.output, uri, "--to", "jsonl", "--since", weeks.runs[0]).exit_code == 2
    export(weeks.output, uri, "jsonl", "--since", weeks.runs[0], "--replace")
    assert lines(tmp_path, "jsonl") == []


def test_an_export_that_was_interrupted_says_so_and_is_gone_on_with(weeks: Weeks, tmp_path: Path) -> None:
    export(weeks.output, tmp_path, "jsonl")
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "export.json").rename(tmp_path / "export-unfinished.json")
    (tmp_path / "part-00000.jsonl").write_bytes(b"half")
    (tmp_path / "part-00009.jsonl").write_bytes(b"of an earlier table")

    export(weeks.output, tmp_path, "jsonl")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_an_interrupted_export_does_not_look_whole(weeks: Weeks, tmp_path: Path) -> None:
    """The first of two files cannot be written: a folder is in its place."""
    (tmp_path / "export-unfinished.json").write_text("{}")
    (tmp_path / "part-00000.jsonl" / "in the way").mkdir(parents=True)
    done = invoke(weeks.output, str(tmp_path), "--to", "jsonl")

    assert done.exit_code == 1
    assert not (tmp_path / "export.json").exists()
    assert (tmp_path / "export-unfinished.json").exists()


@pytest.mark.parametrize("form", ["jsonl", "opensearch", "webdataset", "huggingface"])
def test_s3_to_s3(s3: str, form: str) -> None:
    weeks = Weeks(f"{s3}/out")
    weeks.publish(WEEKS[0])
    export(weeks.output, f"{s3}/there", form)

    told = json.loads(storage.read(f"{s3}/there/export.json"))
    there = {entry.name: entry.size for entry in storage.listing(f"{s3}/there")}
    assert {file["path"]: file["bytes"] for file in told["files"]} | {
        "export.json": there["export.json"]
    } == there
    assert told["captions"] == len(WEEKS[0])
