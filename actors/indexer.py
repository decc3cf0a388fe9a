"""The indexer: one shard in, the address of its index out. Holds nothing but its probe."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from actors.metrics import metered
from pipeline import messages, schema, storage
from pipeline.config import InputConfig
from pipeline.draft import Probe
from pipeline.index import index_uri, scan
from pipeline.types import Shard

ROW_GROUP = 1024  # rows; a unit of 256 assets reads one or two groups, about 100 KB


class Indexer:
    """Makes indexes that do not exist yet.

    `probe_factory` is called once, on the worker. `probe_id` names what the probe allows (pixel limits): an
    index made under other limits is another object.
    """

    def __init__(
        self, output: str, config: InputConfig, probe_factory: Callable[[], Probe], probe_id: str = ""
    ) -> None:
        self._output = output
        self._config = config
        self._probe = probe_factory()
        self._probe_id = probe_id

    @metered("index")
    def __call__(self, table: pa.Table) -> pa.Table:
        """`index` for one-row tables: {shard} in, {index_uri} out."""
        return pa.table({"index_uri": [self.index(messages.table_to_shard(table))]})

    def index(self, shard: Shard) -> str:
        """The address of the shard's index, which exists then. Made again, it is the same object.

        Rows are packed as they come: a row group of them is held, and the index (some 100 bytes a row).
        """
        uri = index_uri(self._output, shard, self._config, self._probe_id)
        if not storage.exists(uri):
            sink, assets = io.BytesIO(), scan(shard, self._config, self._probe)
            with pq.ParquetWriter(sink, schema.ASSETS, compression="zstd") as writer:
                while rows := list(islice(assets, ROW_GROUP)):
                    writer.write_table(schema.assets_to_table(rows))
            storage.put(uri, sink.getvalue())
        return uri
