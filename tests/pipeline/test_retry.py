"""pipeline.retry: what is tried again, how often, how long apart, and what is said in the end."""

from __future__ import annotations

import errno

import pytest
from botocore import exceptions as boto
from s3fs.errors import translate_boto_error

from pipeline.errors import StorageError
from pipeline.retry import FIRST_WAIT_S, QUICK_TRIES, TRIES, call, described, pauses, transient

BODY_CUT = boto.FlexibleChecksumError(error_msg="Expected checksum x did not match calculated checksum: y")


def answered(status: int, code: str) -> BaseException:
    """The error that s3fs makes of an answer with this status and code."""
    parsed = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: BaseException = translate_boto_error(boto.ClientError(parsed, "GetObject"))
    return error


PASSING = [
    *(answered(500, code) for code in ("InternalError", "500", "unheard of")),
    *(answered(503, code) for code in ("SlowDown", "ServiceUnavailable", "503")),
    *(answered(403, code) for code in ("AccessDenied", "RequestTimeTooSkewed", "403")),
    *(answered(400, code) for code in ("RequestTimeout", "IncompleteBody", "BadDigest")),
    answered(409, "ConditionalRequestConflict"),
    answered(429, "TooManyRequests"),
    boto.ConnectionClosedError(endpoint_url="http://store"),
    boto.ReadTimeoutError(endpoint_url="http://store"),
    BODY_CUT,
    ConnectionResetError(),
    OSError(errno.ESTALE, "stale file handle"),
]
LASTING = [
    answered(400, "InvalidArgument"),
    answered(404, "NoSuchKey"),
    answered(412, "PreconditionFailed"),
    answered(416, "InvalidRange"),
    answered(501, "NotImplemented"),
    boto.NoCredentialsError(),
    PermissionError(errno.EACCES, "a local file that is not ours"),
    OSError(errno.ENOSPC, "the disk is full"),
    FileNotFoundError("nothing"),
]


@pytest.mark.parametrize("error", PASSING, ids=range(len(PASSING)))
def test_what_may_pass_is_tried_again(error: BaseException) -> None:
    assert transient(error)


@pytest.mark.parametrize("error", LASTING, ids=range(len(LASTING)))
def test_what_will_not_pass_is_told_at_once(error: BaseException) -> None:
    assert not transient(error)


def test_pauses_double_and_are_jittered() -> None:
    for n, pause in enumerate(pauses()):
        assert 0.5 <= pause / (FIRST_WAIT_S * 2**n) <= 1.5
    assert len({next(pauses()) for _ in range(100)}) > 50


@pytest.mark.parametrize("tries", [TRIES, QUICK_TRIES])
def test_pauses_end(tries: int) -> None:
    assert len(list(pauses(tries))) == tries - 1


class Failing:
    """Fails so often with an error, then answers how often it was asked."""

    def __init__(self, error: BaseException, times: int) -> None:
        self.asked, self._error, self._times = 0, error, times

    def __call__(self) -> int:
        self.asked += 1
        if self.asked <= self._times:
            raise self._error
        return self.asked


def test_a_failure_that_passes_is_not_seen() -> None:
    assert call("read", "s3://b/k", Failing(BODY_CUT, 2)) == 3


def test_tries_are_bounded() -> None:
    failing = Failing(ConnectionResetError(), 1000)
    with pytest.raises(StorageError, match="cannot read s3://b/k: ConnectionResetError"):
        call("read", "s3://b/k", failing)
    assert failing.asked == TRIES


def test_a_check_asks_less_often() -> None:
    failing = Failing(answered(503, "SlowDown"), 1000)
    with pytest.raises(StorageError):
        call("look at", "s3://b/k", failing, quick=True)
    assert failing.asked == QUICK_TRIES


def test_a_check_does_not_ask_again_where_nobody_answers() -> None:
    failing = Failing(boto.ConnectTimeoutError(endpoint_url="http://store"), 1000)
    with pytest.raises(StorageError):
        call("look at", "s3://b/k", failing, quick=True)
    assert failing.asked == 1


def test_a_check_asks_again_where_the_store_says_that_it_timed_out() -> None:
    assert call("look at", "s3://b/k", Failing(answered(400, "RequestTimeout"), 1), quick=True) == 2


def test_the_answer_of_a_conditional_write_is_no_failure() -> None:
    with pytest.raises(FileExistsError):
        call("write", "s3://b/k", Failing(FileExistsError(), 1))


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (answered(503, "SlowDown"), "check AWS_ENDPOINT_URL and the network"),
        (answered(403, "AccessDenied"), "check the credentials"),
    ],
)
def test_a_store_that_stays_down_is_told_with_what_to_do(error: BaseException, remedy: str) -> None:
    words = str(described("read", "s3://b/k", error))
    assert words.startswith("cannot read s3://b/k: ")
    assert remedy in words
    assert words.endswith("then start again: finished work is kept")
