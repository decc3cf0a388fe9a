"""WebDataset sidecars: for every prompt and shard a tar with `key.txt` and `key.json` of each caption.

The tars lie under the shard's own path below a folder for each prompt, so that `short/a/0.tar` goes with `a/0.tar`,
and have their keys in order. Shard paths and keys come from strangers. Of a path only what is escaped here gets into a
name: a component that says where to go, like `..`, becomes a name like any other. Keys stay what they are, inside tars.
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from jobs.export.lines import Write
from jobs.export.rows import documents, few
from pipeline.columns import CAPTIONS
from pipeline.delta import Delta

BUCKET_ROWS = 250_000  # some 200 MB in memory
TAR_BYTES = 256 << 20  # a larger shard's captions go on in "0+1.tar"
PLAIN = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
END = bytes(2 * tarfile.BLOCKSIZE)
_SPILLED = pa.ipc.IpcWriteOptions(compression="lz4")
_STEERING = re.compile(r"\.*")


def write(delta: Delta, put: Write) -> int:
    """Write all tars; returns how many. Memory: the captions of some shards, at least those of one.

    The published table is in order of asset_id, so captions are first sorted by shard, in files in the folder for
    temporary ones: as many bytes as the table has.
    """
    done = 0
    with tempfile.TemporaryDirectory(prefix="captionmill-") as folder:
        for bucket in _buckets(delta, Path(folder)):
            table = bucket.sort_by([(name, "ascending") for name in ("prompt_id", "shard", "key")])
            for (prompt, shard), captions in groupby(_captions(table), key=itemgetter(0, 1)):
                for number, data in enumerate(_tars(captions, shard)):
                    put(tar_name(prompt, shard, number), data)
                    done += 1
    return done


def _buckets(delta: Delta, folder: Path) -> Iterator[pa.Table]:
    """The captions, a part of the shards at a time."""
    n = -(-delta.snapshot["captions"]["rows"] // BUCKET_ROWS)
    with ExitStack() as stack:
        files = [
            stack.enter_context(pa.ipc.new_file(folder / str(i), CAPTIONS, options=_SPILLED))
            for i in range(n)
        ]
        for batch in delta.captions(CAPTIONS.names):
            for i, part in _parts(batch, n):
                files[i].write(part.cast(CAPTIONS))
    for i in range(n):
        with pa.ipc.open_file(folder / str(i)) as file:
            yield file.read_all()


def _parts(batch: pa.RecordBatch, n: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batch's rows by the bucket of their shard."""
    shards = batch["shard"].dictionary_encode()
    numbers = pa.array([zlib.crc32(name.encode()) % n for name in shards.dictionary.to_pylist()])
    bucket = numbers.take(shards.indices)
    yield from ((i.as_py(), batch.filter(pc.equal(bucket, i))) for i in bucket.unique())


def _captions(table: pa.Table) -> Iterator[tuple[str, str, str, str, str]]:
    """Prompt, shard, key, text, and the row as JSON."""
    for batch in few(table.to_batches()):
        columns = [batch[name] for name in ("prompt_id", "shard", "key", "caption_text")]
        yield from zip(*(column.to_pylist() for column in (*columns, documents(batch))), strict=True)


def _tars(captions: Iterable[tuple[str, str, str, str, str]], shard: str) -> Iterator[bytes]:
    """One tar, or several where it grows too large. The same captions are the same bytes."""
    sink = io.BytesIO()
    for _, _, name, caption, row in captions:
        if sink.tell() > TAR_BYTES:
            yield sink.getvalue() + END
            sink = io.BytesIO()
        key = _key(name, shard)
        _add(sink, f"{key}.json", row.encode())
        _add(sink, f"{key}.txt", caption.encode())
    yield sink.getvalue() + END


def _add(sink: io.BytesIO, name: str, data: bytes) -> None:
    sink.write(_header(name, len(data)))
    sink.write(data)
    sink.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _header(name: str, size: int) -> bytes:
    """What tarfile writes before a member: its own way takes 35 µs, this 5."""
    if len(name) > tarfile.LENGTH_NAME or not name.isascii() or "\0" in name:
        member = tarfile.TarInfo(name)
        member.size = size
        return member.tobuf(tarfile.PAX_FORMAT)
    header = bytearray(PLAIN)
    header[:100] = name.encode().ljust(tarfile.LENGTH_NAME, b"\0")
    header[124:136] = b"%011o\0" % size
    header[148:156] = b" " * 8  # the checksum counts its own field as spaces
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _key(key: str, shard: str) -> str:
    """The WebDataset key. Those of tars are; others may have dots or bytes that would end them too soon."""
    if shard.lower().endswith(".tar"):
        return key
    folder, slash, base = key.rpartition("/")
    return quote(folder) + slash + quote(base, safe="").replace(".", "%2E")


def tar_name(prompt: str, shard: str, number: int) -> str:
    """Where a tar goes; no shard has a "+" once it is escaped."""
    stem = shard[:-4] if shard.lower().endswith(".tar") else shard
    path = "/".join(map(_component, (prompt, *stem.split("/"))))
    return f"{path}{f'+{number}' * (number > 0)}.tar"


def _component(name: str) -> str:
    return name.replace(".", "%2E") or "%" if _STEERING.fullmatch(name) else quote(name, safe="")
