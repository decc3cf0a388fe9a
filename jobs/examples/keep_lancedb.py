"""Keep a LanceDB table in step with the captions that captionmill publishes, week after week.

    pip install lancedb
    python keep_lancedb.py captionmill-demo/captions index.lancedb

Nothing of captionmill is needed: this is what its output promises. The run that the table is at is noted last, and the
same step taken twice does no harm, so it can be killed at any moment. Both places may be s3://…
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import lancedb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

COLUMNS = ["asset_id", "prompt_id", "shard", "key", "caption_text"]
AT_ONCE = 1_000  # keys of one deletion


def keep(output: str, index: str) -> str:
    """Bring the table `captions` of the database `index` to the published run. Returns what was done."""
    files, root = fs.FileSystem.from_uri(output if "://" in output else os.path.abspath(output))
    store = fs.SubTreeFileSystem(root, files)
    db = lancedb.connect(index)
    now = read(store, "snapshot.json")
    captions = ds.dataset([file["path"] for file in now["captions"]["files"]], filesystem=store)
    steps = way(store, now, at(db))
    if steps is None:
        db.create_table("captions", captions.scanner(columns=COLUMNS).to_reader(), mode="overwrite")
    else:
        table = db.open_table("captions")
        for step in steps:
            delete(table, pq.read_table(step["removed"]["path"], filesystem=store).to_pylist())
        runs = pa.array([step["run_id"] for step in steps], pa.string())
        changed = ds.field("run_id").isin(runs)
        put = table.merge_insert(["asset_id", "prompt_id"])
        put = put.when_matched_update_all().when_not_matched_insert_all()
        put.execute(captions.scanner(columns=COLUMNS, filter=changed).to_reader())
    db.create_table("state", [{"run_id": now["run_id"]}], mode="overwrite")
    return (
        f"made anew at run {now['run_id']}" if steps is None else f"{len(steps)} runs on, at {now['run_id']}"
    )


def at(db: lancedb.DBConnection) -> str | None:
    """The run that the table is at."""
    if "state" not in db.list_tables().tables:
        return None
    run_id: str = db.open_table("state").to_arrow()["run_id"][0].as_py()
    return run_id


def way(store: fs.FileSystem, now: dict[str, Any], at: str | None) -> list[dict[str, Any]] | None:
    """The snapshots after run `at`, oldest first; None where it did not lead to this one."""
    steps: list[dict[str, Any]] = []
    while now["run_id"] != at:
        steps.insert(0, now)
        if at is None or now["previous_run_id"] is None:
            return None
        try:
            now = read(store, f"runs/{now['previous_run_id']}/manifest.json")["snapshot"]
        except FileNotFoundError:
            return None
    return steps


def delete(table: lancedb.table.Table, removed: list[dict[str, str]]) -> None:
    """Delete the captions with these keys."""
    for prompt in {row["prompt_id"] for row in removed if row["prompt_id"]}:
        ids = [f"'{row['asset_id']}'" for row in removed if row["prompt_id"] == prompt]
        for first in range(0, len(ids), AT_ONCE):
            some = ", ".join(ids[first : first + AT_ONCE])
            table.delete(f"prompt_id = '{prompt}' AND asset_id IN ({some})")


def read(store: fs.FileSystem, path: str) -> dict[str, Any]:
    """A JSON document."""
    with store.open_input_stream(path) as file:
        document: dict[str, Any] = json.load(file)
    return document


if __name__ == "__main__":
    print(keep(*sys.argv[1:]))
