"""Identical captions: how many rows share their words with another asset's, and which words those are.

One caption on thousands of rows is how a model at fault often looks: a wrong template, a blank picture, a lost prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.publish import File
from pipeline.readback import opened

MOST = 1_000_000  # different captions that are held: some 200 MB at 100 characters each
AT_ONCE = 131_072  # rows that are counted together; more often would count what is held again and again
FEW, MUCH, OFTEN = (
    10,
    0.01,
    20,
)  # rows; share of a prompt's rows; times as many as its captions have on average
SHOWN = 10  # of the captions on most rows
KEY = ["prompt_id", "caption_text"]
COLUMNS = ("asset_id", *KEY, "duplicate_of")  # that are looked at
COUNTED = pa.schema([*((name, pa.string()) for name in KEY), ("rows", pa.int64()), ("example", pa.string())])


@dataclass(frozen=True, slots=True)
class Repeated:
    """A caption on `rows` assets under one prompt; `example` is the asset_id of one of them."""

    prompt_id: str
    caption: str
    rows: int
    example: str


@dataclass(frozen=True, slots=True)
class Shared:
    """Of `rows` captions, `shared` are also another asset's under the same prompt; `largest` are on most rows.

    `exact` is False where there were more different captions than are held: both numbers are then at least these.
    `rows_of` and `distinct_of` count rows and different captions by prompt.
    """

    rows: int
    shared: int
    exact: bool
    largest: tuple[Repeated, ...]
    rows_of: Mapping[str, int]
    distinct_of: Mapping[str, int]

    @property
    def share(self) -> float:
        """Of the rows."""
        return self.shared / self.rows if self.rows else 0.0

    def suspicious(self) -> list[Repeated]:
        """Of the largest, those on more than `MUCH` of a prompt's rows and far more often than its captions are usual.

        A prompt that is answered in two words has few answers, each of them often: that is not suspicious.
        """
        return [found for found in self.largest if found.rows > self._usual(found.prompt_id)]

    def _usual(self, prompt_id: str) -> float:
        rows = self.rows_of[prompt_id]
        return max(FEW, MUCH * rows, OFTEN * rows / self.distinct_of[prompt_id])


class Identical:
    """Counts captions as they come. Copies of the same bytes (`duplicate_of`) are left out: theirs are the same."""

    def __init__(self, most: int = MOST, at_once: int = AT_ONCE) -> None:
        self._most, self._at_once = most, at_once
        self._waiting: list[pa.Table] = []
        self._counted = COUNTED.empty_table()
        self._rows: Counter[str] = Counter()
        self._exact = True

    def add(self, rows: pa.Table) -> None:
        """Rows of captions with `COLUMNS`."""
        own = rows.filter(pc.is_null(rows["duplicate_of"]))
        self._rows.update(_by_prompt(own))
        one = pa.array([1], pa.int64()).take(pa.array([0] * len(own), pa.int32()))
        columns = [own["prompt_id"], own["caption_text"], one, own["asset_id"]]
        self._waiting.append(pa.table(columns, schema=COUNTED))
        if sum(map(len, self._waiting)) >= self._at_once:
            self._count()

    def shared(self) -> Shared:
        """What was found in all that was added."""
        self._count()
        several = self._counted.filter(pc.greater(self._counted["rows"], 1))
        order = [("rows", "descending"), ("prompt_id", "ascending"), ("caption_text", "ascending")]
        largest = several.take(pc.select_k_unstable(several, SHOWN, order)).to_pylist()
        found = tuple(Repeated(*(row[name] for name in COUNTED.names)) for row in largest)
        shared, rows = pc.sum(several["rows"]).as_py() or 0, self._rows.total()
        return Shared(rows, shared, self._exact, found, self._rows, _by_prompt(self._counted))

    def _count(self) -> None:
        """What waits joins what is counted. Where that is too much, what was seen once so far is forgotten."""
        table = pa.concat_tables([self._counted, *self._waiting])
        self._waiting.clear()
        grouped = table.group_by(KEY, use_threads=False).aggregate([("rows", "sum"), ("example", "min")])
        self._counted = grouped.select([*KEY, "rows_sum", "example_min"]).rename_columns(COUNTED.names)
        if len(self._counted) > self._most:
            self._exact = False
            self._counted = self._counted.filter(pc.greater(self._counted["rows"], 1))


def glance(output: str, files: Sequence[File]) -> Shared:
    """Of the first row group of a published table: an even draw, for asset_ids are digests, of some 65,000 rows."""
    identical = Identical()
    for file in [file for file in files if file.rows][:1]:
        with opened(storage.join(output, file.path)) as parquet:
            identical.add(parquet.read_row_group(0, list(COLUMNS), use_threads=False))
    return identical.shared()


def _by_prompt(rows: pa.Table) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in rows["prompt_id"].value_counts().to_pylist()}
