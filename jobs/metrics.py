"""What a run publishes for Prometheus, through Ray: what is committed, and how much is left.

Counts are of this start of the run: units that an earlier one committed are in no counter. They are for watching; what
there is stands in the output.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from actors.metrics import Step
from pipeline.commit import Receipt

RUN = ("run_id",)


class RunMetrics:
    """Counts receipts. Ray shows them at the metrics port of the node that the driver is on, 10 s later."""

    def __init__(self, run_id: str, planned: int, committed: int) -> None:
        self._run, self._left = {"run_id": run_id}, planned - committed
        self._assets = Counter("captionmill_assets", "Assets in units that were committed.", RUN)
        self._captions = Counter("captionmill_captions", "Captions that were committed.", RUN)
        self._tokens = Counter("captionmill_output_tokens", "Tokens of these captions.", RUN)
        self._failures = Counter("captionmill_failures", "Failure rows, by error_code.", (*RUN, "code"))
        self._units = Gauge("captionmill_units", "Units of the plan, by state.", (*RUN, "state"))
        self._committed = committed
        self._driver = Step("run")
        self._show_units()

    def add_unit(self, receipt: Receipt) -> None:
        """A unit is committed."""
        self._committed, self._left = self._committed + 1, self._left - 1
        counted = (
            (self._assets, receipt.assets),
            (self._captions, receipt.captions),
            (self._tokens, receipt.output_tokens),
        )
        for counter, count in counted:
            if count:
                counter.inc(count, self._run)
        for code, count in receipt.failures.items():
            self._failures.inc(count, {**self._run, "code": code})
        self._show_units()
        self._driver.publish_traffic()

    def _show_units(self) -> None:
        for state, count in (("committed", self._committed), ("left", self._left)):
            self._units.set(count, {**self._run, "state": state})
