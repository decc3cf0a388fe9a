"""What a store says in its refusals, which may be the whole signed request, is in no message, log or output of ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.preflight import check
from pipeline import retry, storage
from pipeline.config import read
from pipeline.errors import CaptionmillError
from tests import made
from tests.conftest import Store
from tests.faults.proxy import Call, Proxy

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIATELLTALEKEYIDXX1",
    "AWS_SECRET_ACCESS_KEY": "telltaleAwsSecretKey2",
    "AWS_SESSION_TOKEN": "telltaleSessionToken3",
}
USER, QUERY = (
    "AKIATELLTALEUSER4:telltalePassword5@",
    "?X-Amz-Credential=telltaleCredential6&X-Amz-Signature=telltale7",
)
TELLTALES = (*SECRETS.values(), "AKIATELLTALEUSER4", "telltale", "Signature=", "AWS4-HMAC")


@pytest.fixture
def uri(moto_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder of a store that is asked with these secrets."""
    monkeypatch.setattr(retry, "PATIENT", retry.Patience(0.3))
    with Proxy().serving() as proxy:
        proxy.forward_to(moto_store.environment["AWS_ENDPOINT_URL"])
        proxy.schedule(refusing)
        environment = {**moto_store.environment, **SECRETS, "AWS_ENDPOINT_URL": proxy.url}
        with Store(environment, moto_store.root).entered() as uri:
            yield uri


def refusing(call: Call) -> str:
    """Reads are refused and all else fails; both answers quote the request."""
    return "403" if call.method == "GET" else "500"


DONE: dict[str, Callable[[str], object]] = {
    "read": storage.read,
    "read a range": lambda uri: storage.read_range(uri, 0, 10),
    "list": storage.listing,
    "expand": lambda uri: storage.expand(f"{uri}/*"),
    "write": lambda uri: storage.put(uri, b"x"),
    "write once": lambda uri: storage.put_new(uri, b"x"),
    "look at": storage.exists,
    "delete": storage.delete,
    "check reading": storage.check_readable,
    "check writing": storage.check_writable,
}


@pytest.mark.parametrize("name", DONE)
@pytest.mark.parametrize(
    ("user", "query"), [("", ""), (USER, ""), ("", QUERY)], ids=["plain", "user", "query"]
)
def test_an_error_repeats_nothing_of_the_request(
    uri: str,
    name: str,
    user: str,
    query: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(CaptionmillError) as told:
        DONE[name](uri.replace("s3://", f"s3://{user}") + query)
    assert telltales(str(told.value), repr(told.value), caplog.text, *capfd.readouterr()) == []


@pytest.mark.parametrize(("user", "query"), [("", ""), (USER, QUERY)], ids=["plain", "address"])
def test_a_job_that_is_refused_repeats_nothing_of_the_request(
    uri: str, user: str, query: str, tmp_path: Path
) -> None:
    made.checkpoint(tmp_path / "checkpoint")
    with_user = uri.replace("s3://", f"s3://{user}")
    text = made.job(f"{with_user}/in/*.tar", tmp_path / "checkpoint", f"{with_user}/out{query}")
    with pytest.raises(CaptionmillError) as told:
        check(read(text))
    assert telltales(str(told.value)) == []


def telltales(*said: str) -> list[str]:
    """What is in these words that should not be."""
    return [telltale for telltale in TELLTALES if any(telltale in words for words in said)]
