"""Commit: one Parquet part per unit, checked, then one PUT under the unit's own name.

Whoever runs a unit, however often, writes the same rows (but for `created_at`) under the same name, so a retried
task, a zombie attempt or a second driver changes nothing. A part is complete when it exists; resume is a listing.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import messages, storage
from pipeline.columns import SCHEMA_VERSION, parquet_options
from pipeline.config import PromptConfig
from pipeline.errors import IntegrityError
from pipeline.provenance import Context, part_table
from pipeline.types import Answer, Asset, Caption, Captioned, Media, Problem


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the driver learns of a committed unit."""

    unit_id: str
    assets: int
    captions: int
    failures: Mapping[str, int]  # by code
    output_tokens: int


class Committer:
    """Writes unit parts below `runs/<run_id>/units/` of the output."""

    def __init__(self, output: str, context: Context, metadata: Mapping[str, str]) -> None:
        self._folder = units_uri(output, context.run_id)
        self._manifest = manifest_uri(output, context.run_id)
        self._context = context
        self._metadata = metadata

    def __call__(self, table: pa.Table) -> pa.Table:
        """One captioned unit in, its receipt out, as one-row tables (see `receipt`)."""
        return pa.table({"receipt": [json.dumps(asdict(self.commit(messages.table_to_captioned(table))))]})

    def commit(self, captioned: Captioned) -> Receipt:
        """Check conservation and digests, build the part in memory, read it back, and PUT it.

        Raises IntegrityError, before anything is written, where an asset lacks an answer or has two, or where an
        answer comes from other bytes than its asset's.
        """
        check(captioned, self._context.prompts)
        table = part_table(captioned, self._context, datetime.now(UTC))
        data = part_bytes(table, {**self._metadata, "captionmill.unit_id": captioned.unit.unit_id})
        # The first attempt's part stands where the store can refuse the second: then what is compacted never changes.
        part = storage.join(self._folder, f"{captioned.unit.unit_id}.parquet")
        storage.put_new(part, data)
        if storage.exists(
            self._manifest
        ):  # another driver has published meanwhile, and removed what it found
            storage.delete(part)
        failed = [a.outcome for a in captioned.answers if isinstance(a.outcome, Problem)]
        said = [a.outcome for a in captioned.answers if not isinstance(a.outcome, Problem)]
        return Receipt(
            unit_id=captioned.unit.unit_id,
            assets=len(captioned.assets),
            captions=len(said),
            failures=dict(Counter(str(p.code) for p in failed)),
            output_tokens=sum(c.n_output_tokens for c in said),
        )


def receipt(row: Mapping[str, object]) -> Receipt:
    """The receipt in a row that a committer returned."""
    return Receipt(**json.loads(str(row["receipt"])))


def check(captioned: Captioned, prompts: Sequence[PromptConfig]) -> None:
    """Raise IntegrityError unless every asset has its answers, all of them from its own bytes.

    These are one from each prompt that asks about its kind, or one failure under no prompt.
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
    expected = {media: sorted(p.id for p in prompts if p.asked(media)) for media in Media}
    for asset, answered in zip(captioned.assets, asked, strict=True):
        due = expected[asset.media] if asset.media else []
        if answered != [None] and (not due or sorted(p or "" for p in answered) != due):
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
    written = pq.read_table(io.BytesIO(sink.getvalue()))
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


def committed(output: str, run_id: str) -> set[str]:
    """The unit ids that have a part: one listing."""
    entries = storage.listing(units_uri(output, run_id))
    return {e.name.removesuffix(".parquet") for e in entries if e.name.endswith(".parquet")}
