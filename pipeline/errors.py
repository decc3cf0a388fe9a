"""What can go wrong, as a small tree. Each error says what failed, where, and what to do.

    CaptionmillError
    ├── ConfigError      the job cannot start; every problem at once; exit code 2
    ├── StorageError     a store did not answer or refused; the run can be started again; exit code 1
    ├── MediaError       one asset's bytes; becomes one failure row, never ends a run
    ├── IntegrityError   a promise would be broken (digest, conservation); the run stops; exit code 1
    ├── RunError         the run could not be finished or its failure budget is spent; exit code 1
    │   ├── OvertakenError   another run published meanwhile; planned again, there is less to do
    │   └── UnfinishedError  units have no part yet, as where other drivers have shares of the run
    └── ClusterError     a Ray cluster did not answer or refused; nothing is known of the run there; exit code 3

`MediaError` is caught in one place, the preprocessor (and the indexer for headers).
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.types import Code


class CaptionmillError(Exception):
    """Base of all errors that captionmill raises on purpose."""


class ConfigError(CaptionmillError):
    """The job file, the command line or what they point at is wrong; `problems` names every finding."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return ConfigError, (self.problems,)


class StorageError(CaptionmillError):
    """A store did not answer, refused, or lacks an object that must be there."""


class IntegrityError(CaptionmillError):
    """Going on would publish a table that breaks a promise."""


class RunError(CaptionmillError):
    """The run ended without a published table, or with more failures than the job allows."""


class OvertakenError(RunError):
    """Another run published its table since this one was planned."""


class UnfinishedError(RunError):
    """Not all units have a part, so nothing is published."""


class ClusterError(CaptionmillError):
    """A Ray cluster could not be reached, or refused who asked: how a run on it stands is not known."""


class MediaError(CaptionmillError):
    """One asset cannot be read or decoded: `code` for machines, `message` for people (no paths, 300 characters)."""

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        self.message = message[:300]
        super().__init__(f"{code}: {self.message}")

    def __reduce__(self) -> tuple[type[MediaError], tuple[Code, str]]:
        return MediaError, (self.code, self.message)
