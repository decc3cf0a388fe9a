"""Going on with a run: what is left is found from the listing of its parts and its plan alone."""

from __future__ import annotations

from pathlib import Path

from tests.bounds import resume


def test_what_is_left_of_100_000_assets_is_known_exactly_without_an_index(tmp_path: Path) -> None:
    job_file, parts = resume.build(str(tmp_path), tmp_path, 100_000, 384)
    assert resume.todo(job_file) == []

    for part in parts[::97]:
        Path(part).unlink()

    assert sorted(u.unit_id for u in resume.todo(job_file)) == [Path(part).stem for part in parts[::97]]
    assert not (tmp_path / "out" / "index").exists()
