"""pipeline.store_errors: what may pass, and what is said of a failure, without a secret in it."""

from __future__ import annotations

import errno

import pytest
from aiohttp import ClientResponseError, RequestInfo
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error
from yarl import URL

from pipeline.store_errors import described, redact, transient

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
    assert words.endswith("then start the same command again: what is finished is kept")


SECRETS = ("AKIATELLTALEKEYIDXX1", "telltaleSecret", "telltaleToken", "telltaleSignature")
SIGNED = "https://u:telltaleSecret@host/b/k?X-Amz-Credential=AKIATELLTALEKEYIDXX1&X-Amz-Signature=telltaleSignature"
ECHO = f"Authorization: Credential=AKIATELLTALEKEYIDXX1/s3, Signature=telltaleSignature\ntoken: telltaleToken {SIGNED}"


def refused(code: str, message: str) -> BaseException:
    """What s3fs makes of a refusal in these words."""
    parsed = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    error: BaseException = translate_boto_error(boto.ClientError(parsed, "PutObject"))
    return error


def refused_by_url() -> BaseException:
    """What aiohttp makes of a refusal."""
    info = RequestInfo(URL(SIGNED), "GET", CIMultiDictProxy(CIMultiDict()), URL(SIGNED))
    return ClientResponseError(info, (), status=403, message=ECHO)


@pytest.mark.parametrize(
    "error",
    [
        refused("SignatureDoesNotMatch", ECHO),
        refused("AKIATELLTALEKEYIDXX1", ECHO),
        refused("AccessDenied for telltaleToken", ""),
        refused_by_url(),
        ResponseParserError(f"Unable to parse response, invalid XML received:\n b'{ECHO}'"),
        boto.EndpointConnectionError(endpoint_url=SIGNED),
        ValueError(f"no such place: {SIGNED.upper().replace('TELLTALE', 'telltale')}"),
    ],
    ids=range(7),
)
def test_what_a_store_sends_back_is_not_repeated(error: BaseException) -> None:
    words = str(described("write", "s3://b/k", error))
    assert [secret for secret in SECRETS if secret.casefold() in words.casefold()] == []


def test_the_code_of_a_refusal_is_said() -> None:
    assert "HTTP 403 SignatureDoesNotMatch; " in str(
        described("write", "s3://b/k", refused("SignatureDoesNotMatch", ""))
    )


@pytest.mark.parametrize("uri", [SIGNED, "s3://AKIATELLTALEKEYIDXX1:telltaleSecret@b/k?token=telltaleToken"])
def test_an_address_with_secrets_is_said_without(uri: str) -> None:
    """Also where a library puts parts of it in words of its own."""
    error = boto.ParamValidationError(report=f"Invalid bucket name {uri.partition('://')[2]!r}")
    words = str(described("read", uri, error))
    assert [secret for secret in SECRETS if secret in words] == []
    assert redact(uri) in words
