"""Work over time: tokens a second, and where the units' own records are there, how busy the replicas were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline import parquet, storage
from pipeline.readback import UNREADABLE
from pipeline.tally import Work

BINS = 48
RECORDED = ("output_tokens", "begun_at", "ended_at", "caption_s", "busy_s", "slot_steps", "slots_idle")


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of the run: when it began, output tokens a second, and shares of its units' time, if recorded.

    `busy` is the share of the captioner's time in which the model computed, `idle` that of slots without a caption.
    """

    at: datetime
    tokens_a_second: float
    busy: float | None = None
    idle: float | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run from its first to its last moment; `recorded`: from its units' records, else from the rows alone."""

    began: datetime
    ended: datetime
    tokens: int
    busy_s: float | None
    moments: tuple[Moment, ...]

    @property
    def seconds(self) -> float:
        """From the first to the last moment."""
        return (self.ended - self.began).total_seconds()

    @property
    def recorded(self) -> bool:
        """Whether the units' records say how busy the replicas were."""
        return self.busy_s is not None


def records(output: str, run_id: str) -> list[Mapping[str, Any]]:
    """What a run's units took; [] where nobody recorded it."""
    try:
        data = storage.read(storage.join(output, "runs", run_id, "units.parquet"))
        found = parquet.read(data)
        return found.to_pylist() if set(RECORDED) <= set(found.column_names) else []  # another version's
    except (storage.MissingError, *UNREADABLE):
        return []


def of_rows(units: Iterable[Work]) -> Timeline | None:
    """From commits alone: a unit's tokens count for the moment of its commit. None for fewer than two moments."""
    work = sorted(units, key=lambda unit: unit.at)
    if len({unit.at for unit in work}) < 2:
        return None
    began, ended = work[0].at, work[-1].at
    step = (ended - began) / min(BINS, len(work))
    sums = [0.0] * min(BINS, len(work))
    for unit in work:
        sums[min(len(sums) - 1, int((unit.at - began) / step))] += unit.tokens
    moments = tuple(Moment(began + i * step, s / step.total_seconds()) for i, s in enumerate(sums))
    return Timeline(began, ended, sum(unit.tokens for unit in work), None, moments)


def of_records(told: Sequence[Mapping[str, Any]]) -> Timeline | None:
    """From the units' records: what a unit took is spread evenly from its beginning to its end."""
    units = [unit for unit in told if unit["begun_at"] and unit["ended_at"]]
    if not units:
        return None
    began, ended = min(u["begun_at"] for u in units), max(u["ended_at"] for u in units)
    if ended <= began:
        return None
    n = min(BINS, max(1, len(units)))
    step = (ended - began) / n
    moments = tuple(_moment(began + i * step, step, units) for i in range(n))
    busy = sum(unit["busy_s"] or 0.0 for unit in units)
    return Timeline(began, ended, sum(unit["output_tokens"] for unit in units), busy, moments)


def _moment(at: datetime, step: timedelta, units: Sequence[Mapping[str, Any]]) -> Moment:
    tokens = captioning = busy = steps = idle = 0.0
    for unit in units:
        span = max((unit["ended_at"] - unit["begun_at"]).total_seconds(), 1e-6)
        within = min(at + step, unit["ended_at"]) - max(at, unit["begun_at"])
        share = min(1.0, max(0.0, within.total_seconds()) / span)
        tokens += share * unit["output_tokens"]
        captioning += share * (unit["caption_s"] or 0.0)
        busy += share * (unit["busy_s"] or 0.0)
        steps += share * (unit["slot_steps"] or 0.0)
        idle += share * (unit["slots_idle"] or 0.0)
    return Moment(
        at,
        tokens / step.total_seconds(),
        min(1.0, busy / captioning) if captioning else None,
        min(1.0, idle / steps) if steps else None,
    )
