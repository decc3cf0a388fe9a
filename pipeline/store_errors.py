"""What a store's failure means, whether it may pass, and our words for it, in which there is no secret.

A store's own words are not quoted, but for its error code: a gateway that refuses a request may send it back, with
keys, tokens and signatures.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from pipeline.errors import StorageError

# Errors of stores' libraries, as module: classes.
_BOTO = "botocore.exceptions"
_UNREADABLE = {"botocore.parsers": ("ResponseParserError",)}  # throttling answers are not always XML
_STORES = {_BOTO: ("BotoCoreError", "ClientError"), "aiohttp": ("ClientError",)} | _UNREADABLE
_CUT_OFF = {
    # the last: a body is not the one whose checksum came with it, it was cut
    _BOTO: ("HTTPClientError", "ConnectionError", "IncompleteReadError", "FlexibleChecksumError"),
    "aiohttp": ("ClientPayloadError", "ClientConnectionError"),
} | _UNREADABLE
_LATE = {_BOTO: ("ConnectTimeoutError", "ReadTimeoutError")}
_NO_CREDENTIALS = {_BOTO: ("NoCredentialsError", "PartialCredentialsError")}
_ANSWER = {"aiohttp": ("ClientResponseError",)}

# Refused though nothing is wrong with the request: its body was late, cut, or changed on the way.
_SPOILT = {"RequestTimeout", "IncompleteBody", "BadDigest"}
_BUSY = {errno.EBUSY, errno.EREMOTEIO, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ESTALE}
_AGAIN = "start the same command again: what is finished is kept"
_CODE = re.compile(r"[A-Za-z]{1,48}")  # of S3; a digit or a sign more, and it may be a key
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)


def expected() -> tuple[type[BaseException], ...]:
    """What fsspec and its stores raise for reasons that are not our bugs, as of now: ask where one is caught."""
    return (OSError, ValueError, ImportError, *_loaded(_STORES))


def _loaded(kinds: Mapping[str, Sequence[str]]) -> tuple[type[BaseException], ...]:
    """Those of these that can have been raised, for their module is loaded.

    Importing botocore and aiohttp takes 0.4 s of CPU, without which commands on a disk do. `import_module` waits where
    another thread is still at it.
    """
    loaded = [(import_module(name), kinds[name]) for name in kinds if name in sys.modules]
    return tuple(getattr(module, kind) for module, of_module in loaded for kind in of_module)


class MissingError(StorageError):
    """The object (or its bucket) does not exist."""


def transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: time-outs, resets, throttling, 5xx, a body that was cut.

    A refusal (403) too: while credentials rotate or a policy spreads, a store refuses for a moment who is welcome.
    """
    if isinstance(error, (TimeoutError, ConnectionError, *_loaded(_CUT_OFF))):
        return True
    status = http_status(error)
    if status is not None:
        passing = status in (403, 408, 409, 429) or (status >= 500 and status != 501)
        return passing or _code(error) in _SPOILT
    return isinstance(error, OSError) and error.errno in _BUSY


def silent(error: BaseException) -> bool:
    """Whether nobody answered in time; a store that says that it timed out is not silent."""
    timed_out = isinstance(error, (TimeoutError, *_loaded(_LATE)))
    return timed_out and http_status(error) is None


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error that s3fs or aiohttp raised, if there was one."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _response(error: BaseException | None) -> Mapping[str, Any]:
    """What botocore understood of the answer behind an error; of an answer to aiohttp its status alone."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response
        if isinstance(error, _loaded(_ANSWER)):
            answer: Any = error
            return {"ResponseMetadata": {"HTTPStatusCode": answer.status}}
        error = error.__cause__
    return {}


def described(operation: str, uri: str, error: BaseException) -> StorageError:
    """The `StorageError` for `error`: operation, redacted address, reason and remedy."""
    kind = MissingError if isinstance(error, FileNotFoundError) or http_status(error) == 404 else StorageError
    return kind(f"cannot {operation} {redact(uri)}: {_reason(uri, error)}; {_remedy(kind, error)}")


def redact(uri: str) -> str:
    """`uri` without user information and without its query, which may carry a signature."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _reason(uri: str, error: BaseException) -> str:
    """What this machine says of the failure; of what the store says, status and code alone."""
    if (status := http_status(error)) is not None:
        code = _code(error)
        return f"HTTP {status}" + (f" {code}" if _CODE.fullmatch(code) else "")
    name = type(error).__name__
    if isinstance(error, _loaded(_UNREADABLE)) or redact(uri) != uri:
        return name  # the one quotes the answer, and libraries repeat addresses in spellings of their own
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = _URL.sub(lambda found: redact(found[0]), text)[:300]
    return f"{name}: {text}" if text else name


def _remedy(kind: type[StorageError], error: BaseException) -> str:
    if kind is MissingError:
        return "check the bucket and the path"
    if isinstance(error, (PermissionError, *_loaded(_NO_CREDENTIALS))):
        credentials = "check the credentials (AWS_PROFILE or AWS_ACCESS_KEY_ID) and what they may do here"
        return f"{credentials}, then {_AGAIN}"
    if isinstance(error, ImportError | ValueError):
        return "check the address; its scheme may need a package, such as gcsfs for gs://"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"make room, then {_AGAIN}"
    if transient(error):
        return f"check AWS_ENDPOINT_URL and the network, then {_AGAIN}"
    return f"put it right, then {_AGAIN}"
