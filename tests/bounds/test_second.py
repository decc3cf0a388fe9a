"""The same job once more does nothing, and says so."""

from __future__ import annotations

from pathlib import Path

from tests.bounds import second


def test_a_published_job_has_nothing_to_do_and_a_new_shard_is_all_that_is_left(tmp_path: Path) -> None:
    job_file = second.build(tmp_path, 3)

    assert "Nothing to do" in second.timed(["run"], job_file)[1]

    second.write(tmp_path, 3, 4)
    second.index(job_file.read_text(), 3)
    assert "3,000 assets are as they were; 1,000 are captioned" in second.timed(["plan"], job_file)[1]
