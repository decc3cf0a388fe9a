"""actors.digests: digests that are kept, and when they no longer hold."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from actors.digests import KEPT_FROM, digest, sha256


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where digests are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/captionmill/digests"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file that is large enough for its digest to be kept."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(KEPT_FROM)
    return path


def of_zeros(begun_with: bytes = b"") -> str:
    return hashlib.sha256(begun_with + bytes(KEPT_FROM - len(begun_with))).hexdigest()


def falsify(kept: Path) -> None:
    """Put another digest into the one entry: who says it has read the entry and not the file."""
    (entry,) = kept.iterdir()
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"sha256": "kept"}))


def test_a_digest_is_the_files_sha256(weights: Path) -> None:
    assert sha256(weights) == of_zeros()


def test_the_digest_of_files_is_made_of_names_sizes_and_theirs(tmp_path: Path) -> None:
    for name, content in (("b", b"two"), ("a", b"one!")):
        (tmp_path / name).write_bytes(content)
    lines = [f"{n}\0{len(c)}\0{hashlib.sha256(c).hexdigest()}\n" for n, c in (("a", b"one!"), ("b", b"two"))]

    found = digest([tmp_path / "b", tmp_path / "a"])

    assert found == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_file_is_read_once(weights: Path, kept: Path) -> None:
    sha256(weights)
    falsify(kept)

    assert sha256(weights) == "kept"


def test_a_link_and_its_file_have_one_entry(weights: Path, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(weights)
    sha256(weights)
    falsify(kept)

    assert sha256(tmp_path / "link") == "kept"


def test_a_file_that_changed_is_read_again_although_its_times_were_set_back(
    weights: Path, kept: Path
) -> None:
    before = weights.stat()
    sha256(weights)
    falsify(kept)
    with weights.open("r+b") as file:
        file.write(b"other")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    assert sha256(weights) == of_zeros(b"other")


def test_another_file_of_that_name_is_read(weights: Path, kept: Path, tmp_path: Path) -> None:
    sha256(weights)
    falsify(kept)
    (tmp_path / "new").write_bytes(b"other" + bytes(KEPT_FROM - 5))
    os.replace(tmp_path / "new", weights)

    assert sha256(weights) == of_zeros(b"other")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": 1}'])
def test_an_entry_that_means_nothing_is_made_again(weights: Path, kept: Path, text: str) -> None:
    sha256(weights)
    (entry,) = kept.iterdir()
    good = entry.read_text()
    entry.write_text(text)

    assert sha256(weights) == of_zeros()
    assert entry.read_text() == good


def test_where_nothing_can_be_kept_the_digest_is_computed(weights: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("a file where the folder should be")

    assert sha256(weights) == of_zeros()


def test_small_files_are_not_kept(tmp_path: Path, kept: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert sha256(tmp_path / "config.json") == hashlib.sha256(b"{}").hexdigest()
    assert not kept.exists()
