"""What a process can know of the Ray job that it is the driver of, if it is one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from pipeline.config import Loaded

CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray gives it to the command of a job alone
ID = "job_submission_id"  # its metadata


def a_job() -> bool:
    """Whether this process was started by `ray job submit` or the like."""
    return CONFIG in os.environ


def held_cpus() -> float:
    """Cores that this job asked for its driver. They are among the cluster's, and no actor gets them."""
    if not a_job():
        return 0.0
    # Ray's runtime context does not say it; in this record of the jobs API it is.
    from ray.dashboard.modules.job.common import JobInfoStorageClient
    from ray.experimental.internal_kv import _internal_kv_get

    name = json.loads(os.environ[CONFIG]).get("metadata", {}).get(ID, "")
    record: Any = _internal_kv_get(
        JobInfoStorageClient.JOB_DATA_KEY.format(job_id=name).encode(), namespace=b"job"
    )
    return float(json.loads(record).get("entrypoint_num_cpus") or 0.0) if record else 0.0


def problems(loaded: Loaded) -> Iterator[str]:
    """A relative output, where a job would leave its captions in a folder that Ray deletes after it."""
    output = loaded.sections.get("output")
    if a_job() and output and "://" not in output.uri and not output.uri.startswith(("/", "~")):
        yield (
            f"[output] uri: {output.uri} would lie in this job's working folder, which Ray deletes; give a bucket "
            "(s3://…), or the whole path of a folder that every machine of the cluster has"
        )
