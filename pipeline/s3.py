"""What S3 needs that fsspec's other stores do not: one try a request, deadlines, one PUT, listings page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from aiobotocore.session import AioSession
from botocore.utils import parse_timestamp

from pipeline.retry import call

MIB = 1 << 20
ONE_PUT = (5 << 30) // 2  # s3fs sends one PUT below twice its chunk size; S3 takes 5 GiB in one
CONNECT_S, ANSWER_S = 5.0, 30.0  # to connect, and between bytes
QUICK_CONNECT_S, QUICK_ANSWER_S = 1.0, 1.5  # the same for checks before a run


def serves(fs: Any) -> bool:
    """Whether the file system is s3fs's."""
    return "s3" in fs.protocol


def options(*, quick: bool) -> dict[str, Any]:
    """What s3fs is made with: time-outs, and no retries of botocore's."""
    connect, answer = (QUICK_CONNECT_S, QUICK_ANSWER_S) if quick else (CONNECT_S, ANSWER_S)
    config = {"connect_timeout": connect, "read_timeout": answer, "retries": {"total_max_attempts": 1}}
    return {"config_kwargs": config, "max_concurrency": 1}  # above 1, each read begins with a HEAD


def prepare(fs: Any) -> None:
    """Take the retries of s3fs away, and have it read timestamps fast.

    botocore tries its way through the formats of a timestamp: 105 of 120 us for each object that is listed.
    """
    fs.retries = 1
    if fs.session is None:
        session = AioSession(**fs.kwargs)  # as s3fs makes its own when it first connects
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
        fs.session = session


def _timestamp(text: str) -> datetime:
    """Listings have ISO 8601, headers RFC 9110's dates."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return cast(datetime, parse_timestamp(text))


def one_put(size: int, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """Keywords for one PUT with a deadline: aiohttp waits for "100 Continue" for ever, whatever its time-outs."""
    return {"chunksize": ONE_PUT, "timeout": answer_s + size / MIB}


def find(fs: Any, uri: str, root: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Path and information of each object below the folder `root`, in S3's order: pages of at most 1,000.

    A page that fails is asked for again by itself. s3fs's own `find` begins anew then, and keeps a tree of the folders.
    """
    bucket, key, _ = fs.split_path(root)
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **fs.req_kw}
    while True:
        page = call("list", uri, lambda: fs.call_s3("list_objects_v2", **asked))
        for item in page.get("Contents", ()):
            found = {"type": "file", "size": item["Size"], "ETag": item.get("ETag")}
            yield f"{bucket}/{item['Key']}", found | {"LastModified": item["LastModified"]}
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]
