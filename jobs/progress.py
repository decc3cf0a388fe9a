"""How far a run is: a live line on a terminal, a plain line every ten seconds elsewhere. Always on standard error."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.commit import Receipt
from pipeline.plan import Plan

EVERY_S = 10.0  # between plain lines


class Progress:
    """Counts receipts and shows assets, tokens, rate and time left. Use as a context manager.

    Time left is from visual tokens that remain, which is what captioning costs, and the rate since the first
    receipt of this session, so that neither model loading nor units of an earlier session bend it.
    """

    def __init__(self, plan: Plan, committed: set[str], console: Console) -> None:
        self._console = console
        self._cost = {u.unit_id: max(1, u.cost.visual_tokens) for u in plan.units}
        self._total_assets, self._total_units = plan.assets, len(plan.units)
        self._assets = sum(u.count for u in plan.units if u.unit_id in committed)
        self._left = sum(c for unit, c in self._cost.items() if unit not in committed)
        self._units, self._tokens, self._spent = len(committed), 0, 0
        self.failures: Counter[str] = Counter()
        self._begun = time.monotonic()
        self._first: float | None = None
        self._said = 0.0
        self._live = (
            Live(console=console, get_renderable=self._text, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        elif error is None:
            self._console.print(self.line())

    def add(self, receipt: Receipt) -> None:
        """A unit is committed."""
        now = time.monotonic()
        cost = self._cost[receipt.unit_id]
        if self._first is None:
            self._first = now
        else:
            self._spent += cost
        self._left -= cost
        self._assets += receipt.assets
        self._units += 1
        self._tokens += receipt.output_tokens
        self.failures.update(receipt.failures)
        self._show()

    def line(self) -> str:
        """One line: assets, units, tokens, rates, failures, time left."""
        elapsed = max(1e-9, time.monotonic() - self._begun)
        parts = [
            f"{self._assets:,}/{self._total_assets:,} assets",
            f"{self._units:,}/{self._total_units:,} units",
            f"{self._tokens:,} tokens ({self._tokens / elapsed:,.0f}/s)",
        ]
        if self.failures:
            parts.append(f"{sum(self.failures.values()):,} failures")
        return " · ".join([*parts, self._time_left()])

    def _time_left(self) -> str:
        if self._first is None or not self._spent:
            return "time left unknown yet" if self._left else "done"
        seconds = self._left * (time.monotonic() - self._first) / self._spent
        return f"{duration(seconds)} left"

    def _text(self) -> Text:
        return Text(self.line())

    def _show(self) -> None:
        if self._live is None and time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            self._console.print(self.line())


def duration(seconds: float) -> str:
    """`3 h 05 min`, `12 min 07 s` or `9 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
