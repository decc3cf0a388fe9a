"""A sample of the published assets to look at: half of it evenly drawn, half so that every kind of row is in it.

An asset_id is a digest, so the first assets from any id on are as good a draw as any; the seed says from where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.columns import CAPTIONS
from pipeline.publish import File
from pipeline.readback import opened
from pipeline.tally import size_bins

EACH = 24  # assets held of each kind of row
COLUMNS = [name for name in CAPTIONS.names if name not in ("asset_uuid", "caption")]  # caption_text is shown
Facet = tuple[str, pa.Array, np.ndarray]  # name of the property, its values, and the rows that have them


def start(seed: int) -> str:
    """The asset_id from which on a seed draws."""
    return hashlib.blake2b(str(seed).encode(), digest_size=16).hexdigest()


def from_id(output: str, files: Sequence[File], first: str) -> Iterator[pa.Table]:
    """The captions of all `files`, `COLUMNS` of them, from asset_id `first` to the end and then those before it.

    A row group at a time, but all rows of an asset together.
    """
    later = [f for f in files if f.rows and str(f.max_asset_id) >= first]
    sooner = [f for f in files if f.rows and str(f.min_asset_id) < first]
    for some, after in ((later, True), (sooner, False)):
        held = CAPTIONS.empty_table().select(COLUMNS)
        for rows in _groups(output, some, first, after=after):
            rows = pa.concat_tables([held, rows])
            whole = len(rows) - _of_last(rows["asset_id"])
            yield rows.slice(0, whole)
            held = rows.slice(whole)
        yield held


def _groups(output: str, files: Iterable[File], first: str, *, after: bool) -> Iterator[pa.Table]:
    for file in files:
        with opened(storage.join(output, file.path)) as parquet:
            for group in range(parquet.num_row_groups):
                ids = parquet.metadata.row_group(group).column(0).statistics
                if ids is not None and ids.has_min_max and (ids.max < first if after else ids.min >= first):
                    continue
                rows = parquet.read_row_group(group, COLUMNS, use_threads=False).replace_schema_metadata(None)
                here = pc.greater_equal(rows["asset_id"], first)
                yield rows.filter(here if after else pc.invert(here))


def _of_last(ids: pa.ChunkedArray) -> int:
    """How many rows at the end are of the last asset."""
    return int(pc.sum(pc.equal(ids, ids[-1])).as_py()) if len(ids) else 0


class Sampler:
    """Takes candidates from rows as they come; `wanted` are asset_ids whose rows are kept in any case."""

    def __init__(self, count: int, wanted: Iterable[str] = ()) -> None:
        self._count = count
        self._wanted = pa.array(sorted(wanted), pa.string())
        self._evenly: dict[str, None] = {}
        self._found: dict[tuple[str, str], dict[str, None]] = {}
        self._rows: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Captions in the order of `from_id`, all rows of an asset together."""
        ids = rows["asset_id"].combine_chunks()
        new: set[str] = set()
        if (open_places := self._count - len(self._evenly)) > 0:
            new.update(_take(self._evenly, ids.slice(0, open_places * 64).to_pylist(), self._count))
        for name, values, where in facets(rows):
            coded = values.dictionary_encode()
            codes = coded.indices.to_numpy(zero_copy_only=False)
            for code, value in enumerate(coded.dictionary.to_pylist()):
                have = self._found.setdefault((name, value), {})
                if len(have) < EACH:
                    some = where[np.flatnonzero(codes == code)[: EACH * 64]]
                    new.update(_take(have, ids.take(pa.array(some)).to_pylist(), EACH))
        kept = pa.concat_arrays([pa.array(sorted(new), pa.string()), self._wanted])
        self._rows.append(rows.filter(pc.is_in(rows["asset_id"], value_set=kept)))

    def chosen(self) -> tuple[list[str], pa.Table]:
        """At most `count` asset_ids, of both halves by turns, and the rows of these and of the wanted ones."""
        turns = zip_longest(*(self._found[kind] for kind in sorted(self._found)))
        by_turns = dict.fromkeys(asset_id for turn in turns for asset_id in turn)
        pairs = zip_longest(self._evenly, by_turns)
        both = dict.fromkeys(asset_id for pair in pairs for asset_id in pair)
        ids = [asset_id for asset_id in both if asset_id is not None][: self._count]
        kept = pa.concat_arrays([pa.array(ids, pa.string()), self._wanted])
        table = pa.concat_tables([CAPTIONS.empty_table().select(COLUMNS), *self._rows])
        return ids, table.filter(pc.is_in(table["asset_id"], value_set=kept))


def _take(have: dict[str, None], ids: Iterable[str], most: int) -> Iterator[str]:
    """Those that `have` had room for."""
    for asset_id in ids:
        if len(have) >= most:
            return
        if asset_id not in have:
            have[asset_id] = None
            yield asset_id


def facets(rows: pa.Table) -> Iterator[Facet]:
    """The properties whose every value a sample should show."""
    plain = np.arange(len(rows))
    yield "media", rows["media"].combine_chunks(), plain
    yield "prompt", rows["prompt_id"].combine_chunks(), plain
    yield "recipe", rows["recipe_id"].combine_chunks(), plain
    yield "size", pc.cast(pa.array(size_bins(rows)), pa.string()), plain
    lists = rows["flags"].combine_chunks()
    yield "flag", lists.flatten(), pc.list_parent_indices(lists).to_numpy()
    copies = pc.fill_null(pc.is_valid(rows["duplicate_of"]), False)
    yield _where("copy", copies, pa.array(["copy"] * len(rows), pa.string()))
    columns = (pc.cast(rows[name], pa.string()) for name in ("grid_rows", "grid_cols"))
    grids = pc.binary_join_element_wise(*columns, "x").combine_chunks()
    yield _where("grid", pc.is_valid(grids), grids)


def _where(name: str, mask: pa.ChunkedArray | pa.Array, values: pa.Array) -> Facet:
    places = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
    return name, values.take(pa.array(places)), places


def by_asset(table: pa.Table) -> Mapping[str, list[dict[str, object]]]:
    """Rows by asset_id."""
    found: dict[str, list[dict[str, object]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["asset_id"], []).append(row)
    return found
