"""Commit: one Parquet part per unit, checked, then one PUT under the unit's own name.

Whoever runs a unit, however often, writes the same rows (but for `created_at`) under the same name, so a retried
task, a zombie attempt or a second driver changes nothing. A part is complete when it exists; resume is a listing, and
whoever is about to begin a unit looks whether another was faster.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import messages, parquet, storage, unit_records
from pipeline.columns import PART, SCHEMA_VERSION, parquet_options, split_part
from pipeline.config import PromptConfig
from pipeline.errors import IntegrityError
from pipeline.prompt import of_unit
from pipeline.provenance import Context, part_table
from pipeline.types import Answer, Asset, Caption, Captioned, Media, Unit

STRETCH = 4_000  # parts that are listed one after another: 4 requests of S3


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the driver learns of a committed unit."""

    unit_id: str
    assets: int
    captions: int
    failures: Mapping[str, int]  # by code
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The unit parts of one run of an output."""

    output: str
    run_id: str

    def uri(self, unit_id: str) -> str:
        """Where the unit's part is, or will be."""
        return storage.join(units_uri(self.output, self.run_id), f"{unit_id}.parquet")

    def done(self, unit_id: str) -> bool:
        """Whether the unit needs no more work: it has a part, or its run is published, which takes the parts away.

        One or two requests, so that a unit which another driver has done is not done again.
        """
        return storage.exists(self.uri(unit_id)) or self.published()

    def published(self) -> bool:
        """Whether the run has its manifest: parts that come now are nobody's."""
        return storage.exists(manifest_uri(self.output, self.run_id))


class Committer:
    """Writes unit parts below `runs/<run_id>/units/` of the output."""

    def __init__(self, output: str, context: Context, metadata: Mapping[str, str]) -> None:
        self._parts = Parts(output, context.run_id)
        self._context = context
        self._metadata = metadata

    def __call__(self, table: pa.Table) -> pa.Table:
        """One captioned unit in, or one that was done already, its receipt out, as one-row tables (see `receipt`)."""
        done = messages.table_to_done(table)
        given = self.seen(done) if done else self.commit(messages.table_to_captioned(table))
        return pa.table({"receipt": [json.dumps(asdict(given))]})

    def commit(self, captioned: Captioned) -> Receipt:
        """Check conservation and digests, build the part in memory, read it back, and PUT it.

        Raises IntegrityError, before anything is written, where an asset lacks an answer or has two, or where an
        answer comes from other bytes than its asset's.
        """
        check(captioned, self._context.prompts)
        table = part_table(captioned, self._context, datetime.now(UTC))
        given = _receipt(captioned.unit, table)
        own = {
            "captionmill.unit_id": given.unit_id,
            unit_records.KEY: unit_records.to_json(captioned, table),
        }
        data = part_bytes(table, {**self._metadata, **own})
        # The first attempt's part stands: what is compacted never changes. Where the store cannot refuse the second,
        # looking first leaves but the moment between the two.
        part = self._parts.uri(captioned.unit.unit_id)
        if not storage.exists(part):
            storage.put_new(part, data)
        if self._parts.published():  # by another driver meanwhile, which has removed what it found
            storage.delete(part)
        return given

    def seen(self, unit: Unit) -> Receipt:
        """The receipt of a unit that `Parts.done` called done, from the part that lies there; nothing is written.

        Where another driver has published meanwhile, the part is gone and nothing of it is counted. Raises
        IntegrityError where it does not hold the unit's assets, StorageError where it is gone without that.
        """
        uri = self._parts.uri(unit.unit_id)
        try:
            table = read_part(uri)
        except storage.MissingError:
            if not self._parts.published():
                raise
            return _receipt(unit, PART.empty_table())
        if (held := len(pc.unique(table["asset_id"]))) != unit.count:
            said = f"{storage.redact(uri)} holds {held} assets of {unit.count} planned"
            raise IntegrityError(f"{said}; delete it and start again")
        return _receipt(unit, table)


def _receipt(unit: Unit, part: pa.Table) -> Receipt:
    captions, failures = split_part(part)
    codes = {str(row["values"]): row["counts"] for row in failures["error_code"].value_counts().to_pylist()}
    tokens = pc.sum(captions["n_output_tokens"]).as_py() or 0
    return Receipt(unit.unit_id, unit.count, len(captions), codes, tokens)


