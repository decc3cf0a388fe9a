"""A driver for the harness: the real run of a job with doubles, and a diary of the units that captioners began.

python -m tests.faults.driver JOB.toml SECONDS DIARY
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.ledger import SharedLedger
from jobs.preflight import check
from jobs.run import actors, run
from jobs.session import session
from pipeline import publish, storage
from pipeline.commit import manifest_uri
from pipeline.config import read
from pipeline.errors import CaptionmillError
from pipeline.flow import Actor
from tests.double import with_doubles


class Diary(SharedLedger):
    """The captioners' ledger, which also writes each unit that is begun to a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def begin(self, unit_id: str, position: int | None = None) -> int:
        """As the ledger does."""
        if position is None:
            with Path(self._path).open("a") as file:  # one short write: lines of several processes stay whole
                file.write(f"{unit_id}\n")
        return super().begin(unit_id, position)


def drive(job_file: str, delay_s: float, diary: str, console: Console) -> dict[str, Any]:
    """Bring the output to the snapshot that the job describes, as `captionmill run` does."""
    ready = check(read(job_file))
    if storage.exists(manifest_uri(ready.job.output.uri, ready.run_id)):
        return publish.swap(ready.job.output.uri, ready.run_id)
    with session(console):
        doubles = with_doubles(actors(ready), ready, delay_s)
        kwargs = {**doubles.captioner.kwargs, "ledger": Diary(diary)}
        return run(ready, replace(doubles, captioner=Actor(doubles.captioner.cls, kwargs)), console)


def main() -> None:
    """The command line; the last words are an error's, if it is one of ours."""
    try:
        drive(Path(sys.argv[1]).read_text(), float(sys.argv[2]), sys.argv[3], Console(stderr=True))
    except CaptionmillError as error:
        sys.exit(f"✗ {error}")


if __name__ == "__main__":
    from tests.faults.driver import main as start  # not __main__'s: workers get classes by name

    start()
