"""The rows that a run takes over: those of the table before that stand, and copies of rows with the same bytes.

A range of asset_id at a time. A row that stands keeps its run, its recipe and its unit; a row that is new, or says
something else than before, has this run's id, so that the rows of a run are what a search index has to take in.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import papers, storage
from pipeline.columns import CAPTIONS, FAILURES, PART, between, split_part, to_part
from pipeline.commit import manifest_uri
from pipeline.plan import Carried
from pipeline.provenance import NAMESPACE
from pipeline.standing import NO_MEDIA, Standing

REMOVED = pa.schema(
    [
        pa.field(name, pa.string(), metadata={"description": description})
        for name, description in (
            ("asset_id", "of a row that the table before had and this one has not"),
            ("prompt_id", "its prompt; null where the asset had only a failure under none"),
            (
                "reason",
                "left: the asset left the input; failed: it has no caption now; prompt: it is not asked",
            ),
        )
    ]
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Of one range: all rows of the table, of schema `PART`, and what the table before had and this one has not."""

    table: pa.Table
    removed: pa.Table


class Carry:
    """Adds what is taken over to the rows that a run made itself."""

    def __init__(self, output: str, run_id: str, carried: Carried) -> None:
        self._output, self._run_id = output, run_id
        self._rule = carried.standing
        self._files = _files(output, carried.base) if carried.base else {}
        self._dropped = self._paper(papers.dropped_uri, papers.DROPPED, carried.dropped)
        self._copies = self._paper(papers.copies_uri, papers.COPIES, carried.copies)

    def originals(self, low: str, high: str) -> pa.Array:
        """Ids of assets, of whatever range, whose rows are copied into this one."""
        return pc.unique(pc.drop_null(_between(self._copies, low, high)["of"])).cast(pa.string())

    def rows(self, made: pa.Table, low: str, high: str) -> Rows:
        """The table's rows in [low, high), in no order.

        `made` has the run's own rows of the range and of its `originals`.
        """
        had = self._before(low, high)
        own = pa.concat_tables([made, self._stands(had, made)])
        copies = _between(self._copies, low, high)
        mine = _between(own, low, high)
        copied = pc.is_in(
            mine["asset_id"], copies.filter(pc.is_valid(copies["of"]))["asset_id"].combine_chunks()
        )
        table = pa.concat_tables(
            [self._alone(mine.filter(pc.invert(copied)), copies), self._copied(own, copies)]
        )
        return Rows(table, self._removed(_between(had, low, high), table))

    def _paper(self, uri: Any, schema: pa.Schema, rows: int) -> pa.Table:
        return papers.read(uri(self._output, self._run_id)) if rows else schema.empty_table()

    def _before(self, low: str, high: str) -> pa.Table:
        """Rows of the table before, in the range and of its originals."""
        if self._rule is None:
            return PART.empty_table()
        wanted = self.originals(low, high).to_pylist()
        tables = [
            self._read(name, schema, low, high, wanted)
            for name, schema in (("captions", CAPTIONS), ("failures", FAILURES))
        ]
        return to_part(*tables)

    def _read(self, name: str, schema: pa.Schema, low: str, high: str, wanted: Sequence[str]) -> pa.Table:
        found = [schema.empty_table()]
        for file in self._files[name]:
            first, last = file["min_asset_id"], file["max_asset_id"]
            if file["rows"] and ((first < high and last >= low) or any(first <= i <= last for i in wanted)):
                rows = papers.read(storage.join(self._output, file["path"])).cast(schema)
                inside = between(rows["asset_id"], low, high)
                found.append(
                    rows.filter(pc.or_(inside, pc.is_in(rows["asset_id"], pa.array(wanted, pa.string()))))
                )
        return pa.concat_tables(found)

    def _stands(self, had: pa.Table, made: pa.Table) -> pa.Table:
        """Those of the rows before that the run did not make anew, of assets that did not change."""
        if self._rule is None:
            return had
        kept = pc.invert(pc.is_in(had["asset_id"], self._dropped["asset_id"].combine_chunks()))
        anew = pc.is_in(_keys(had), _keys(made))
        return had.filter(pc.and_(pc.and_not(kept, anew), _by_rule(had, self._rule)))

    def _alone(self, rows: pa.Table, copies: pa.Table) -> pa.Table:
        """Rows of which some were copies, and stand for themselves from now on."""
        freed = copies.filter(pc.is_null(copies["of"]))["asset_id"].combine_chunks()
        changed = pc.and_(pc.is_in(rows["asset_id"], freed), pc.is_valid(rows["duplicate_of"]))
        return _replaced(
            rows,
            duplicate_of=pc.if_else(changed, pa.scalar(None, pa.string()), rows["duplicate_of"]),
            run_id=pc.if_else(changed, self._run_id, rows["run_id"]),
        )

    def _copied(self, own: pa.Table, copies: pa.Table) -> pa.Table:
        """For each copy the rows of its original, under its own name; as they were, where neither has changed."""
        copies = copies.filter(pc.is_valid(copies["of"]))
        if not len(copies):
            return own.slice(0, 0)
        source = own.sort_by("asset_id")
        ids = source["asset_id"].to_numpy()
        firsts, stops = (np.searchsorted(ids, copies["of"].to_numpy(), side) for side in ("left", "right"))
        counts = stops - firsts
        copy = copies.take(np.repeat(np.arange(len(copies)), counts))
        places = (
            np.arange(counts.sum())
            - np.repeat(np.cumsum(counts) - counts, counts)
            + np.repeat(firsts, counts)
        )
        rows = source.take(places)
        is_caption = pc.equal(rows["row"], "caption")
        renamed = _replaced(
            rows,
            asset_id=copy["asset_id"],
            asset_uuid=pa.array([str(uuid.uuid5(NAMESPACE, i)) for i in copy["asset_id"].to_pylist()]),
            shard=copy["shard"],
            key=copy["key"],
            duplicate_of=pc.if_else(is_caption, copy["of"], pa.scalar(None, pa.string())),
            run_id=pa.array([self._run_id] * len(rows), pa.string()),
        )
        return self._settled(renamed, rows, own)

    def _settled(self, renamed: pa.Table, rows: pa.Table, own: pa.Table) -> pa.Table:
        """The copies, but where the original's row stands and the copy has a row already, that row."""
        old = pc.not_equal(rows["run_id"], self._run_id)
        standing = own.filter(pc.not_equal(own["run_id"], self._run_id))
        wanted = pc.binary_join_element_wise(_keys(renamed), pc.fill_null(renamed["duplicate_of"], ""), "\n")
        there = pc.binary_join_element_wise(_keys(standing), pc.fill_null(standing["duplicate_of"], ""), "\n")
        kept = pc.and_(old, pc.is_in(wanted, there.combine_chunks()))
        stay = standing.filter(pc.is_in(there, wanted.filter(kept).combine_chunks()))
        return pa.concat_tables([renamed.filter(pc.invert(kept)), stay])

    def _removed(self, had: pa.Table, table: pa.Table) -> pa.Table:
        """What was there and is not any more; of failures only those of assets that left."""
        gone = pc.invert(pc.is_in(had["asset_id"], table["asset_id"].combine_chunks()))
        captions, failures = split_part(table)
        lost = pc.and_not(pc.equal(had["row"], "caption"), pc.is_in(_keys(had), _keys(captions)))
        rows = had.filter(pc.or_(gone, lost))
        failed = pc.or_(
            pc.is_in(_keys(rows), _keys(failures)),
            pc.is_in(
                rows["asset_id"],
                failures.filter(pc.is_null(failures["prompt_id"]))["asset_id"].combine_chunks(),
            ),
        )
        left = pc.invert(pc.is_in(rows["asset_id"], table["asset_id"].combine_chunks()))
        reason = pc.if_else(left, "left", pc.if_else(failed, "failed", "prompt"))
        return pa.table([rows["asset_id"], rows["prompt_id"], reason], schema=REMOVED)


def _by_rule(rows: pa.Table, rule: Standing) -> pa.ChunkedArray:
    """Which rows are under prompts that stay, or failures that do."""
    media = pc.fill_null(rows["media"], NO_MEDIA)
    under = pc.binary_join_element_wise(media, pc.fill_null(rows["prompt_id"], ""), "\n")
    stay = [f"{kind}\n{prompt}" for kind, prompts in rule.stays.items() for prompt in prompts]
    stay += [f"{kind}\n" for kind, failures in rule.failures.items() if failures]
    return pc.is_in(under, pa.array(stay, pa.string()))


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    """Asset and prompt of each row as one text."""
    return pc.binary_join_element_wise(
        rows["asset_id"], pc.fill_null(rows["prompt_id"], ""), "\n"
    ).combine_chunks()


def _between(rows: pa.Table, low: str, high: str) -> pa.Table:
    return rows.filter(between(rows["asset_id"], low, high))


def _replaced(rows: pa.Table, **columns: pa.ChunkedArray | pa.Array) -> pa.Table:
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
    return rows


def _files(output: str, base: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    snapshot = json.loads(storage.read(manifest_uri(output, base)))["snapshot"]
    return {name: snapshot[name]["files"] for name in ("captions", "failures")}
