"""A LanceDB table of the captions. LanceDB writes it itself, with its own ways to a store and its own credentials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from jobs import interrupt
from jobs.needs import installed
from pipeline import storage
from pipeline.columns import CAPTIONS
from pipeline.delta import KEY, Delta
from pipeline.errors import ConfigError, StorageError

TABLE = "captions"
AT_ONCE = 1_000  # keys of one deletion


def write(delta: Delta, uri: str) -> None:
    """Make the table anew, or bring the one that is there in step.

    A new table appears at once. Deletions and captions come one after the other, and may be done again.
    """
    if not installed("lancedb"):
        raise ConfigError(["--to lancedb needs the package lancedb: pip install 'captionmill[lancedb]'"])
    import lancedb

    with _named(uri):
        database = lancedb.connect(uri)
        if delta.steps is None:
            database.create_table(TABLE, _captions(delta), mode="overwrite")
            return
        if TABLE not in database.list_tables().tables:
            where = storage.redact(uri)
            raise ConfigError(
                [f"there is no table {TABLE!r} in {where}: export all of it first, without --since"]
            )
        table = database.open_table(TABLE)
        for condition in _conditions(delta):
            table.delete(condition)
        put = table.merge_insert(list(KEY)).when_matched_update_all().when_not_matched_insert_all()
        put.execute(_captions(delta))


def _captions(delta: Delta) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(CAPTIONS, _batches(delta))


def _batches(delta: Delta) -> Iterator[pa.RecordBatch]:
    for batch in delta.captions(CAPTIONS.names):
        interrupt.check()
        yield batch.cast(CAPTIONS)


def _conditions(delta: Delta) -> Iterator[str]:
    """What to delete, in SQL."""
    for batch in delta.removed():
        for prompt in batch["prompt_id"].unique().to_pylist():
            ids = [row["asset_id"] for row in batch.to_pylist() if row["prompt_id"] == prompt]
            for first in range(0, len(ids), AT_ONCE):
                some = ", ".join(map(_quoted, ids[first : first + AT_ONCE]))
                yield f"prompt_id = {_quoted(prompt)} AND asset_id IN ({some})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """LanceDB's errors, without what they may quote of an address."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        said = storage.redact(str(error).replace(uri, storage.redact(uri)))
        raise StorageError(f"LanceDB cannot write {storage.redact(uri)}: {said[:300]}") from None
