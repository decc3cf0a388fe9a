"""pipeline.retry: how long a failure is waited out, how long apart the tries are, and what passes through."""

from __future__ import annotations

import itertools
import time

import pytest
from botocore import exceptions as boto
from s3fs.errors import translate_boto_error

from pipeline.errors import StorageError
from pipeline.retry import FIRST_WAIT_S, LONGEST_WAIT_S, QUICK, Patience, call, pauses

SHORT = Patience(0.3)


def answered(status: int, code: str) -> BaseException:
    """The error that s3fs makes of an answer with this status and code."""
    parsed = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: BaseException = translate_boto_error(boto.ClientError(parsed, "GetObject"))
    return error


def test_pauses_lie_below_a_bound_that_doubles_to_a_cap() -> None:
    for n, pause in enumerate(itertools.islice(pauses(), 50)):
        assert 0 <= pause <= min(FIRST_WAIT_S * 2**n, LONGEST_WAIT_S)


def test_pauses_are_spread_over_all_below_the_bound() -> None:
    tenth = [next(itertools.islice(pauses(), 9, None)) / LONGEST_WAIT_S for _ in range(1000)]
    assert [sum(low <= p < low + 0.25 for p in tenth) > 150 for low in (0, 0.25, 0.5, 0.75)] == [True] * 4


class Failing:
    """Fails so often with an error, each time after a while, then answers how often it was asked."""

    def __init__(self, error: BaseException, times: int, takes_s: float = 0.0) -> None:
        self.asked, self._error, self._times, self._takes_s = 0, error, times, takes_s

    def __call__(self) -> int:
        self.asked += 1
        time.sleep(self._takes_s)
        if self.asked <= self._times:
            raise self._error
        return self.asked


def test_a_failure_that_passes_is_not_seen() -> None:
    assert call("read", "s3://b/k", Failing(ConnectionResetError(), 2)) == 3


def test_a_failure_that_stays_is_told_when_patience_ends() -> None:
    failing = Failing(ConnectionResetError(), 1000)
    begun = time.monotonic()
    with pytest.raises(StorageError, match="cannot read s3://b/k: ConnectionResetError"):
        call("read", "s3://b/k", failing, SHORT)
    assert time.monotonic() - begun >= SHORT.seconds
    assert 2 <= failing.asked < 1000


def test_what_takes_longer_than_patience_is_tried_again_too() -> None:
    """A large object whose connection drops near its end."""
    assert call("write", "s3://b/k", Failing(ConnectionResetError(), 1, 0.1), Patience(0.05)) == 2


def test_a_failure_that_will_not_pass_is_told_at_once() -> None:
    failing = Failing(answered(400, "InvalidArgument"), 1)
    with pytest.raises(StorageError):
        call("read", "s3://b/k", failing)
    assert failing.asked == 1


def test_a_check_does_not_ask_again_where_nobody_answers() -> None:
    failing = Failing(boto.ConnectTimeoutError(endpoint_url="http://store"), 1000)
    with pytest.raises(StorageError):
        call("look at", "s3://b/k", failing, QUICK)
    assert failing.asked == 1


def test_a_check_asks_again_where_the_store_says_that_it_timed_out() -> None:
    assert call("look at", "s3://b/k", Failing(answered(400, "RequestTimeout"), 1), QUICK) == 2


def test_the_answer_of_a_conditional_write_is_no_failure() -> None:
    with pytest.raises(FileExistsError):
        call("write", "s3://b/k", Failing(FileExistsError(), 1))


def test_what_a_store_said_does_not_travel_with_the_error() -> None:
    with pytest.raises(StorageError) as told:
        call("read", "s3://b/k", Failing(answered(400, "InvalidArgument"), 1))
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__
