"""Writes to a local file system: whole or not there, whatever happens to the writer."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import local

WRITER = """
import itertools, sys
from pipeline import local
data = bytes(4 << 20)
for i in itertools.count():
    local.put(f"{sys.argv[1]}/{i}", data, replace=False)
"""


def test_a_writer_that_is_killed_leaves_whole_files_and_nothing_else(tmp_path: Path) -> None:
    for trial in range(3):
        folder = tmp_path / str(trial)
        with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)]) as writer:
            while not (folder / "2").exists():
                time.sleep(0.01)
            writer.kill()

        assert all(p.name.isdecimal() and p.stat().st_size == 4 << 20 for p in folder.iterdir())


def test_a_new_file_gets_its_name_and_rights_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")

    local.put(str(tmp_path / "deep" / "new"), b"x", replace=False)

    assert (tmp_path / "deep" / "new").read_bytes() == b"x"
    assert (tmp_path / "deep" / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_that_is_there_is_replaced_or_kept_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    local.put(str(path), b"one", replace=True)
    local.put(str(path), b"two", replace=True)
    with pytest.raises(FileExistsError):
        local.put(str(path), b"three", replace=False)

    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
