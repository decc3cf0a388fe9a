"""What `captionmill verify` finds, in words: what is wrong, where, and what to do about its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a finding is about."""

    SNAPSHOT = "snapshot"  # what readers are shown
    RECORD = "record"  # manifest, plan, recipe and index: what the output says of itself
    FILE = "file"  # a published file as bytes
    SCHEMA = "schema"  # columns, types, footer and order
    ROW = "row"  # a row that contradicts itself or its run
    CONSERVATION = "conservation"  # an asset and prompt that is not there exactly once
    INDEX = "index"  # a row that contradicts what was indexed of its asset
    LEFTOVER = "leftover"  # what a run should have removed
    INPUT = "input"  # bytes that are not those that were captioned
    CAPTION = "caption"  # what comes out otherwise when it is made again


_AGAIN = "do not use this table: restore the file from a copy, or run the job into a new output"
REMEDIES: Mapping[Kind, str] = {
    Kind.SNAPSHOT: "run the job of the table that is meant again: it publishes its own snapshot",
    Kind.RECORD: _AGAIN,
    Kind.FILE: _AGAIN,
    Kind.SCHEMA: _AGAIN,
    Kind.ROW: _AGAIN,
    Kind.CONSERVATION: _AGAIN,
    Kind.INDEX: _AGAIN,
    Kind.LEFTOVER: "run the job again, which removes its unit parts; delete other files by hand when nothing runs",
    Kind.INPUT: "run the job again: it captions the input as it is now, as a new run",
    Kind.CAPTION: f"in 16 bits other batches or hardware may change a word; in float32 they do not: {_AGAIN}",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`where` is a path below the output, with a row number from 0 where it is about one."""

    kind: Kind
    where: str
    what: str
    asset_id: str | None = None
    prompt_id: str | None = None

    def __str__(self) -> str:
        asset = f", asset {self.asset_id}" if self.asset_id else ""
        prompt = f", prompt {self.prompt_id}" if self.prompt_id else ""
        return f"{self.where}{asset}{prompt}: {self.what}"


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the work, which is done while its findings are taken."""

    title: str
    findings: Iterator[Finding]
