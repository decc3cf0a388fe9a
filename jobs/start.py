"""From a parsed job file to its run. What can be wrong is said before ray and torch, seconds to import, are loaded."""

from __future__ import annotations

import time

from rich.console import Console

from jobs.preflight import check
from pipeline.config import Loaded


def start(loaded: Loaded, console: Console) -> None:
    """Check the job, run it to its end and print the summary.

    Raises ConfigError before anything is started, and RunError where the failure budget is spent.
    """
    begun = time.monotonic()
    ready = check(loaded)
    from jobs.session import caption_all

    caption_all(ready, console, begun)
