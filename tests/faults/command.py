"""`captionmill` with doubles for replicas, and little patience with stores, in the driver and in Ray's workers.

python -m tests.faults.command run JOB.toml
"""

from __future__ import annotations

import json
import os

from jobs import run
from jobs.cli import main
from jobs.preflight import Ready
from tests.double import with_doubles
from tests.faults.impatience import be_impatient

REAL = run.actors
IN_WORKERS = {"runtime_env": {"worker_process_setup_hook": "tests.faults.impatience.be_impatient"}}


def doubles(ready: Ready) -> run.Actors:
    """The actors of a run, each request 20 ms of work."""
    return with_doubles(REAL(ready), ready, 0.02)


if __name__ == "__main__":
    be_impatient()
    os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps(
        IN_WORKERS
    )  # as Ray's job manager gives it to drivers
    run.actors = doubles
    main()
