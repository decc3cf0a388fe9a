"""The papers that a run's plan stands on: tables of the output's own, beside `plan.json`."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import parquet, storage

ROW_GROUP = 1024  # rows; of an index a unit of 256 assets reads one or two groups, about 100 KB
COPIES = pa.schema(
    [(name, pa.string()) for name in ("asset_id", "of", "shard", "key")]
)  # `of`: null for a row that was a copy and stands for itself from now on
DROPPED = pa.schema([("asset_id", pa.string()), ("reason", pa.string())])  # left, changed, again


def plan_uri(output: str, run_id: str) -> str:
    """Where a run's plan is."""
    return storage.join(output, "runs", run_id, "plan.json")


def copies_uri(output: str, run_id: str) -> str:
    """Where a run says which of its rows are copies."""
    return storage.join(output, "runs", run_id, "copies.parquet")


def dropped_uri(output: str, run_id: str) -> str:
    """Where a run says which assets of the table before it do not stand."""
    return storage.join(output, "runs", run_id, "dropped.parquet")


def read(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet object of the output, whole."""
    return parquet.read(storage.read(uri), columns)


def put(uri: str, table: pa.Table) -> None:
    """Write such an object."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP)
    storage.put(uri, sink.getvalue())
