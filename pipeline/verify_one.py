"""One asset of a published table: whether its rows are those that plan, index and recipe ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import papers, storage
from pipeline.columns import CAPTIONS, FAILURES
from pipeline.commit import manifest_uri
from pipeline.findings import Finding, Kind
from pipeline.index import read_index
from pipeline.lookup import Row
from pipeline.own_facts import OwnFacts
from pipeline.record import NAME, Record
from pipeline.remake import rows_of_indexes
from pipeline.types import Asset, Clip, Media, Problem

Rows = Sequence[dict[str, Any]]


def place(record: Record, rows: Sequence[Row]) -> tuple[int, Asset] | None:
    """Where the asset stands among those of all indexes in order, and its index row; None where it does not."""
    paths = [shard["path"] for shard in record.shards]
    if rows[0]["shard"] not in paths:
        return None
    number, asset_id = paths.index(rows[0]["shard"]), rows[0]["asset_id"]
    index = storage.join(record.output, "index", record.indexes[number])
    found = pc.index(papers.read(index, ["asset_id"])["asset_id"], asset_id).as_py()
    if found < 0:
        return None
    return sum(rows_of_indexes(record)[:number]) + found, read_index(index, found, 1)[0]


def findings(record: Record, captions: Rows, failures: Rows) -> Iterator[Finding]:
    """What contradicts itself, the recipe or the index in the rows of one asset."""
    rules = OwnFacts(record, {row["run_id"] for row in (*captions, *failures) if _ran(record, row)})
    for name, rows, schema in (("captions", captions, CAPTIONS), ("failures", failures, FAILURES)):
        yield from rules.findings(
            name, f"{name}, of this asset,", 0, pa.Table.from_pylist(list(rows), schema=schema)
        )
    rows = [*captions, *failures]
    found = place(record, rows)
    if found is None:
        yield Finding(
            Kind.INDEX, "index", "the plan of the published run does not have this asset", rows[0]["asset_id"]
        )
        return
    yield from _as_indexed(found[1], rows)
    yield from _asked(record, found[1], captions, failures)


def _ran(record: Record, row: Row) -> bool:
    """Whether the row's run is one of this output."""
    return bool(NAME.fullmatch(row["run_id"])) and storage.exists(manifest_uri(record.output, row["run_id"]))


def _as_indexed(asset: Asset, rows: Rows) -> Iterator[Finding]:
    facts = asset.facts
    size = facts.size if isinstance(facts, Clip) else facts[0] if isinstance(facts, tuple) and facts else None
    told: dict[str, object] = {"key": asset.key, "media": asset.media, "content_sha256": asset.sha256 or None}
    told |= {"content_bytes": asset.bytes}
    told |= {"width": size.width, "height": size.height} if size else {}
    told |= {"duration_s": facts.duration_s} if isinstance(facts, Clip) else {}
    told |= {"error_code": facts.code} if isinstance(facts, Problem) else {}
    for row in rows:
        for name, value in told.items():
            if name in row and row[name] != value:
                said = f"{name} is {row[name]}, the index says {value}"
                yield Finding(Kind.INDEX, "its row", said, asset.asset_id, row["prompt_id"])


def _asked(record: Record, asset: Asset, captions: Rows, failures: Rows) -> Iterator[Finding]:
    """Whether each prompt that is due has one row, or the whole asset one failure."""
    due = sorted(p.id for p in record.prompts if asset.media and p.asked(Media(asset.media)))
    answered = sorted(row["prompt_id"] or "" for row in (*captions, *failures))
    if answered != [""] and (not due or answered != due):
        said = f"rows under {answered}, expected {due} or one failure"
        yield Finding(Kind.CONSERVATION, "its rows", said, asset.asset_id)
