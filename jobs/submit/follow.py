"""Following a run on a cluster: what it prints, through lost connections, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, TextIO

import aiohttp
from ray.job_submission import JobStatus
from rich.console import Console

from jobs.exit_codes import FAILED, INTERRUPTED, USAGE
from jobs.submit.client import Client
from pipeline.errors import ClusterError
from pipeline.quality import caption_text

LOST_S = 600.0  # a head that is restarted is back by then
PAUSE_S = 1.0
SILENT_S = 120.0  # a run that captions says something every 10 s
PATIENCE_S = 15.0  # until it is said what a job waits for; a driver that can start does so in 3 to 6 s
NO_CAPTIONMILL = (
    "the cluster has no captionmill; use an image that does, or --with-code where only that is missing"
)
NOT_FOUND = (126, 127)  # a shell's, for a command that is not there
SAID_BY_RUN = (FAILED, USAGE, INTERRUPTED)  # the run has told why


def follow(client: Client, submission_id: str, console: Console, sink: TextIO) -> Any:
    """Print what the run prints until it has ended, and return Ray's description of it.

    ClusterError where the cluster is not reached for ten minutes, RunError where it does not know the run any more.
    """
    log, heard, lost = _Log(sink), time.monotonic(), False
    while True:
        try:
            details = _started(client, submission_id, console)
            heard, lost = time.monotonic(), False
            asyncio.run(log.read(client, submission_id))
            if details.status.is_terminal():  # before the log was read, which is therefore whole
                return details
        except (ClusterError, aiohttp.ClientError, OSError, RuntimeError) as error:
            if time.monotonic() - heard > LOST_S:
                raise ClusterError(
                    f"lost the connection {LOST_S / 60:.0f} minutes ago, the run may go on: {error}"
                ) from error
            if not lost:
                console.print("Lost the connection; the run may go on. Trying again …")
            lost = True
        time.sleep(PAUSE_S)


class _Log:
    """The log of a run, of which a connection shows the whole: what has been printed is not printed again."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink
        self._said = 0

    async def read(self, client: Client, submission_id: str) -> None:
        """Print what comes until the run ends, or nothing has come for a while, as where a connection is dead."""
        seen = 0
        tail: Any = client.tail_job_logs(submission_id)
        async with contextlib.aclosing(tail) as chunks:
            with contextlib.suppress(StopAsyncIteration, TimeoutError):
                while True:
                    text = await asyncio.wait_for(anext(chunks), SILENT_S)
                    self._print(text[max(0, self._said - seen) :])
                    seen += len(text)
                    self._said = max(self._said, seen)

    def _print(self, text: str) -> None:
        if text:
            self._sink.write(text)
            self._sink.flush()


def _started(client: Client, submission_id: str, console: Console) -> Any:
    """Ray's description of the run once its driver has started; what it waits for is said if that takes long."""
    begun, said = time.monotonic(), ""
    while (details := client.get_job_info(submission_id)).status == JobStatus.PENDING:
        waited = time.monotonic() - begun
        if waited > PATIENCE_S and (details.message or "") != said:
            said = details.message or ""
            console.print(f"After {waited:.0f} s: {caption_text(said)}", markup=False)
        time.sleep(PAUSE_S)
    return details


def outcome(details: Any, again: str, console: Console) -> int:
    """Say how a run ended that the log has not said, and return the exit code of that run."""
    name, code = details.submission_id, details.driver_exit_code
    if details.status == JobStatus.SUCCEEDED:
        console.print(f"{name} succeeded", markup=False)
        return 0
    if details.status == JobStatus.STOPPED or code == INTERRUPTED:
        console.print(f"{name} was stopped. What is committed is kept; go on with: {again}", markup=False)
        return INTERRUPTED
    if code in SAID_BY_RUN:
        console.print(f"✗ {name} failed with exit code {code}; its log is above", markup=False)
        return int(code)
    if code in NOT_FOUND:
        reason = NO_CAPTIONMILL
    elif code is None:
        reason = caption_text((details.message or "").strip())[:500] or "no reason is known"
    else:
        reason = f"its driver ended with code {code}"
    console.print(f"✗ {name} failed: {reason}. What is committed is kept; go on with: {again}", markup=False)
    return FAILED
