"""How far a run is: live on a terminal, a plain line every ten seconds elsewhere. Always on standard error."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.commit import Receipt
from pipeline.plan import Plan
from pipeline.quality import caption_text

EVERY_S = 10.0  # between plain lines
STAGES = ("index", "caption", "publish")
BAR = 24  # columns


class Stage:
    """One of `STAGES`: counts each `what` (shard, asset), and shows how many of `total` are done. Use it by `with`."""

    def __init__(self, name: str, total: int, what: str, console: Console) -> None:
        self._name, self._total, self._console = name, total, console
        self._what = what if total == 1 else f"{what}s"
        self._done = 0
        self._begun = self._said = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._shown, refresh_per_second=4, transient=True
            )
            self._live.start()
        self._console.print(self.begins(), markup=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if error is None:
            self._console.print(self.line(), markup=False)

    def add(self, done: int) -> None:
        """So many more are done."""
        self._done += done
        self._show()

    def begins(self) -> str:
        """What there is to be done, in a line."""
        return f"{self._name:<8}{self._total:,} {self._what}"

    def line(self) -> str:
        """How far the stage is, in a line."""
        return f"{self._name:<8}{' · '.join([*self._counts(), *self._failed(), self._left_in_words()])}"

    def share(self) -> float:
        """How much of the stage's work is done, 0 to 1."""
        return self._done / max(1, self._total)

    def seconds_left(self) -> float | None:
        """None while nobody can tell."""
        spent = time.monotonic() - self._begun
        return spent * (1 - self.share()) / self.share() if self._done else None

    def _counts(self) -> Iterator[str]:
        yield f"{self._done:,}/{self._total:,} {self._what}"

    def _failed(self) -> Iterator[str]:
        """How many rows are failures, where some are."""
        return iter(())

    def _left_in_words(self) -> str:
        if self.share() == 1:
            return "done"
        left = self.seconds_left()
        return "time left unknown yet" if left is None else f"{duration(left)} left"

    def _more(self) -> Iterator[Text]:
        """Lines below the stage's own."""
        return iter(())

    def _shown(self) -> RenderableType:
        """All stages, with a bar each: this one as far as it is, the others before or after it."""
        table = Table.grid(padding=(0, 2, 0, 0))
        here = STAGES.index(self._name)
        for number, name in enumerate(STAGES):
            share = 1.0 if number < here else self.share() if number == here else 0.0
            style = "bold" if number == here else "dim"
            bar = ProgressBar(total=1.0, completed=share, width=BAR)
            percent = f"{100 * share:.0f} %" if number <= here else ""
            left = self._left_in_words() if number == here else ""
            table.add_row(Text(name, style), bar, Text(percent, style, justify="right"), left)
        counts = Text(" · ".join(self._counts()))
        whole = Table.grid()
        whole.add_row(table)
        for line in (counts, *self._more()):
            whole.add_row(line)
        return whole

    def _show(self) -> None:
        if self._live is None and time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            self._console.print(self.line(), markup=False)


class Progress(Stage):
    """The caption stage: counts receipts and shows assets, tokens, rate, failures by code and time left.

    Time left is from visual tokens that remain, which is what captioning costs, and the rate since the first
    receipt of this session, so that neither model loading nor units of an earlier session bend it. With `each`, every
    unit has a line of its own.
    """

    def __init__(self, plan: Plan, committed: set[str], console: Console, *, each: bool = False) -> None:
        super().__init__("caption", plan.planned, "asset", console)
        self._units = {u.unit_id: u for u in plan.units}
        self._cost = {u.unit_id: max(1, u.cost.visual_tokens) for u in plan.units}
        self._whole = max(1, sum(self._cost.values()))
        self._done = sum(u.count for u in plan.units if u.unit_id in committed)
        self._left = sum(c for unit, c in self._cost.items() if unit not in committed)
        self._committed, self._captions, self._tokens, self._spent = len(committed), 0, 0, 0
        self.failures: Counter[str] = Counter()
        self._first: float | None = None
        self._each = each

    def add_unit(self, receipt: Receipt) -> None:
        """A unit is committed."""
        cost = self._cost[receipt.unit_id]
        if self._first is None:
            self._first = time.monotonic()
        else:
            self._spent += cost
        self._left -= cost
        self._committed += 1
        self._captions += receipt.captions
        self._tokens += receipt.output_tokens
        self.failures.update(receipt.failures)
        if self._each:
            self._console.print(" · ".join(self._of(receipt)), markup=False)
        self.add(receipt.assets)

    def begins(self) -> str:
        """What there is to be done, in a line."""
        if self._committed:
            return f"Going on: {self._committed:,} of {len(self._units):,} units are there already"
        return f"{super().begins()} in {len(self._units):,} units"

    def share(self) -> float:
        """Of the visual tokens of all units."""
        return (self._whole - self._left) / self._whole

    def seconds_left(self) -> float | None:
        """None until the second receipt."""
        if self._first is None or not self._spent:
            return None
        return self._left * (time.monotonic() - self._first) / self._spent

    def _counts(self) -> Iterator[str]:
        elapsed = max(1e-9, time.monotonic() - self._begun)
        yield f"{self._done:,}/{self._total:,} assets"
        yield f"{self._committed:,}/{len(self._units):,} units"
        yield f"{self._tokens:,} tokens ({self._tokens / elapsed:,.0f}/s)"

    def _failed(self) -> Iterator[str]:
        if self.failures:
            yield f"{sum(self.failures.values()):,} failures"

    def _more(self) -> Iterator[Text]:
        if self.failures:
            yield Text(f"failures {failures_in_words(self.failures)}", "yellow")

    def _of(self, receipt: Receipt) -> Iterator[str]:
        """What is said of one unit."""
        unit = self._units[receipt.unit_id]
        yield f"  {unit.unit_id} of {caption_text(unit.shard.path)}"
        yield f"{receipt.assets:,} assets"
        yield f"{receipt.captions:,} captions"
        yield f"{receipt.output_tokens:,} tokens"
        if receipt.failures:
            yield f"failures {failures_in_words(receipt.failures)}"


def failures_in_words(codes: Mapping[str, int]) -> str:
    """`10: corrupt 7, truncated 3`, the most frequent first."""
    ordered = sorted(codes.items(), key=lambda item: (-item[1], item[0]))
    return f"{sum(codes.values()):,}: " + ", ".join(f"{code} {n:,}" for code, n in ordered)


def duration(seconds: float) -> str:
    """`3 h 05 min`, `12 min 07 s` or `9 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
