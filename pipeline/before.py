"""The published table that a run starts from: its recipe, its shards, its failures, and which rows are copies."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import papers, storage
from pipeline.recipe import recipe_uri

READERS = 16


@dataclass(frozen=True, slots=True)
class Before:
    """`indexes` names the index object of each shard by the shard's path; `recipe` is as it was written down."""

    output: str
    snapshot: Mapping[str, Any]
    indexes: Mapping[str, str]
    recipe: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The run that published it."""
        return str(self.snapshot["run_id"])

    def index_uri(self, path: str) -> str:
        """Where the index of the shard of this path is."""
        return storage.join(self.output, "index", self.indexes[path])

    def copies(self) -> pa.Table:
        """Rows of schema `papers.COPIES`: assets whose captions are another's."""
        uri = papers.copies_uri(self.output, self.run_id)
        return papers.read(uri) if self.snapshot["copies"] else papers.COPIES.empty_table()

    def failures(self, columns: Sequence[str], codes: Collection[str] = ()) -> pa.Table:
        """These columns of the failures, of all or of those with these codes."""
        wanted = [*columns, *(["error_code"] if codes and "error_code" not in columns else [])]

        def read(file: Mapping[str, Any]) -> pa.Table:
            rows = papers.read(storage.join(self.output, file["path"]), wanted)
            chosen = rows.filter(pc.is_in(rows["error_code"], pa.array(sorted(codes)))) if codes else rows
            return chosen.select(list(columns)).replace_schema_metadata(None)

        with ThreadPoolExecutor(READERS) as pool:
            return pa.concat_tables(pool.map(read, self.snapshot["failures"]["files"]))


def load(output: str, snapshot: Mapping[str, Any]) -> Before:
    """The papers of the published run. StorageError where one is gone."""
    plan = json.loads(storage.read(papers.plan_uri(output, snapshot["run_id"])))
    indexes = {s["path"]: name for s, name in zip(plan["shards"], plan["indexes"], strict=True)}
    recipe = json.loads(storage.read(recipe_uri(output, snapshot["recipe_ids"][0])))
    return Before(output, snapshot, indexes, recipe)
