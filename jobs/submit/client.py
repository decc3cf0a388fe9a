"""Ray's jobs API as we need it: patience with limits, and what fails there in our own words."""

from __future__ import annotations

import json
import logging
import os
import re
from typing import Any, NoReturn

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from pipeline.errors import ClusterError, ConfigError, RunError
from pipeline.store_errors import redact

ANSWER_S = (10.0, 60.0)  # to connect, and for an answer: the head asks another machine for a job's log
KNOWN = "already exists"  # Ray's words for a submission id that it has
TOKEN = (
    "set RAY_AUTH_MODE=token and the token that the cluster was started with: RAY_AUTH_TOKEN, a file in "
    "RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"
)
HEADERS = "RAY_JOB_HEADERS"  # JSON, for a proxy before the cluster; of `ray job submit` too
TALKERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?", re.IGNORECASE)


class Known(RunError):
    """Ray has a job of this submission id."""


class Client(JobSubmissionClient):
    """The API of one cluster. ClusterError where it does not answer or refuses, RunError where it says no."""

    def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
        """One request, of which Ray's own waits without end."""
        where = redact(self.get_address())
        try:
            return super()._do_request(method, endpoint, timeout=ANSWER_S, **given)
        except AuthenticationError as error:
            lacking = str(error).startswith("Authentication required")  # HTTP 401, the other is 403
            said = "asks for a token" if lacking else "refuses the token that it was given"
            raise ClusterError(f"{where} {said}: {TOKEN}") from error
        except OSError as error:  # as all errors of requests are
            raise ClusterError(
                f"{where} does not answer ({type(error).__name__}): check that the cluster runs, and that its "
                "dashboard, port 8265, is reached from here, by a tunnel or port forwarding"
            ) from error

    def _raise_error(self, r: Any) -> NoReturn:
        """What Ray answered, without the traceback that it puts into it."""
        said = " ".join(r.text.strip(" .\n").splitlines()[-1:])[:500]
        if KNOWN in r.text:
            raise Known(said)
        kind = ClusterError if r.status_code >= 500 else RunError
        raise kind(f"{redact(self.get_address())} answered HTTP {r.status_code}: {said}")


def connect(address: str) -> Client:
    """The API at `address`, http://host:8265. ConfigError where that is none; else as the client."""
    if not URL.fullmatch(address):
        problem = (
            f"--address {redact(address)}: give the address of the cluster's dashboard, http://HOST:8265"
        )
        raise ConfigError([problem])
    # Ray lets RAY_API_SERVER_ADDRESS, else RAY_ADDRESS, win over what it is told.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    for name in TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    headers = os.environ.get(HEADERS)
    try:
        return Client(address, headers=json.loads(headers) if headers else None)
    except AuthenticationError as error:
        raise ClusterError(f"no token is here for {redact(address)}: {TOKEN}") from error
    except (RuntimeError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:300]
        raise ClusterError(
            f"{redact(address)} is no Ray cluster that takes jobs ({said}): check the address; "
            "its head needs ray[default]"
        ) from error
