"""Bad Parquet shards, and good ones with bad rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.entries import CAPTIONED, HTML, NO_SUBTITLE, Outcome, Shard, failed, parquet, picture

ONE, TWO = picture(31), picture(32)
KEYS = ["one", "two"]
BOTH: dict[str, Outcome] = {"one": CAPTIONED, "two": CAPTIONED}


def _table(**columns: Any) -> pa.Table:
    """Two good rows; columns are added or exchanged."""
    return pa.table({"id": KEYS, "image": [ONE, TWO], "subtitle": ["x", "y"], **columns})


WHOLE = parquet(_table())


def _unchecked(*values: bytes) -> pa.Array:
    """Text that need not be UTF-8."""
    _, offsets, data = pa.array(values, pa.binary()).buffers()
    return pa.Array.from_buffers(pa.string(), len(values), [None, offsets, data])


def _pickled(name: str) -> bytes:
    """A column that Ray would unpickle, as a file says it: its metadata name the type."""
    metadata = {"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""}
    table = _table(**{name: pa.array([b"cposix\nsystem\n(S'touch /tmp/owned'\ntR."] * 2, pa.binary())})
    at = table.schema.get_field_index(name)
    return parquet(table.cast(table.schema.set(at, pa.field(name, pa.binary(), metadata=metadata))))


def _second_group_damaged() -> bytes:
    """Ten good rows, and ten whose pages are noise."""
    table = pa.table({"id": [f"k{i:02}" for i in range(20)], "image": [ONE] * 20, "subtitle": ["x"] * 20})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=10, use_dictionary=False, compression="zstd")
    with pq.ParquetFile(io.BytesIO(sink.getvalue())) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
        size = sum(file.metadata.row_group(1).column(i).total_compressed_size for i in range(3))
    data = bytearray(sink.getvalue())
    data[start : start + size] = b"\xff" * size
    return bytes(data)


def _bomb() -> bytes:
    """16 MB of zeros in one cell of 1 KB."""
    sink = io.BytesIO()
    pq.write_table(_table(image=[ONE, bytes(16 << 20)]), sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def _footer(length: int) -> bytes:
    return WHOLE[:-8] + length.to_bytes(4, "little") + b"PAR1"


def _of(data: bytes, code: str) -> Shard:
    return Shard(data, {"": failed(code)})


def _good(**columns: Any) -> Shard:
    return Shard(parquet(_table(**columns)), BOTH)


def _with(code: str, **columns: Any) -> Shard:
    """The first row good, the second with this failure."""
    return Shard(parquet(_table(**columns)), {"one": CAPTIONED, "two": failed(code)})


def shards() -> Mapping[str, Shard]:
    """Each by its name, to which .parquet is added."""
    path_only = [{"bytes": ONE, "path": "x.jpg"}, {"bytes": None, "path": "/etc/passwd"}]
    url = [{"bytes": ONE, "path": "x.jpg"}, {"bytes": None, "path": "http://127.0.0.1:9/x.jpg"}]
    twice = _table().append_column("image", pa.array([ONE, TWO]))
    return {
        **_broken(),
        "no_rows": _of(parquet(_table().slice(0, 0)), "shard_empty"),
        "image_column_missing": _of(parquet(_table().drop(["image"])), "missing_column"),
        "image_column_twice": _of(parquet(twice), "missing_column"),
        "key_column_missing": _of(parquet(_table().drop(["id"])), "missing_column"),
        "images_are_addresses": _of(
            parquet(_table(image=["http://127.0.0.1:9/a.jpg"] * 2)), "missing_column"
        ),
        "images_are_lists": _of(parquet(_table(image=[[1, 2], [3]])), "missing_column"),
        "images_are_all_null": _of(parquet(_table(image=pa.nulls(2))), "missing_column"),
        "image_is_pickled": _of(_pickled("image"), "shard_unreadable"),
        "key_is_pickled": _of(_pickled("id"), "shard_unreadable"),
        "field_is_pickled": Shard(_pickled("subtitle"), {"one": NO_SUBTITLE, "two": NO_SUBTITLE}),
        "cell_is_null": _with("empty_input", image=[ONE, None]),
        "cell_is_empty": _with("empty_input", image=[ONE, b""]),
        "cell_is_a_page": _with("unidentified", image=[ONE, HTML]),
        "cell_is_cut": _with("truncated", image=[ONE, picture(3, "JPEG", (400, 300))[:-500]]),
        "cell_is_a_bomb": Shard(_bomb(), {"one": CAPTIONED, "two": failed("too_large")}),
        "struct_names_a_local_file": _with("empty_input", image=path_only),
        "struct_names_an_address": _with("empty_input", image=url),
        "struct_is_null": _with("empty_input", image=[path_only[0], None]),
        "key_is_null": Shard(
            parquet(_table(id=["one", None])), {"one": CAPTIONED, "row:1": failed("bad_key")}
        ),
        "key_is_empty": Shard(
            parquet(_table(id=["one", ""])), {"one": CAPTIONED, "row:1": failed("bad_key")}
        ),
        "key_twice": Shard(parquet(_table(id=["one", "one"])), {"one": failed("duplicate_key")}),
        "key_is_not_utf_8": Shard(
            parquet(_table(id=_unchecked(b"one", b"\xff"))), {"one": CAPTIONED, "\\xff": CAPTIONED}
        ),
        "key_looks_like_another_row": Shard(
            parquet(_table(id=["row:1", None])), {"row:1": failed("duplicate_key")}
        ),
        "keys_are_numbers": Shard(parquet(_table(id=[1, -2])), {"1": CAPTIONED, "-2": CAPTIONED}),
        "key_is_a_path": Shard(
            parquet(_table(id=["../../etc/passwd", "two"])), {"../../etc/passwd": CAPTIONED, "two": CAPTIONED}
        ),
        "field_is_null": Shard(parquet(_table(subtitle=["x", None])), {"one": CAPTIONED, "two": NO_SUBTITLE}),
        "field_is_not_utf_8": _good(subtitle=_unchecked(b"x", b"\xff\xfe")),
        "field_with_nul": _good(subtitle=["x", "a\0b"]),
        "field_of_100_kb": Shard(
            parquet(_table(subtitle=["x", "a" * 100_000])), {"one": CAPTIONED, "two": NO_SUBTITLE}
        ),
        "other_columns_are_deep": _good(deep=[[[[1]]], [[[2]]]], when=pa.array([0, 1], pa.timestamp("ns"))),
        "column_names_are_odd": _good(**{"": ["a", "b"], "a.b": [1, 2], "\0": [1, 2]}),
        "images_are_large_binary": _good(image=pa.array([ONE, TWO], pa.large_binary())),
        "images_are_dictionaries": _good(image=pa.array([ONE, TWO]).dictionary_encode()),
        "fields_are_categories": _good(subtitle=pa.array(["x", "x"]).dictionary_encode()),
    }


def _broken() -> Mapping[str, Shard]:
    """Files that are no Parquet, or not any more."""
    damaged = {f"k{i:02}": CAPTIONED for i in range(10)}
    return {
        "empty": _of(b"", "shard_empty"),
        "html_page": _of(HTML, "shard_unreadable"),
        "magic_around_zeros": _of(b"PAR1" + bytes(100) + b"PAR1", "shard_unreadable"),
        "cut": _of(WHOLE[:-100], "shard_unreadable"),
        "beginning_cut": _of(WHOLE[300:], "shard_unreadable"),
        "footer_of_4_gb": _of(_footer((1 << 32) - 1), "shard_unreadable"),
        "footer_of_no_bytes": _of(_footer(0), "shard_unreadable"),
        "tar_named_parquet": _of(bytes(10_240), "shard_unreadable"),
        "encrypted": _of(WHOLE[:-4] + b"PARE", "shard_unreadable"),
        "second_row_group_damaged": Shard(
            _second_group_damaged(), {**damaged, "": failed("shard_unreadable")}
        ),
    }
