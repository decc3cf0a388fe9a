"""Tools that check what infra/ holds: Debian's Prometheus, kubectl for kustomize."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import INFRA, run

Tool = Callable[[str], list[str]]  # a program's name to the command that runs it


@pytest.fixture(scope="session")
def prometheus() -> Tool:
    """Commands for prometheus and promtool: the installed ones, else Debian's, unpacked to the user's cache folder."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return lambda program: [program]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    script, prefix = str(INFRA / "debian.sh"), str(cache / "captionmill" / "prometheus")
    fetched = run([script, "get", prefix, "prometheus"])
    if fetched.returncode:
        pytest.fail(f"This test needs Prometheus: install it.\n{fetched.stderr}", pytrace=False)
    return lambda program: [script, "run", prefix, program]
