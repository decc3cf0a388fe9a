"""What a disturbed run left, held against what the undisturbed run of the same job left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from jobs.verify import inspect
from pipeline.columns import PART
from pipeline.errors import CaptionmillError
from pipeline.publish import snapshot

TABLES = ("captions", "failures")
TIMES = "created_at"  # the one column that says when and not what
# How sure a caption is, in float32: its last bits hang on what else was in the pass, as those of a product of few rows
# do on their number. Between a batch and alone they differ in 14 of the demo's 210 captions, by 6e-8 at most.
SURE, SURE_NEAR = "mean_logprob", 1e-6


@dataclass(frozen=True, slots=True)
class Verdict:
    """Rows that differ, files that should not be there or should, and what `captionmill verify` finds."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    files: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, wrong, or left over."""
        return self == Verdict()


def published(output: Path) -> Mapping[str, pa.Table]:
    """The rows of both tables, by the snapshot, without times; none where nothing is published."""
    told = snapshot(str(output))
    if told is None:
        return dict.fromkeys(TABLES, PART.empty_table())
    return {
        name: pa.concat_tables([pq.ParquetFile(output / f["path"]).read() for f in told[name]["files"]])
        .drop_columns([TIMES])
        .replace_schema_metadata(None)
        for name in TABLES
    }


def files(output: Path) -> set[str]:
    """Every file below the output: a run's names depend on job and input alone."""
    return {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}


def compare(undisturbed: Path, disturbed: Path) -> Verdict:
    """Row by row, then file by file, then by `captionmill verify`."""
    lost = doubled = wrong = 0
    expected, found = published(undisturbed), published(disturbed)
    for name in TABLES:
        want, have = _rows(expected[name]), _rows(found[name])
        lost += len(want.keys() - have.keys())
        doubled += sum(len(rows) - 1 for rows in have.values())
        wrong += len(have.keys() - want.keys())
        wrong += sum(
            not any(map(partial(_same, row), have[key])) for key, [row] in want.items() if key in have
        )
    odd = sorted(files(undisturbed) ^ files(disturbed))
    return Verdict(lost, doubled, wrong, tuple(odd), tuple(_verified(disturbed)))


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows say the same."""
    alike = one | {SURE: None} == other | {SURE: None}
    return alike and (SURE not in one or abs(one[SURE] - other[SURE]) <= SURE_NEAR)


def _verified(output: Path) -> Iterator[str]:
    """What `captionmill verify` says."""
    try:
        yield from map(str, inspect(str(output), None, Console(quiet=True)).findings)
    except CaptionmillError as error:
        yield str(error)


def _rows(table: pa.Table) -> dict[tuple[str, str | None], list[dict[str, Any]]]:
    """Rows by asset and prompt."""
    rows: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows.setdefault((row["asset_id"], row["prompt_id"]), []).append(row)
    return rows
