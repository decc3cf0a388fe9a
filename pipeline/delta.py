"""What an index must do to come from an earlier run's table to the published one: rows to delete, then rows to put.

Every run publishes the whole table, in which rows that were kept still carry the `run_id` that they were made in, and
names in `removed/` the rows that the table before it had and this one has not. So the way from run A to the published
run goes back from snapshot to `previous_run_id` until A, and its delta is: first what was removed in the runs after
A, then the captions whose `run_id` is one of these runs. Rows are known by `asset_id` and `prompt_id`. Doing it twice,
or from a run before A, does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.columns import SCHEMA_VERSION
from pipeline.commit import manifest_uri
from pipeline.errors import IntegrityError, StorageError
from pipeline.publish import snapshot
from pipeline.readback import UNREADABLE, batches, opened

KEY = ("asset_id", "prompt_id")  # of a caption, in every table and index

Snapshot = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """The way from the snapshot `earlier` to the published one: `steps` are those after it, oldest first.

    Where both are None it begins with nothing: nothing is removed, and every caption is to be put.
    """

    output: str
    snapshot: Snapshot
    earlier: Snapshot | None
    steps: tuple[Snapshot, ...] | None

    @property
    def run_id(self) -> str:
        """The published run, which an index is at afterwards."""
        return str(self.snapshot["run_id"])

    def removed(self) -> Iterator[pa.RecordBatch]:
        """Keys to delete: `KEY` and `reason` (left, failed, prompt). To be done before any caption is put."""
        for step in self.steps or ():
            for batch in self._read(step["removed"], (*KEY, "reason")):
                yield batch.filter(pc.is_valid(batch["prompt_id"]))  # null: it had a failure and no caption

    def captions(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Captions to put in place of what has their key: these columns, some thousand rows at a time."""
        runs = None if self.steps is None else pa.array([step["run_id"] for step in self.steps], pa.string())
        for file in self.snapshot["captions"]["files"]:
            for batch in self._read(file, columns if runs is None else {*columns, "run_id"}):
                rows = batch if runs is None else batch.filter(pc.is_in(batch["run_id"], value_set=runs))
                if len(rows):
                    yield rows.select(list(columns))

    def _read(self, file: Mapping[str, Any], columns: Sequence[str] | set[str]) -> Iterator[pa.RecordBatch]:
        if not file["rows"]:
            return
        try:
            with opened(storage.join(self.output, file["path"])) as parquet:
                for _, rows in batches(parquet, list(columns)):
                    yield from rows.to_batches()
        except UNREADABLE as error:
            said = f"{file['path']} is damaged ({error}); captionmill verify says what else is"
            raise IntegrityError(said) from error


def whole(output: str) -> Delta:
    """The published table, from nothing. Raises StorageError where nothing is published."""
    output = storage.absolute(output)
    return Delta(output, _published(output), None, None)


def since(output: str, run_id: str) -> Delta | None:
    """From the table of `run_id` to the published one; no steps where it is that one.

    None where `run_id` does not lead there, or the manifest of a run on the way is gone: begin again with `whole`.
    """
    output = storage.absolute(output)
    now = _published(output)
    steps: list[Snapshot] = []
    at: Snapshot | None = now
    while at is not None and at["run_id"] != run_id:
        if at["run_id"] in {step["run_id"] for step in steps}:
            return None
        steps.append(at)
        at = _manifest(output, at["previous_run_id"])
    return None if at is None else Delta(output, now, at, tuple(reversed(steps)))


def _published(output: str) -> Snapshot:
    told = snapshot(output)
    if told is None:
        where = storage.redact(output)
        raise StorageError(f"nothing is published at {where}: captionmill run makes a table there")
    if told["schema_version"] != SCHEMA_VERSION:
        version = told["schema_version"]
        raise StorageError(
            f"snapshot.json has schema version {version!r}; this captionmill reads {SCHEMA_VERSION}"
        )
    return told


def _manifest(output: str, run_id: str | None) -> Snapshot | None:
    """The snapshot of a run before; None where there is none."""
    if run_id is None:
        return None
    try:
        told: Snapshot = json.loads(storage.read(manifest_uri(output, run_id)))["snapshot"]
    except storage.MissingError:
        return None
    return told
