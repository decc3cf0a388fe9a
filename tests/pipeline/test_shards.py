"""Patterns in, shards out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.patterns import braces
from pipeline.shards import list_shards
from pipeline.storage import join
from pipeline.types import ShardFormat


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{1..3}", ["1", "2", "3"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{000..002}.tar", ["000.tar", "001.tar", "002.tar"]),
        ("x{a,b}y{1..2}", ["xay1", "xay2", "xby1", "xby2"]),
        ("{a,b{1..2},}", ["a", "b1", "b2", ""]),
        ("{a}{b..c}{", ["{a}{b..c}{"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, names: list[str]) -> None:
    assert list(braces(pattern)) == names


def test_too_many_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="1,000,000"):
        list_shards(["/data/{0..99999999999}.tar"])


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place with shards of several kinds."""
    root = str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3"))
    for name in (
        "in/a/1.tar",
        "in/a/0.tar",
        "in/b/0.tar",
        "in/b/x.parquet",
        "in/photos/1.jpg",
        "in/photos/1.txt",
    ):
        storage.put(join(root, name), name.encode())
    return root


def test_globs_are_sorted_and_uris_keep_their_order(root: str) -> None:
    shards = list_shards([join(root, "in/b/*.parquet"), join(root, "in/a/*.tar")])
    assert [s.uri for s in shards] == [join(root, f"in/{n}") for n in ("b/x.parquet", "a/0.tar", "a/1.tar")]
    assert [s.format for s in shards] == [ShardFormat.PARQUET, ShardFormat.TAR, ShardFormat.TAR]


def test_a_shard_has_size_and_etag(root: str) -> None:
    [shard] = list_shards([join(root, "in/a/0.tar")])
    entry = storage.info(join(root, "in/a/0.tar"))
    assert (shard.bytes, shard.etag) == (entry.size, entry.etag)


def test_a_shard_named_twice_is_one(root: str) -> None:
    assert len(list_shards([join(root, "in/a/*.tar"), join(root, "in/a/0.tar")])) == 2


def test_paths_are_relative_to_the_root(root: str) -> None:
    shards = list_shards([join(root, "in/{a,b}/*.tar")], root=join(root, "in"))
    assert [s.path for s in shards] == ["a/0.tar", "a/1.tar", "b/0.tar"]


def test_paths_of_objects_are_relative_to_the_bucket(s3: str) -> None:
    storage.put(join(s3, "deep/down/0.tar"), b"")
    bucket = "/".join(s3.split("/")[:3])
    [shard] = list_shards([join(s3, "deep/*/0.tar")])
    assert join(bucket, shard.path) == shard.uri == join(s3, "deep/down/0.tar")


def test_paths_of_files_are_relative_to_the_fixed_folder(tmp_path: Path) -> None:
    storage.put(str(tmp_path / "a" / "b" / "0.tar"), b"")
    found = [
        list_shards([str(tmp_path / pattern)])[0].path
        for pattern in ("a/*/0.tar", "a/b/{0,0}.tar", "a/b/0.tar")
    ]
    assert found == ["b/0.tar", "0.tar", "0.tar"]


def test_a_folder_is_one_shard(root: str) -> None:
    [shard] = list_shards([join(root, "in/photos") + "/"])
    assert (shard.uri, shard.format) == (join(root, "in/photos"), ShardFormat.FOLDER)


def test_a_folder_changes_with_its_files(root: str) -> None:
    [before] = list_shards([join(root, "in/photos")])
    storage.put(join(root, "in/photos/2.jpg"), b"")
    [after] = list_shards([join(root, "in/photos")])
    assert before.etag != after.etag


def test_links_to_shards_are_shards(tmp_path: Path) -> None:
    storage.put(str(tmp_path / "real" / "0.tar"), b"12345")
    (tmp_path / "1.tar").symlink_to("real/0.tar")
    (tmp_path / "2.tar").symlink_to("nowhere")
    [by_glob], [by_name] = (list_shards([str(tmp_path / name)]) for name in ("*.tar", "1.tar"))
    assert by_glob == by_name


def test_everything_that_is_wrong_is_said_at_once(root: str) -> None:
    uris = [
        join(root, name)
        for name in ("in/none-*.tar", "in/a/{0..9}.tar", "in/a", "in/photos/1.jpg", "nowhere")
    ]
    with pytest.raises(ConfigError) as caught:
        list_shards(uris)
    words = [
        "matches nothing",
        "(and 5 more): does not exist",
        "folder of shards",
        "neither .tar",
        "does not exist",
    ]
    assert all(word in problem for word, problem in zip(words, caught.value.problems, strict=True))


def test_compressed_tars_are_refused(root: str) -> None:
    storage.put(join(root, "in/a/2.tar.gz"), b"")
    with pytest.raises(ConfigError, match="cannot be read by ranges"):
        list_shards([join(root, "in/a/*")])


def test_two_shards_with_one_path_need_a_root(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        storage.put(str(tmp_path / folder / "0.tar"), b"")
    with pytest.raises(ConfigError, match=rf"\[input\] root, for example to '{tmp_path}/'"):
        list_shards([str(tmp_path / "a" / "*.tar"), str(tmp_path / "b" / "*.tar")])


def test_a_shard_outside_the_root_is_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="not below"):
        list_shards([join(root, "in/a/0.tar")], root=join(root, "in/b"))


def test_a_missing_bucket_is_a_mistake_in_the_job(s3: str) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        list_shards(["s3://no-such-bucket/0.tar"])


def test_many_names_in_one_folder_are_one_request(s3: str, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(20):
        storage.put(join(s3, f"in/{i:03d}.tar"), b"")
    with caplog.at_level(logging.INFO, "werkzeug"):
        assert len(list_shards([join(s3, "in/{000..019}.tar")])) == 20
    assert len([r for r in caplog.records if r.name == "werkzeug"]) == 1
