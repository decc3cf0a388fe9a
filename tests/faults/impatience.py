"""Little patience with stores, so that one which stays down does not take a minute a try. Light: workers import it."""

from __future__ import annotations

from pipeline import retry

IMPATIENT = retry.Patience(6.0)  # some eight tries


def be_impatient() -> None:
    """What a Ray worker of a test does first."""
    retry.PATIENT = IMPATIENT
