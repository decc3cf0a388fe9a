"""A driver for the harness: the real run of a job with doubles, and a diary of the units that captioners began.

python -m tests.faults.driver JOB.toml SECONDS DIARY
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.preflight import check
from jobs.run import actors, run
from jobs.session import session
from pipeline import publish, storage
from pipeline.commit import Parts, manifest_uri
from pipeline.config import read
from pipeline.errors import CaptionmillError
from pipeline.flow import Actor
from tests.double import with_doubles


@dataclass(frozen=True, slots=True)
class Watched(Parts):
    """The parts, as captioners look at them; each look after which a unit is begun is a line of a diary.

    A line is the time before the look (UTC s), the driver's process and the unit.
    """

    diary: str
    driver: int

    def done(self, unit_id: str) -> bool:
        """As the parts do."""
        asked = time.time()
        found = Parts.done(self, unit_id)
        if not found:
            with Path(self.diary).open("a") as file:  # one short write: lines of several processes stay whole
                file.write(f"{asked:.3f} {self.driver} {unit_id}\n")
        return found


def drive(job_file: str, delay_s: float, diary: str, console: Console) -> dict[str, Any]:
    """Bring the output to the snapshot that the job describes, as `captionmill run` does."""
    ready = check(read(job_file))
    output = ready.job.output.uri
    if storage.exists(manifest_uri(output, ready.run_id)):
        return publish.swap(output, ready.run_id)
    with session(console):
        doubles = with_doubles(actors(ready), ready, delay_s)
        watched = Watched(output, ready.run_id, diary, os.getpid())
        captioner = Actor(doubles.captioner.cls, {**doubles.captioner.kwargs, "parts": watched})
        return run(ready, replace(doubles, captioner=captioner), console)


def main() -> None:
    """The command line; the last words are an error's, if it is one of ours."""
    try:
        drive(Path(sys.argv[1]).read_text(), float(sys.argv[2]), sys.argv[3], Console(stderr=True))
    except CaptionmillError as error:
        sys.exit(f"✗ {error}")


if __name__ == "__main__":
    from tests.faults.driver import main as start  # not __main__'s: workers get classes by name

    start()
