"""pipeline.pages and pipeline.row_groups: pages are looked at before pyarrow takes memory for them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import MediaError
from pipeline.pages import Pages, WideError
from pipeline.row_groups import Table, cells, open_table
from pipeline.types import Code, Shard, ShardFormat

ROOT = Path(__file__).parents[2]
# Scans a file again and again, with one bit of its footer turned each time, and prints how many scans it survived.
TURNED = """
import sys
from pathlib import Path
from pipeline import index, storage
from pipeline.config import InputConfig
from pipeline.types import Shard, ShardFormat, Size
file = Path(sys.argv[1])
whole = file.read_bytes()
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
config = InputConfig("d", (str(file),), key_column="key")
done = 0
for at in range(footer, len(whole)):
    turned = bytearray(whole)
    turned[at] ^= 1 << at % 8
    file.write_bytes(turned)
    info = storage.info(str(file))
    shard = Shard(str(file), file.name, info.etag, info.size, ShardFormat.PARQUET)
    rows = list(index.scan(shard, config, lambda media: [Size(1, 1)] * len(media)))
    done += bool(rows)
print(done, len(whole) - footer)
"""


def written(folder: Path, table: pa.Table, **options: object) -> Shard:
    file = folder / "shard.parquet"
    pq.write_table(table, file, **options)
    info = storage.info(str(file))
    return Shard(str(file), file.name, info.etag, info.size, ShardFormat.PARQUET)


def rows(table: Table, group: int = 0) -> list[tuple[int, bytes]]:
    """Number and first bytes of each row of a group, as they come."""
    return [
        (first + place, value.as_py()[:2])
        for first, batch in table.batches(group, ["image"])
        for place, value in enumerate(batch.column(0))
    ]


def images(count: int, size: int) -> pa.Table:
    """Cells of `size` bytes that begin with their number."""
    return pa.table({"image": [number.to_bytes(2, "big") + bytes(size - 2) for number in range(count)]})


def test_no_bit_of_a_footer_that_is_turned_ends_the_process(tmp_path: Path) -> None:
    """Asked for the metadata of a column, pyarrow 26.0 aborts for one in ten of them."""
    table = pa.table({"image": [{"bytes": b"x", "path": "a"}] * 3, "key": ["a", "b", "c"]})
    shard = written(tmp_path, table)

    done = subprocess.run(
        [sys.executable, "-c", TURNED, shard.uri], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    survived, turned = map(int, done.stdout.split())
    assert survived == turned > 400


def test_a_page_above_the_most_is_too_large_before_it_is_read(tmp_path: Path) -> None:
    shard = written(tmp_path, images(1, 1 << 20), compression="zstd", use_dictionary=False)

    with open_table(shard, most=1 << 19) as table, pytest.raises(MediaError) as raised:
        rows(table)
    assert raised.value.code is Code.TOO_LARGE
    assert shard.bytes < 1 << 14


@pytest.mark.parametrize(("count", "size"), [(3000, 100), (40, 100_000), (40, 3_000_000)])
def test_every_row_comes_once_and_in_order_however_large_pages_are(
    tmp_path: Path, count: int, size: int
) -> None:
    """One page of 0.3, 4 and 120 MB: read 256 rows at once, 8, and one."""
    shard = written(tmp_path, images(count, size), compression="zstd", use_dictionary=False)

    with open_table(shard) as table:
        assert rows(table) == [(number, number.to_bytes(2, "big")) for number in range(count)]


def test_an_encoding_whose_memory_has_no_bound_is_refused_by_name(tmp_path: Path) -> None:
    shard = written(
        tmp_path, images(3, 9), use_dictionary=False, column_encoding={"image": "DELTA_BYTE_ARRAY"}
    )

    with open_table(shard) as table, pytest.raises(ValueError, match=r"DELTA_BYTE_ARRAY.*write .* PLAIN"):
        rows(table)


def test_cells_come_from_the_row_groups_that_hold_them_alone(tmp_path: Path) -> None:
    """The first row group is damaged, and nobody asks for it."""
    shard = written(tmp_path, images(40, 50), use_dictionary=False, compression="none", row_group_size=10)
    file = Path(shard.uri)
    file.write_bytes(file.read_bytes()[:4] + bytes(200) + file.read_bytes()[204:])

    with open_table(shard) as table:
        assert [(n, data[:2]) for n, data in cells(table, "image", {35, 12})] == [
            (12, b"\0\x0c"),
            (35, b"\0\x23"),
        ]


@pytest.mark.parametrize("chunks", [[(0, 10), (5, 20)], [(10, 30)], [(12, 8)]])
def test_columns_that_overlap_or_lie_outside_the_file_are_refused(chunks: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="columns that overlap"):
        Pages(io.BytesIO(bytes(20)), 20).expect(chunks, 1, 1)


def test_pages_too_large_for_several_rows_say_so(tmp_path: Path) -> None:
    shard = written(tmp_path, images(4, 1000), use_dictionary=False)
    data = Path(shard.uri).read_bytes()
    pages = Pages(io.BytesIO(data), len(data))
    (((start, stop),),) = pages.chunks()

    pages.expect([(start, stop)], most=1 << 20, wide=100)
    pages.seek(start)
    with pytest.raises(WideError):
        pages.read(stop - start)
