"""What lies where: listings and globs, on local files and on a real S3 interface."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage import join

MORE_THAN_A_PAGE = [f"{i:04d}" for i in range(1_004)]


def _put_many(root: str, names: Sequence[str]) -> None:
    """Empty objects."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: storage.put(join(root, name), b""), names))


def test_listing_is_recursive_sorted_and_relative(root: str) -> None:
    for name in ("x/b", "x/a/c", "y"):
        storage.put(join(root, name), name.encode())
    assert [(e.name, e.size, e.uri) for e in storage.listing(join(root, "x"))] == [
        ("a/c", 5, join(root, "x/a/c")),
        ("b", 3, join(root, "x/b")),
    ]


def test_listing_of_nothing_is_empty(root: str) -> None:
    storage.put(join(root, "xy/a"), b"a name that begins like the folder")
    assert storage.listing(join(root, "x")) == []


def test_stretches_between_cuts_are_the_whole_listing(root: str) -> None:
    for name in ("a", "b", "c/d", "e"):
        storage.put(join(root, "x", name), b"")
    whole = [entry.name for entry in storage.listing(join(root, "x"))]
    for cuts in (["0"], ["b"], ["b", "bb"], ["c/d", "e"], ["a", "b", "z"]):
        assert [entry.name for entry in storage.listing(join(root, "x"), cuts)] == whole


def test_a_listing_of_more_than_a_page_of_s3_is_whole(s3: str) -> None:
    _put_many(s3, MORE_THAN_A_PAGE)
    for cuts in ([], ["0500"], ["0002", "1003"]):
        assert [entry.name for entry in storage.listing(s3, cuts)] == MORE_THAN_A_PAGE


def test_a_key_of_any_characters_is_listed_as_it_was_written(s3: str) -> None:
    name = "a b+%25&<ü>\u2028.tar"
    storage.put(join(s3, name), b"")
    assert [(entry.name, storage.read(entry.uri)) for entry in storage.listing(s3)] == [(name, b"")]


def test_listing_sees_what_came_a_moment_ago(root: str) -> None:
    storage.put(join(root, "x/a"), b"")
    storage.listing(join(root, "x"))
    storage.put(join(root, "x/b"), b"")
    assert [e.name for e in storage.listing(join(root, "x"))] == ["a", "b"]


def test_listing_info_and_expand_agree_on_etags(root: str) -> None:
    storage.put(join(root, "x/a.tar"), b"1")
    found = [storage.info(join(root, "x/a.tar")), *storage.listing(join(root, "x"))]
    found += storage.expand(join(root, "x/*.tar"))
    assert len({(e.uri, e.size, e.etag, e.name) for e in found}) == 1


def test_expand_matches_one_level(root: str) -> None:
    for name in ("a.tar", "b.tar", "c.txt", "d/e.tar"):
        storage.put(join(root, name), b"")
    assert [e.name for e in storage.expand(join(root, "*.tar"))] == ["a.tar", "b.tar"]


def test_siblings_of_a_name_with_magic_characters(tmp_path: Path) -> None:
    storage.put(str(tmp_path / "a[1]" / "x"), b"")
    assert [e.name for e in storage.siblings(str(tmp_path / "a[1]" / "y"))] == ["x"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", "a.tar b1 b2"),
        ("b?", "b1 b2"),
        ("b[2-9]", "b2"),
        ("d/*", "d/b3"),
        ("*/b*", "d/b3 e/b4"),
        ("**/b?", "b1 b2 d/b3 e/b4"),
        ("**", "a.tar b1 b2 d/b3 e/b4"),
        ("a.tar/*", ""),
        ("f/*", ""),
    ],
)
def test_expand_knows_globs(root: str, pattern: str, found: str) -> None:
    for name in ("a.tar", "b1", "b2", "d/b3", "e/b4"):
        storage.put(join(root, name), b"")
    assert [e.uri for e in storage.expand(join(root, pattern))] == [
        join(root, name) for name in found.split()
    ]


def test_expand_of_more_than_a_page_of_s3_is_whole(s3: str) -> None:
    _put_many(s3, MORE_THAN_A_PAGE)
    storage.put(join(s3, "0500/below"), b"")
    assert [e.name for e in storage.expand(join(s3, "*"))] == MORE_THAN_A_PAGE


def test_a_query_that_no_web_server_answers_matches_nothing() -> None:
    assert storage.expand("http://127.0.0.1:9/a.tar?part=1") == []
