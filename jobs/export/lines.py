"""Lines of JSON, in parts: JSONL, and the NDJSON that OpenSearch and Elasticsearch take in bulk.

Rows that are no longer there come before the captions to put, and the parts are to be loaded in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from jobs.export.rows import documents, few, joined, text
from pipeline.columns import CAPTIONS
from pipeline.delta import KEY, Delta

JSONL_BYTES = 64 << 20  # of a part
BULK_BYTES = 10_000_000  # OpenSearch takes 100 MB, and likes 5 to 15
LONGEST_KEYWORD = 8191  # characters, of 4 bytes at most: Lucene takes 32,766 bytes

Write = Callable[[str, bytes], None]  # of a file: its name, and what is in it


def jsonl(delta: Delta) -> Iterator[bytes]:
    """A row to delete has its key and, in `removed`, why; every other line is a caption to put."""
    for batch in few(delta.removed()):
        yield text(joined(documents(batch.rename_columns([*KEY, "removed"])), "\n"))
    for batch in few(delta.captions(CAPTIONS.names)):
        yield text(joined(documents(batch), "\n"))


def bulk(delta: Delta) -> Iterator[bytes]:
    """Actions with their documents. The index is named by the address that they are sent to: /INDEX/_bulk.

    An `_id` has at most 97 bytes, and 512 are allowed; neither part of a key can have a colon or a quote.
    """
    for batch in few(delta.removed()):
        yield text(joined('{"delete":{"_id":"', batch["asset_id"], ":", batch["prompt_id"], '"}}\n'))
    for batch in few(delta.captions(CAPTIONS.names)):
        action = joined('{"index":{"_id":"', batch["asset_id"], ":", batch["prompt_id"], '"}}\n')
        yield text(joined(action, documents(batch), "\n"))


def parts(lines: Iterable[bytes], name: str, limit: int, write: Write) -> int:
    """Write stretches of lines as files of at most `limit` bytes, but for a stretch that is longer; at least one file.

    `name` has the place of a number. Returns how many files there are.
    """
    held: list[bytes] = []
    size, n = 0, 0
    for one in lines:
        if held and size + len(one) > limit:
            write(name.format(n), b"".join(held))
            held, size, n = [], 0, n + 1
        held.append(one)
        size += len(one)
    write(name.format(n), b"".join(held))
    return n + 1


def mapping() -> bytes:
    """The body that creates an index for these documents."""
    told = {field.name: _mapped(field) for field in CAPTIONS}
    return (json.dumps({"mappings": {"dynamic": False, "properties": told}}, indent=1) + "\n").encode()


def _mapped(field: pa.Field) -> dict[str, Any]:
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    if field.name == "caption_text":
        return {"type": "text"}
    if field.name == "caption":  # as the model said it: kept, and not to be searched
        return {"type": "keyword", "index": False, "doc_values": False}
    if pa.types.is_string(kind):
        return {"type": "keyword", "ignore_above": LONGEST_KEYWORD}
    if pa.types.is_timestamp(kind):
        return {"type": "date"}
    return {"type": {"int32": "integer", "int64": "long", "double": "double"}[str(kind)]}
