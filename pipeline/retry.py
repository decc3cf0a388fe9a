"""One retry loop for every store, and the words of a storage error.

s3fs and botocore each bring a retry loop of their own; `storage` switches both off, because loops multiply
(5 x 5 x 5 tries, minutes of silence) and only this one knows what the caller asked for.
"""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from pipeline.errors import StorageError

T = TypeVar("T")

TRIES = 5  # about 3 s of waiting in all: long enough for a throttled prefix, short enough to notice an outage
QUICK_TRIES = 3  # about 0.6 s
FIRST_WAIT_S = 0.2  # doubled each time, +-50 % so that a thousand workers do not come back at once

EXPECTED = (
    OSError,
    ValueError,
    ImportError,
    boto.BotoCoreError,
    boto.ClientError,
    ResponseParserError,
    aiohttp.ClientError,
)
"""What fsspec and its stores raise for reasons that are not our bugs."""

# Refused though nothing is wrong with the request: its body was late, cut, or changed on the way.
_SPOILT = {"RequestTimeout", "IncompleteBody", "BadDigest"}
_BUSY = {errno.EBUSY, errno.EREMOTEIO, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ESTALE}
_DROPPED = (
    TimeoutError,
    ConnectionError,
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,  # the body is not the one whose checksum came with it: it was cut
    ResponseParserError,  # throttling answers are not always XML
    aiohttp.ClientPayloadError,
    aiohttp.ClientConnectionError,
)


class MissingError(StorageError):
    """The object (or its bucket) does not exist."""


def call(operation: str, uri: str, action: Callable[[], T], *, quick: bool = False) -> T:
    """`action()`, tried again while its failure may pass; raises `StorageError` (`MissingError`) in the end.

    `quick` is for checks while somebody waits: fewer tries, and none after a time-out, for a store that is busy
    answers. `FileExistsError` passes through: it is the answer of a conditional write, not a failure.
    """
    waits = pauses(QUICK_TRIES if quick else TRIES)
    while True:
        try:
            return action()
        except FileExistsError:
            raise
        except EXPECTED as error:
            pause = next(waits, None)
            if pause is None or not transient(error) or (quick and _silent(error)):
                raise described(operation, uri, error) from error
        time.sleep(pause)


def pauses(tries: int = TRIES) -> Iterator[float]:
    """Seconds between one try and the next; after the last of them there are no more tries."""
    for n in range(tries - 1):
        yield FIRST_WAIT_S * 2**n * random.uniform(0.5, 1.5)


def transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: time-outs, resets, throttling, 5xx, a body that was cut.

    A refusal (403) too: while credentials rotate or a policy spreads, a store refuses for a moment who is welcome.
    """
    if isinstance(error, _DROPPED):
        return True
    status = http_status(error)
    if status is not None:
        passing = status in (403, 408, 409, 429) or (status >= 500 and status != 501)
        return passing or _response(error).get("Error", {}).get("Code") in _SPOILT
    return isinstance(error, OSError) and error.errno in _BUSY


def _silent(error: BaseException) -> bool:
    timed_out = isinstance(error, TimeoutError | boto.ConnectTimeoutError | boto.ReadTimeoutError)
    return timed_out and http_status(error) is None


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error that s3fs or aiohttp raised, if there was one."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _response(error: BaseException | None) -> Mapping[str, Any]:
    """What botocore understood of the answer behind an error; of an answer to aiohttp its status alone."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response
        if isinstance(error, aiohttp.ClientResponseError):
            return {"ResponseMetadata": {"HTTPStatusCode": error.status}}
        error = error.__cause__
    return {}


def described(operation: str, uri: str, error: BaseException) -> StorageError:
    """The `StorageError` for `error`: operation, redacted address, reason and remedy."""
    kind = MissingError if isinstance(error, FileNotFoundError) or http_status(error) == 404 else StorageError
    words = f"cannot {operation} {redact(uri)}: {_reason(error)}; {_remedy(kind, error)}"
    return kind(words)


def redact(uri: str) -> str:
    """`uri` without user information and without its query, which may carry a signature."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = re.sub(r"[a-z][a-z0-9+.-]*://[^\s\"']+", lambda found: redact(found[0]), text)
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name


def _remedy(kind: type[StorageError], error: BaseException) -> str:
    if kind is MissingError:
        return "check the bucket and the path"
    if isinstance(error, PermissionError | boto.NoCredentialsError | boto.PartialCredentialsError):
        credentials = "check the credentials (AWS_PROFILE or AWS_ACCESS_KEY_ID) and what they may do here"
        return f"{credentials}, then start again: finished work is kept"
    if isinstance(error, ImportError | ValueError):
        return "check the address; its scheme may need a package, such as gcsfs for gs://"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "make room and start again"
    if transient(error):
        return "check AWS_ENDPOINT_URL and the network, then start again: finished work is kept"
    return "start again once it is put right: finished work is kept"
