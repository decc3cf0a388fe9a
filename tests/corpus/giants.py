"""Inputs that are large, or say so, each in a tar of its own between good neighbours.

python -m tests.corpus.giants SHARD     index and decode it; what became of each key, and the memory it took
"""

from __future__ import annotations

import io
import json
import resource
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO

import av
import pyarrow as pa
import pyarrow.parquet as pq

from actors.indexer import Indexer
from actors.preprocessor import Preprocessor
from actors.sandbox import prober
from pipeline.anyres import Geometry
from pipeline.config import ImageConfig, InputConfig, VideoConfig
from pipeline.index import read_index
from pipeline.shards import list_shards
from pipeline.types import Cost, Problem, Unit
from tests.corpus import images
from tests.corpus.entries import good, picture
from tests.films import Film

GEOMETRY = Geometry.from_checkpoint({"model_type": "llava_onevision"}, {}, None)
FPS, HOURS = 10, 10
BOMB = 513 << 20  # bytes: above what pages may have together by default


def ten_hours() -> bytes:
    """360,000 frames in Matroska: one group of pictures, over and over."""
    sink = io.BytesIO()
    group = Film("matroska", times_ms=range(0, 1200, 1000 // FPS)).data()
    with av.open(io.BytesIO(group), "r") as source, av.open(sink, "w", format="matroska") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [(bytes(p), p.pts or 0, p.dts or 0, p.is_keyframe) for p in source.demux(stream) if p.size]
        for turn in range(FPS * HOURS * 3600 // len(packets)):
            for data, pts, dts, is_key in packets:
                packet = av.Packet(data)
                packet.stream, packet.is_keyframe, packet.time_base = copy, is_key, Fraction(1, 1000)
                packet.pts, packet.dts = (time + turn * 1200 for time in (pts, dts))
                out.mux(packet)
    return sink.getvalue()


def _member(out: BinaryIO, name: str, data: bytes, size: int = 0) -> None:
    """A member; where `size` is more than its data, the rest is a hole in the file."""
    header = tarfile.TarInfo(name)
    header.size = max(size, len(data))
    out.write(header.tobuf(tarfile.GNU_FORMAT) + data)
    out.seek(-(-(out.tell() + header.size - len(data)) // 512) * 512)


def _shard(path: Path, *members: tuple[str, bytes, int]) -> None:
    neighbours = [[(name, data, 0) for name, data in good(f"good{i}", i)] for i in (1, 2)]
    with open(path, "wb") as out:
        for name, data, size in (*neighbours[0], *members, *neighbours[1]):
            _member(out, name, data, size)
        out.write(bytes(1024))


GIANTS: Mapping[str, Callable[[Path], None]] = {
    "clip_of_10_hours": lambda path: _shard(path, ("giant.mkv", ten_hours(), 0)),
    "member_of_2_gb": lambda path: _shard(path, ("giant.mp4", b"", 2 << 30)),
    "png_of_40000_x_40000": lambda path: _shard(path, ("giant.png", _named("png_40000_x_40000"), 0)),
    "jpeg_of_40000_x_40000": lambda path: _shard(path, ("giant.jpg", _named("jpeg_40000_x_40000"), 0)),
    "sidecar_of_500_mb": lambda path: _shard(
        path, ("giant.png", picture(3), 0), ("giant.json", b'{"subtitle": "', 500 << 20)
    ),
}


def _bomb(path: Path, **columns: pa.Array) -> None:
    """A row between good ones, each in a row group of its own, that unpacks to what it says."""
    good_row = {"id": pa.array([""]), "image": pa.array([picture(3)], pa.large_binary())}
    rows = [{**good_row, "id": pa.array([key])} for key in ("good1", "giant", "good2")]
    text = {name: pa.array(["none"]).cast(column.type) for name, column in columns.items() if name != "image"}
    tables = [pa.table({**row, **text}) for row in rows]
    tables[1] = pa.table({**rows[1], **text, **columns})
    with pq.ParquetWriter(path, tables[0].schema, compression="zstd", use_dictionary=["t"]) as out:
        for table in tables:
            out.write_table(table)


def _zeros(size: int) -> pa.Array:
    return pa.array([bytes(size)], pa.large_binary())


TABLES: Mapping[str, Callable[[Path], None]] = {
    "cell_of_513_mib": lambda path: _bomb(path, image=_zeros(BOMB)),
    "text_of_513_mib": lambda path: _bomb(path, u=_zeros(BOMB).cast(pa.large_string())),
    "dictionary_of_513_mib": lambda path: _bomb(path, t=_zeros(BOMB).cast(pa.large_string())),
}


def _named(name: str) -> bytes:
    return images.assets()[name].members[0][1]


def handled(path: str) -> dict[str, object]:
    """What became of each key ("" : pixels) of a shard under default settings, and MiB at most in both processes."""
    with tempfile.TemporaryDirectory() as output:
        (shard,) = list_shards([path])
        image, video = ImageConfig(), VideoConfig()
        config = InputConfig("giants", (path,), key_column="id" if path.endswith(".parquet") else "")
        before = _peak_mib()
        assets = read_index(Indexer(output, config, partial(prober, image, video)).index(shard), 0, 100)
        with Preprocessor(image, video, GEOMETRY) as preprocessor:
            unit = Unit("unit", shard, 0, len(assets), Cost(0, 0, 0))
            prepared = preprocessor.prepare(unit, assets)
    codes = {
        assets[a.position].key: a.outcome.code for a in prepared.problems if isinstance(a.outcome, Problem)
    }
    return {
        "outcomes": {asset.key: codes.get(asset.key, "") for asset in assets},
        "crops": {assets[s.view.position].key: s.view.n_crops for s in prepared.samples},
        "text": {asset.key: dict(asset.text) for asset in assets},
        "parent_mib": _peak_mib() - before,
        "child_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
    }


def _peak_mib() -> int:
    """Of this process since its exec; ru_maxrss would begin with that of whoever started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


if __name__ == "__main__":
    print(json.dumps(handled(sys.argv[1])))
