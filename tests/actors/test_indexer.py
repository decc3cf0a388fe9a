"""The indexer on a real S3 interface."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from actors.indexer import Indexer
from pipeline import storage
from pipeline.config import InputConfig
from pipeline.index import read_index, scan
from pipeline.shards import list_shards
from pipeline.types import Media, Shard, Size
from tests.pipeline.conftest import look, picture, tar_bytes

CONFIG = InputConfig(dataset="test", uris=("unused",))


@pytest.fixture
def listed(s3: str) -> Shard:
    """A tar of 20 pictures in a bucket."""
    storage.put(storage.join(s3, "in/0.tar"), tar_bytes((f"{i}.jpg", picture(i + 1, 2)) for i in range(20)))
    return list_shards([storage.join(s3, "in/*.tar")])[0]


def test_the_index_holds_what_the_scan_finds(s3: str, listed: Shard) -> None:
    uri = Indexer(storage.join(s3, "out"), CONFIG, lambda: look).index(listed)
    assert read_index(uri, 0, 20) == list(scan(listed, CONFIG, look))


def test_an_index_is_never_made_twice(s3: str, listed: Shard) -> None:
    def unwanted(media: Sequence[tuple[Media, bytes]]) -> list[Size]:
        raise AssertionError("the shard was read again")

    first = Indexer(storage.join(s3, "out"), CONFIG, lambda: look).index(listed)
    assert Indexer(storage.join(s3, "out"), CONFIG, lambda: unwanted).index(listed) == first


def test_an_index_made_again_is_the_same_object(s3: str, listed: Shard) -> None:
    uris = [Indexer(storage.join(s3, out), CONFIG, lambda: look).index(listed) for out in ("a", "b")]
    assert storage.read(uris[0]) == storage.read(uris[1])