def read_part(uri: str) -> pa.Table:
    """A unit's rows, of schema `PART` with the footer as metadata.

    IntegrityError where the object is no whole part, MissingError where there is none.
    """
    data = storage.read(uri)
    try:
        rows = parquet.read(data)
        return rows.cast(PART.with_metadata(rows.schema.metadata))
    except ValueError as error:  # pa.ArrowInvalid is one
        raise IntegrityError(
            f"{storage.redact(uri)} is no whole unit part: {error}; delete it and start again"
        ) from error


def receipt(row: Mapping[str, object]) -> Receipt:
    """The receipt in a row that a committer returned."""
    return Receipt(**json.loads(str(row["receipt"])))


def check(captioned: Captioned, prompts: Sequence[PromptConfig]) -> None:
    """Raise IntegrityError unless every asset has its answers, all of them from its own bytes.

    These are one from each prompt that asks about its kind, or one failure under no prompt; the latter not where the
    unit is asked some of the job's prompts only, as the asset has rows under the others.
    """
    unit = f"unit {captioned.unit.unit_id}"
    if len(captioned.assets) != captioned.unit.count:
        raise IntegrityError(f"{unit}: {len(captioned.assets)} assets of {captioned.unit.count} planned")
    digests = {v.position: v.sha256 for v in captioned.views}
    asked: list[list[str | None]] = [[] for _ in captioned.assets]
    for answer in captioned.answers:
        if not 0 <= answer.position < len(asked):
            raise IntegrityError(f"{unit}: an answer for asset {answer.position} of {len(asked)}")
        asset = captioned.assets[answer.position]
        _check_answer(f"{unit}, asset {asset.asset_id}", answer, asset, digests.get(answer.position))
        asked[answer.position].append(answer.prompt_id)
    mine = of_unit(prompts, captioned.unit)
    expected = {media: sorted(p.id for p in mine if p.asked(media)) for media in Media}
    for asset, answered in zip(captioned.assets, asked, strict=True):
        due = expected[asset.media] if asset.media else []
        failed = answered == [None] and not captioned.unit.prompts
        if not failed and (not due or sorted(p or "" for p in answered) != due):
            found = f"answers for prompts {answered}, expected {due} or one failure"
            raise IntegrityError(f"{unit}, asset {asset.asset_id}: {found}")


def _check_answer(where: str, answer: Answer, asset: Asset, looked_at: str | None) -> None:
    """`looked_at` is the digest of the asset's view, which a caption, unlike a failure, must have."""
    if isinstance(answer.outcome, Caption):
        if answer.prompt_id is None:
            raise IntegrityError(f"{where}: a caption that answers no prompt")
        if looked_at != asset.sha256:
            raise IntegrityError(f"{where}: the pixels were made from other bytes than the asset's")
    if answer.sha256 != asset.sha256:
        raise IntegrityError(f"{where}: the answer was made from other bytes than the asset's")


def part_bytes(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """A Parquet file of schema `PART` with `metadata` in its footer, read back and compared before it is returned."""
    footer = {"captionmill.schema_version": SCHEMA_VERSION, **metadata}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(footer), sink, **parquet_options())
    written = parquet.read(sink.getvalue())
    if not written.equals(table):
        raise IntegrityError(
            f"unit {metadata.get('captionmill.unit_id')}: the part reads back otherwise than written"
        )
    return sink.getvalue()


def units_uri(output: str, run_id: str) -> str:
    """The folder of a run's unit parts."""
    return storage.join(output, "runs", run_id, "units")


def manifest_uri(output: str, run_id: str) -> str:
    """Where a run's manifest is; it exists from the moment that the run's files are complete."""
    return storage.join(output, "runs", run_id, "manifest.json")


def committed(output: str, run_id: str, planned: Sequence[str] = ()) -> set[str]:
    """The unit ids that have a part.

    Where the ids that are `planned` are given, some thousands at a time are listed side by side.
    """
    cuts = [f"{unit_id}.parquet" for unit_id in sorted(planned)[STRETCH - 1 :: STRETCH]]
    entries = storage.listing(units_uri(output, run_id), cuts)
    return {e.name.removesuffix(".parquet") for e in entries if e.name.endswith(".parquet")}
