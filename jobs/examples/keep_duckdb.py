"""Keep a DuckDB table in step with the captions that captionmill publishes, week after week.

    pip install duckdb
    python keep_duckdb.py captionmill-demo/captions index.duckdb
    duckdb index.duckdb "SELECT key, caption_text FROM captions WHERE caption_text ILIKE '%green cross%'"

Nothing of captionmill is needed: this is what its output promises, in SQL over its files. The table and the run that it
is at change in one transaction, so it can be killed at any moment. OUTPUT may be s3://… where DuckDB has its httpfs.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import duckdb

COLUMNS = "asset_id, prompt_id, shard, key, caption_text"
TABLES = f"""
CREATE TABLE IF NOT EXISTS captions AS SELECT {COLUMNS} FROM read_parquet($files) LIMIT 0;
CREATE TABLE IF NOT EXISTS state (run_id VARCHAR);
"""
DELETE_REMOVED = """
DELETE FROM captions USING read_parquet($removed) AS gone
WHERE captions.asset_id = gone.asset_id AND captions.prompt_id = gone.prompt_id
"""
DELETE_CHANGED = """
DELETE FROM captions USING read_parquet($files) AS new
WHERE captions.asset_id = new.asset_id AND captions.prompt_id = new.prompt_id AND list_contains($runs, new.run_id)
"""
INSERT_CHANGED = (
    f"INSERT INTO captions SELECT {COLUMNS} FROM read_parquet($files) WHERE list_contains($runs, run_id)"
)
INSERT_ALL = f"INSERT INTO captions SELECT {COLUMNS} FROM read_parquet($files)"


def keep(output: str, index: str) -> str:
    """Bring the table `captions` of the database `index` to the published run. Returns what was done."""
    with duckdb.connect(index) as db:
        now = read(db, f"{output}/snapshot.json")
        files = [f"{output}/{file['path']}" for file in now["captions"]["files"]]
        db.begin()
        for statement in TABLES.strip().splitlines():
            db.execute(statement, {"files": files} if "$files" in statement else None)
        at = db.execute("SELECT run_id FROM state").fetchall()
        steps = way(db, output, now, at[0][0] if at else None)
        if steps is None:
            db.execute("DELETE FROM captions")
            db.execute(INSERT_ALL, {"files": files})
        else:
            for step in steps:
                db.execute(DELETE_REMOVED, {"removed": f"{output}/{step['removed']['path']}"})
            changed = {"files": files, "runs": [step["run_id"] for step in steps]}
            db.execute(DELETE_CHANGED, changed)
            db.execute(INSERT_CHANGED, changed)
        db.execute("DELETE FROM state")
        db.execute("INSERT INTO state VALUES (?)", [now["run_id"]])
        db.commit()
    return (
        f"made anew at run {now['run_id']}" if steps is None else f"{len(steps)} runs on, at {now['run_id']}"
    )


def way(
    db: duckdb.DuckDBPyConnection, output: str, now: dict[str, Any], at: str | None
) -> list[dict[str, Any]] | None:
    """The snapshots after run `at`, oldest first; None where it did not lead to this one."""
    steps: list[dict[str, Any]] = []
    while now["run_id"] != at:
        steps.insert(0, now)
        if at is None or now["previous_run_id"] is None:
            return None
        try:
            now = read(db, f"{output}/runs/{now['previous_run_id']}/manifest.json")["snapshot"]
        except (FileNotFoundError, duckdb.IOException):
            return None
    return steps


def read(db: duckdb.DuckDBPyConnection, path: str) -> dict[str, Any]:
    """A JSON document; one that is not there is no row, or an error of DuckDB's, as its version will."""
    rows = db.execute("SELECT content FROM read_text(?)", [path]).fetchall()
    if not rows:
        raise FileNotFoundError(path)
    document: dict[str, Any] = json.loads(rows[0][0])
    return document


if __name__ == "__main__":
    print(keep(*sys.argv[1:]))
