"""What a run says to programs: an object of JSON a line, one for each unit at most. For people there is `progress`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # pyarrow and all that writes parts, which most commands do without
    from pipeline.commit import Receipt
    from pipeline.plan import Plan


class Events:
    """Writes to `stream`, or nowhere. Every line has time (UTC), event and run_id."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._run_id = ""
        self._shards: Mapping[str, str] = {}

    def planned(self, plan: Plan, committed: int) -> None:
        """What there is to do; so many units are there already."""
        self._run_id, self._shards = plan.run_id, {u.unit_id: u.shard.path for u in plan.units}
        self._say("planned", assets=plan.assets, units=len(plan.units), committed=committed)

    def add_unit(self, receipt: Receipt) -> None:
        """A unit is committed."""
        facts = asdict(receipt) | {"shard": self._shards[receipt.unit_id]}
        self._say("unit", failures_by_code=facts.pop("failures"), **facts)

    def published(self, snapshot: Mapping[str, Any], seconds: float) -> None:
        """The table stands, new or as it was."""
        self._run_id = snapshot["run_id"]
        rows = {name: snapshot[name]["rows"] for name in ("captions", "failures", "removed")}
        kept = {name: snapshot[name] for name in ("assets", "new_rows", "output_tokens", "failures_by_code")}
        self._say("published", **kept, **rows, seconds=round(seconds, 1))

    def _say(self, event: str, **facts: Any) -> None:
        if self._stream:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = {"time": now, "event": event, "run_id": self._run_id, **facts}
            print(json.dumps(line), file=self._stream, flush=True)
