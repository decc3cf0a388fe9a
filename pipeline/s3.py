"""What S3 needs that fsspec's other stores do not: one try a request, deadlines, one PUT, listings page by page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from xml.etree import ElementTree

from aiobotocore.session import AioSession

from pipeline.retry import call

MIB = 1 << 20
LISTERS = 8  # stretches at once, each with a page of 1,000 objects in memory
Item = Mapping[str, Any]
T = TypeVar("T")
ONE_PUT = (5 << 30) // 2  # s3fs sends one PUT below twice its chunk size; S3 takes 5 GiB in one
CONNECT_S, ANSWER_S = 5.0, 30.0  # to connect, and between bytes
QUICK_CONNECT_S, QUICK_ANSWER_S = 1.0, 1.5  # the same for checks before a run


def serves(fs: Any) -> bool:
    """Whether the file system, or its class, is s3fs's."""
    return "s3" in fs.protocol


def options(*, quick: bool) -> dict[str, Any]:
    """What s3fs is made with: time-outs, and no retries of botocore's."""
    connect, answer = (QUICK_CONNECT_S, QUICK_ANSWER_S) if quick else (CONNECT_S, ANSWER_S)
    config = {"connect_timeout": connect, "read_timeout": answer, "retries": {"total_max_attempts": 1}}
    return {"config_kwargs": config, "max_concurrency": 1}  # above 1, each read begins with a HEAD


def prepare(fs: Any) -> None:
    """Take the retries of s3fs away, have it read listings fast, and make its client.

    That takes 0.3 s of a quiet machine, and s3fs would count it into the deadline of the first request.
    """
    fs.retries = 1
    if fs.session is None:
        session = AioSession(**fs.kwargs)  # as s3fs makes its own when it first connects
        listens = session.get_component("event_emitter").register_first
        listens("before-parse.s3.ListObjectsV2", _read_page)
        fs.session = session
        fs.connect()


def _read_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Read the objects of a page before botocore does, and leave the rest of it to it.

    By its model of the service and by trying formats of timestamps it takes 120 us an object; this takes 6.
    """
    try:
        page = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:
        return  # botocore says so
    if _name(page) != "ListBucketResult":
        return
    objects = [element for element in page if _name(element) == "Contents"]
    page[:] = [element for element in page if _name(element) != "Contents"]
    response_dict["body"] = ElementTree.tostring(page)
    customized_response_dict["Contents"] = [_object(element) for element in objects]


def _object(element: ElementTree.Element) -> dict[str, Any]:
    said = {_name(field): field.text or "" for field in element}
    return {
        "Key": said["Key"],
        "Size": int(said["Size"]),
        "LastModified": datetime.fromisoformat(said["LastModified"]),
        **({"ETag": said["ETag"]} if "ETag" in said else {}),
    }


def _name(element: ElementTree.Element) -> str:
    """Without its namespace, which some stores leave out."""
    return element.tag.rpartition("}")[2]


def one_put(size: int, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """Keywords for one PUT with a deadline: aiohttp waits for "100 Continue" for ever, whatever its time-outs."""
    return {"chunksize": ONE_PUT, "timeout": answer_s + size / MIB}


def find(fs: Any, uri: str, root: str, cuts: Sequence[str], make: Callable[[str, Item], T]) -> list[T]:
    """`make(path, what s3fs would say of it)` of each object below the folder `root`, in S3's order.

    Pages of 1,000 come one after another, for each names the next. With `cuts`, sorted names below `root`, the
    stretches between them are listed side by side. A page that fails is asked for again by itself.
    """
    bucket, key, _ = fs.split_path(root)
    prefix = f"{key}/" if key else ""
    ends = [prefix + cut for cut in cuts]
    with ThreadPoolExecutor(LISTERS) as pool:
        listed = pool.map(partial(_stretch, fs, uri, (bucket, prefix), make), ["", *ends], [*ends, ""])
        return [found for stretch in listed for found in stretch]


def _stretch(
    fs: Any, uri: str, below: tuple[str, str], make: Callable[[str, Item], T], after: str, last: str
) -> list[T]:
    """The objects whose keys begin with the prefix and are in (after, last]; "" is no bound."""
    bucket, prefix = below
    asked = {"Bucket": bucket, "Prefix": prefix, **fs.req_kw} | ({"StartAfter": after} if after else {})
    stretch: list[T] = []
    while True:
        page = call("list", uri, lambda: fs.call_s3("list_objects_v2", **asked))
        objects = page.get("Contents", [])
        inside = [o for o in objects if not last or o["Key"] <= last]
        stretch += [make(f"{bucket}/{o['Key']}", o | {"type": "file", "size": o["Size"]}) for o in inside]
        if not page.get("IsTruncated") or len(inside) < len(objects) or (last and objects[-1]["Key"] == last):
            return stretch
        asked["ContinuationToken"] = page["NextContinuationToken"]
