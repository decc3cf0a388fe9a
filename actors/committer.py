"""The committer as a worker holds it: `pipeline.commit` with its metrics."""

from __future__ import annotations

import pyarrow as pa

from actors.metrics import metered
from pipeline import commit


class Committer(commit.Committer):
    """Writes unit parts, and publishes what that takes."""

    @metered("commit")
    def __call__(self, table: pa.Table) -> pa.Table:
        """One captioned unit in, its receipt out."""
        return super().__call__(table)
