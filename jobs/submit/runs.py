"""One run at a time for an output: a submission that finds one under way is that one.

The submission id is made of the output's digest and a number that counts up, so that two that look at the same moment
ask for the same id, and Ray gives it once.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.submit.client import Client, Known
from jobs.submit.packing import Packed
from pipeline import storage
from pipeline.errors import RunError

OUTPUT, JOB = "captionmill.output", "captionmill.job"  # metadata: where to, and the digest of what is asked
ID = re.compile(r"captionmill-([0-9a-f]+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Begun:
    """A run on the cluster, and whether it is this command that began it."""

    submission_id: str
    new: bool


def begin(client: Client, packed: Packed, driver: Mapping[str, Any]) -> Begun:
    """Submit the job, unless it is under way. `driver` is what its driver asks for, as `submit_job` takes it.

    RunError where another job is under way on the output.
    """
    earlier = _of(client, packed)
    if found := _under_way(earlier):
        return _joined(found, packed)
    submission_id = f"captionmill-{packed.family}-{1 + max(earlier, default=0)}"
    with tempfile.TemporaryDirectory(prefix="captionmill-") as folder:
        packed.write(Path(folder))
        try:
            client.submit_job(
                entrypoint=packed.entrypoint,
                runtime_env=packed.runtime_env(Path(folder)),
                metadata={OUTPUT: storage.redact(packed.job.output.uri), JOB: packed.digest},
                submission_id=submission_id,
                **driver,
            )
        except Known:  # another was submitted since we looked
            return _joined(client.get_job_info(submission_id), packed)
    return Begun(submission_id, new=True)


def under_way(client: Client, packed: Packed) -> str | None:
    """The submission that writes to the output now."""
    found = _under_way(_of(client, packed))
    return None if found is None else str(found.submission_id)


def _of(client: Client, packed: Packed) -> dict[int, Any]:
    """All that the cluster remembers of this output, by number."""
    jobs = [(ID.fullmatch(job.submission_id or ""), job) for job in client.list_jobs()]
    return {int(name[2]): job for name, job in jobs if name and name[1] == packed.family}


def _under_way(jobs: Mapping[int, Any]) -> Any | None:
    """The last one that has not ended."""
    return next((jobs[n] for n in sorted(jobs, reverse=True) if not jobs[n].status.is_terminal()), None)


def _joined(found: Any, packed: Packed) -> Begun:
    if (found.metadata or {}).get(JOB) != packed.digest:
        raise RunError(
            f"{found.submission_id} is under way on this output, and it is another job (its file or options differ): "
            "submit again when it has ended, or stop it first, with --stop"
        )
    return Begun(str(found.submission_id), new=False)
