"""A unit's bytes, as they were indexed."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import folders, read, storage
from pipeline.config import InputConfig
from pipeline.draft import Probe
from pipeline.index import scan
from pipeline.read import read_assets
from pipeline.types import Asset, Code, Media, Problem, Shard, ShardFormat, Size, Stage
from tests.pipeline.conftest import WriteTar, picture, shard, tar_bytes

PICTURES = [picture(i + 1, 3) for i in range(40)]
Index = Callable[[Shard], list[Asset]]


@pytest.fixture
def index(config: InputConfig, probe: Probe) -> Index:
    """The shard's assets."""
    return lambda shard: list(scan(shard, config, probe))


def parquet(tmp_path: Path) -> Shard:
    """Pictures in row groups of seven."""
    pq.write_table(pa.table({"image": PICTURES}), tmp_path / "x.parquet", row_group_size=7)
    return shard(tmp_path / "x.parquet", ShardFormat.PARQUET)


def folder(tmp_path: Path) -> Shard:
    """Pictures as files."""
    for i, data in enumerate(PICTURES):
        storage.put(str(tmp_path / "in" / f"{i:03d}.jpg"), data)
    uri = str(tmp_path / "in")
    return Shard(uri, "in", folders.etag(storage.listing(uri)), 1, ShardFormat.FOLDER)


def tar(tmp_path: Path) -> Shard:
    """Pictures in a tar."""
    (tmp_path / "x.tar").write_bytes(tar_bytes((f"{i:03d}.jpg", data) for i, data in enumerate(PICTURES)))
    return shard(tmp_path / "x.tar")


@pytest.mark.parametrize("make", [tar, parquet, folder])
@pytest.mark.parametrize(("first", "stop"), [(0, 40), (5, 6), (3, 30), (39, 40), (7, 7)])
def test_any_range_gives_the_indexed_bytes(
    tmp_path: Path, index: Index, make: Callable[[Path], Shard], first: int, stop: int
) -> None:
    made = make(tmp_path)
    assert list(read_assets(made, index(made)[first:stop])) == [(data,) for data in PICTURES[first:stop]]


def test_members_come_in_order_and_without_sidecars(write_tar: WriteTar, index: Index) -> None:
    parts = PICTURES[:3]
    made = write_tar([("b.1.jpg", parts[0]), ("a.jpg", parts[1]), ("b.json", b"{}"), ("b.2.jpg", parts[2])])
    assert list(read_assets(made, index(made))) == [(parts[0], parts[2]), (parts[1],)]


def test_assets_with_a_problem_keep_it(write_tar: WriteTar, index: Index) -> None:
    made = write_tar([("a.jpg", b""), ("b.jpg", PICTURES[0]), ("c.txt", b"")])
    first, second, third = read_assets(made, index(made))
    assert isinstance(first, Problem)
    assert second == (PICTURES[0],)
    assert isinstance(third, Problem)


@pytest.mark.parametrize("make", [tar, parquet])
def test_a_changed_shard_is_not_read(tmp_path: Path, index: Index, make: Callable[[Path], Shard]) -> None:
    made = make(tmp_path)
    assets = index(made)
    storage.put(made.uri, storage.read(made.uri) + b"more")
    assert codes(read_all(made, assets)) == {Code.CONTENT_CHANGED}


@pytest.mark.parametrize("make", [tar, parquet])
def test_a_shard_that_is_gone_fails_its_assets(
    tmp_path: Path, index: Index, make: Callable[[Path], Shard]
) -> None:
    made = make(tmp_path)
    assets = index(made)
    storage.delete(made.uri)
    assert codes(read_all(made, assets)) == {Code.CONTENT_CHANGED}


def test_only_the_changed_files_of_a_folder_fail(tmp_path: Path, index: Index) -> None:
    made = folder(tmp_path)
    assets = index(made)
    storage.delete(f"{made.uri}/001.jpg")
    storage.put(f"{made.uri}/002.jpg", b"another")
    outcomes = read_all(made, assets)
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Problem)] == [1, 2]
    assert codes(outcomes[1:3]) == {Code.CONTENT_CHANGED}


def test_neighbours_share_a_request(
    s3: str, config: InputConfig, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    uri = storage.join(s3, "x.tar")
    storage.put(uri, tar_bytes((f"{i}.jpg", data) for i, data in enumerate(PICTURES)))
    entry = storage.info(uri)
    made = Shard(uri, "x.tar", entry.etag, entry.size, ShardFormat.TAR)
    assets = list(scan(made, config, probe))
    with caplog.at_level(logging.INFO, "werkzeug"):
        assert list(read_assets(made, assets)) == [(data,) for data in PICTURES]
    requests = [r.getMessage() for r in caplog.records if r.name == "werkzeug"]
    assert [re.findall("HEAD|GET", request) for request in requests] == [["HEAD"], ["GET"]]


def test_far_and_large_members_are_read_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With spans of 4 KiB: an asset that spreads wider, one that is larger, and neighbours."""
    monkeypatch.setattr(read, "SPAN", 4096)
    content = {
        "a.1.jpg": os.urandom(100),
        "b.jpg": os.urandom(9000),
        "c.jpg": b"c",
        "a.2.jpg": b"2",
        "d.jpg": b"d",
    }
    (tmp_path / "x.tar").write_bytes(tar_bytes(content.items()))
    made = shard(tmp_path / "x.tar")
    config = InputConfig(dataset="test", uris=("unused",))
    assets = list(scan(made, config, lambda media: [Size(1, 1)] * len(media)))
    expected = [(content["a.1.jpg"], content["a.2.jpg"]), (content["b.jpg"],), (b"c",), (b"d",)]
    assert list(read_assets(made, assets)) == expected


def read_all(made: Shard, assets: list[Asset]) -> list[tuple[bytes, ...] | Problem]:
    """One outcome per asset."""
    outcomes = list(read_assets(made, assets))
    assert len(outcomes) == len(assets)
    return outcomes


def codes(outcomes: list[tuple[bytes, ...] | Problem]) -> set[Code | None]:
    """The problems' codes; None for bytes."""
    assert all(o.stage is Stage.READ for o in outcomes if isinstance(o, Problem))
    return {o.code if isinstance(o, Problem) else None for o in outcomes}


def test_the_row_of_a_shard_is_passed_on(tmp_path: Path, index: Index) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes([("a.jpg", PICTURES[0])])[:1024])
    made = shard(tmp_path / "x.tar")
    assets = index(made)
    assert assets[-1].media is None
    assert [isinstance(outcome, Problem) for outcome in read_assets(made, assets)] == [
        asset.media is not Media.IMAGE or isinstance(asset.facts, Problem) for asset in assets
    ]
