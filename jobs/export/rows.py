"""Captions as JSON: times as RFC 3339, numbers that JSON does not have as null, and nothing but ASCII.

A column at a time: it takes a fifth of the time that a dict and `json.dumps` for each row take.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs import interrupt

AT_ONCE = 1_024  # rows: about a megabyte


def few(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, `AT_ONCE` at a time."""
    for batch in batches:
        interrupt.check()
        yield from (batch.slice(first, AT_ONCE) for first in range(0, len(batch), AT_ONCE))


def documents(batch: pa.RecordBatch) -> pa.Array:
    """A JSON object of each row, as strings."""
    pieces: list[Any] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        pieces += [f"{',' if pieces else '{'}{quoted(name)}:", _values(column)]
    return joined(*pieces, "}")


def joined(*pieces: Any) -> pa.Array:
    """Strings, and columns of strings, one behind the other in each row."""
    return pc.binary_join_element_wise(*pieces, "")


def text(column: pa.Array) -> bytes:
    """All strings, one behind the other."""
    whole: bytes = "".join(column.to_pylist()).encode()
    return whole


def _values(column: pa.Array) -> pa.Array:
    """JSON of each value, as strings."""
    kind = column.type
    if pa.types.is_string(kind):
        return _each(column.dictionary_encode(), quoted)
    if pa.types.is_list(kind):
        return pa.array([json.dumps(value) for value in column.to_pylist()], pa.string())
    if pa.types.is_timestamp(kind):
        return _each(pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ").dictionary_encode(), quoted)
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, None)
    return column.cast(pa.string()).fill_null("null")


def _each(column: pa.DictionaryArray, encode: Callable[[str], str]) -> pa.Array:
    """The values encoded, each different one once."""
    encoded = pa.array(map(encode, column.dictionary.to_pylist()), pa.string())
    return encoded.take(column.indices).fill_null("null")
