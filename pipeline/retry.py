"""One retry loop for every store.

s3fs and botocore each bring a retry loop of their own; `storage` switches both off, because loops multiply
(5 x 5 x 5 tries, minutes of silence) and only this one knows what the caller asked for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipeline import traffic
from pipeline.store_errors import described, expected, silent, transient

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a failure is waited out: seconds from the first failure to the last try, and whether time-outs are.

    The clock starts with the first failure, so that a write that took minutes before it failed is tried again too.
    """

    seconds: float
    timeouts: bool = True


PATIENT = Patience(
    60.0
)  # S3 answers 503 for some tens of seconds while it divides a prefix; a gateway starts in 30
QUICK = Patience(1.0, timeouts=False)  # while somebody waits; a store that is busy answers
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 8.0


def call(operation: str, uri: str, action: Callable[[], T], patience: Patience | None = None) -> T:
    """`action()`, tried again while its failure may pass; raises `StorageError` (`MissingError`) in the end.

    What may pass is `transient`'s to say: time-outs, resets, throttling, 5xx, bodies that were cut, and refusals. All
    else is told at once: what is missing, a request that is wrong, a full disk, credentials that are not there.
    `FileExistsError` passes through: it is the answer of a conditional write, not a failure. `patience` is `PATIENT`
    unless given. What is raised has no cause: the store's own words may hold what was sent to it, keys included.
    """
    patience = patience or PATIENT
    waits = pauses()
    until: float | None = None
    while True:
        try:
            return action()
        except FileExistsError:
            raise
        except expected() as error:
            now = time.monotonic()
            until = now + patience.seconds if until is None else until
            hopeless = not transient(error) or (silent(error) and not patience.timeouts)
            if hopeless or now >= until:
                raise described(operation, uri, error) from None
        time.sleep(min(next(waits), until - now))
        traffic.add(retries=1)


def pauses() -> Iterator[float]:
    """Seconds between one try and the next, without end: exponential backoff with full jitter.

    As in M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: random between 0 and
    min(cap, base * 2^n), so that a thousand workers do not come back at once. A minute is some 20 tries.
    """
    longest = FIRST_WAIT_S
    while True:
        yield random.uniform(0, longest)
        longest = min(2 * longest, LONGEST_WAIT_S)
