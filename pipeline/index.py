"""One row per asset: what a shard holds, found in one pass whose memory does not grow with the shard.

Which rows there are. An asset is a key (`naming.split`) with its media and sidecars. Hidden files,
`__MACOSX/`, links, folders and names without a key are no assets. A key with members but no media is a row with
the problem NO_MEDIA. A shard that breaks off, cannot be read or holds nothing gives one row more: key "", no
media, and the reason. An asset whose data the end of its shard cuts is a row with the problem TRUNCATED; those
before it are good.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import archives, folders, row_groups, schema, storage, tables
from pipeline.config import InputConfig
from pipeline.draft import Probe, shard_row
from pipeline.errors import StorageError
from pipeline.naming import asset_id, digest
from pipeline.types import Asset, Code, Shard, ShardFormat

__all__ = ["Probe", "asset_id", "digest", "index_name", "index_uri", "read_index", "read_rows", "scan"]

VERSION = 3  # of the rules in this module and the scanners; another version never reads an older one's index
SCANNERS = {
    ShardFormat.TAR: archives.scan,
    ShardFormat.PARQUET: tables.scan,
    ShardFormat.FOLDER: folders.scan,
}


def scan(shard: Shard, config: InputConfig, probe: Probe) -> Iterator[Asset]:
    """The shard's rows, in order. `StorageError` if it is not the object that was listed, or is gone."""
    if shard.format is not ShardFormat.FOLDER and storage.info(shard.uri).etag != shard.etag:
        raise StorageError(f"{storage.redact(shard.uri)} changed since it was listed; start again")
    empty = True
    for asset in SCANNERS[shard.format](shard, config, probe):
        empty = False
        yield asset
    if empty:
        yield shard_row(config.dataset, shard, Code.SHARD_EMPTY, "the shard holds no assets")


def index_uri(output: str, shard: Shard, config: InputConfig, probe_id: str = "") -> str:
    """Where the shard's index is."""
    return storage.join(output, "index", index_name(shard, config, probe_id))


def index_name(shard: Shard, config: InputConfig, probe_id: str = "") -> str:
    """Names the shard's index; another name for other bytes, rules, or `probe_id` (what the probe allows)."""
    rules = [
        VERSION,
        config.dataset,
        config.image_column,
        config.key_column,
        config.max_member_bytes,
        probe_id,
    ]
    text = json.dumps([shard.path, shard.etag, shard.format, rules])
    digits = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", shard.path).strip("-.")[-80:] or "shard"
    return f"{name}-{digits}.parquet"


def read_index(uri: str, first: int, count: int) -> list[Asset]:
    """Assets [first, first + count) of an index object."""
    return schema.table_to_assets(read_rows(uri, first, count))


def read_rows(uri: str, first: int, count: int) -> pa.Table:
    """Rows [first, first + count) of an index object; only the row groups that hold them are read."""
    with storage.open_read(uri, read_ahead=1 << 18) as stream, pq.ParquetFile(stream) as file:
        groups, skipped = row_groups.groups(file, first, first + count)
        rows: pa.Table = file.read_row_groups(groups, use_threads=False)
    return rows.slice(first - skipped, count)
