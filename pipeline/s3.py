"""What S3 needs that fsspec's other stores do not: one try a request, deadlines, one PUT, listings page by page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from threading import Lock
from typing import Any, TypeVar
from xml.etree import ElementTree

from pipeline.retry import call

MIB = 1 << 20
LISTERS = 8  # stretches at once, each with a page of 1,000 objects in memory
Item = Mapping[str, Any]
T = TypeVar("T")
ONE_PUT = (5 << 30) // 2  # s3fs sends one PUT below twice its chunk size; S3 takes 5 GiB in one
CONNECT_S, ANSWER_S = 5.0, 30.0  # to connect, and between bytes
QUICK_S = 2.0  # for the whole answer to a check before a run
_MAKING = Lock()


def serves(fs: Any) -> bool:
    """Whether the file system, or its class, is s3fs's."""
    return "s3" in fs.protocol


def options() -> dict[str, Any]:
    """What s3fs is made with: time-outs, no retries of botocore's, no HEAD before each read.

    A new one each time: botocore writes into it, and what differs is another client to fsspec.
    """
    config = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "retries": {"total_max_attempts": 1}}
    return {"config_kwargs": config, "max_concurrency": 1}


def prepare(fs: Any) -> None:
    """Take the retries of s3fs away, have it read listings fast, and make its client.

    That takes 0.1 to 0.3 s, and s3fs would count it into the deadline of the first request.
    """
    fs.retries = 1
    with _MAKING:  # threads share the file system
        if fs.session is not None:
            return
        from aiobotocore.session import AioSession  # 16 MiB, which runs on other stores do without

        session = AioSession(**fs.kwargs)  # as s3fs makes its own when it first connects
        listens = session.get_component("event_emitter").register_first
        listens("before-parse.s3.ListObjectsV2", _read_page)
        fs.session = session
        fs.connect()


def head(fs: Any, path: str) -> None:
    """FileNotFoundError where there is no object. One request: s3fs would list, too, in search of a folder."""
    bucket, key, _ = fs.split_path(path)
    fs.call_s3("head_object", Bucket=bucket, Key=key)


def _read_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Read the objects of a page before botocore does, and leave the rest of it to it.

    By its model of the service and by trying formats of timestamps it takes 120 us an object; this takes 6.
    """
    try:
        page = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:
        return  # botocore says so
    if not page.tag.endswith("ListBucketResult"):
        return
    space = page.tag.removesuffix("ListBucketResult")  # some stores leave it out
    objects = page.findall(f"{space}Contents")
    for element in objects:
        page.remove(element)
    response_dict["body"] = ElementTree.tostring(page)
    customized_response_dict["Contents"] = [_object(element, space) for element in objects]


def _object(element: ElementTree.Element, space: str) -> dict[str, Any]:
    etag = element.findtext(f"{space}ETag")
    return {
        "Key": element.findtext(f"{space}Key"),
        "Size": int(element.findtext(f"{space}Size", "")),
        "LastModified": datetime.fromisoformat(element.findtext(f"{space}LastModified", "")),
        **({} if etag is None else {"ETag": etag}),
    }


def one_put(size: int) -> dict[str, Any]:
    """Keywords for one PUT with a deadline: aiohttp waits for "100 Continue" for ever, whatever its time-outs."""
    return {"chunksize": ONE_PUT, "timeout": ANSWER_S + size / MIB}


def find(
    fs: Any,
    uri: str,
    folder: str,
    make: Callable[[str, Item], T],
    cuts: Sequence[str] = (),
    *,
    deep: bool = True,
) -> list[T]:
    """`make(path, what s3fs would say of it)` of each object in the folder, with `deep` below it, in S3's order.

    Pages of 1,000 come one after another, for each names the next. With `cuts`, sorted names in the folder, the
    stretches between them are listed side by side. A page that fails is asked for again by itself.
    """
    bucket, key, _ = fs.split_path(folder)
    prefix = f"{key}/" if key else ""
    asked = {"Bucket": bucket, "Prefix": prefix, **fs.req_kw} | ({} if deep else {"Delimiter": "/"})
    ends = [prefix + cut for cut in cuts]
    with ThreadPoolExecutor(LISTERS) as pool:
        listed = pool.map(partial(_stretch, fs, uri, asked, make), ["", *ends], [*ends, ""])
        return [found for stretch in listed for found in stretch]


def _stretch(
    fs: Any, uri: str, asked: Mapping[str, str], make: Callable[[str, Item], T], after: str, last: str
) -> list[T]:
    """The objects that are asked for and whose keys are in (after, last]; "" is no bound."""
    more = {"StartAfter": after} if after else {}
    stretch: list[T] = []
    while True:
        page = call("list", uri, lambda: fs.call_s3("list_objects_v2", **asked, **more))
        objects = page.get("Contents", [])
        inside = [o for o in objects if not last or o["Key"] <= last]
        stretch += [
            make(f"{asked['Bucket']}/{o['Key']}", o | {"type": "file", "size": o["Size"]}) for o in inside
        ]
        if not page.get("IsTruncated") or len(inside) < len(objects) or (last and objects[-1]["Key"] == last):
            return stretch
        more["ContinuationToken"] = page["NextContinuationToken"]
