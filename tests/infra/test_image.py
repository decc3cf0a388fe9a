"""infra/Dockerfile as far as it can be held to without an engine; `python -m tests.image` runs its steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.conftest import run
from tests.image import DOCKERFILE, RELEASE, ROOT, context, steps

STEPS = steps()
PINNED = {
    line.split("==")[0].lower()
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def values(instruction: str) -> list[str]:
    """What stands after each such instruction."""
    return [step.value for step in STEPS if step.instruction == instruction]


def test_hadolint_finds_nothing() -> None:
    told = run([str(Path(sys.executable).with_name("hadolint")), str(DOCKERFILE)])

    assert (told.returncode, told.stdout) == (0, "")


def test_every_stage_stands_on_one_base_that_is_pinned_by_its_digest() -> None:
    (base,) = values("ARG")
    stages = [value.split() for value in values("FROM")]

    assert RELEASE.fullmatch(base.removeprefix("BASE="))
    assert [stage[0] for stage in stages] == ["${BASE}", "base", "base"]


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert values("USER") == ["1000:1000"]
    assert STEPS.index(next(s for s in STEPS if s.instruction == "USER")) > len(STEPS) - 4


def test_the_context_is_the_package_and_what_installs_it() -> None:
    files = context()

    assert {path.split("/")[0] for path in files} == {
        "README.md", "LICENSE", "pyproject.toml", "constraints.txt", "pipeline", "actors", "jobs",
    }  # fmt: skip
    assert sum((ROOT / path).stat().st_size for path in files) < 20_000_000
    weights = [path for path in files if path.endswith((".safetensors", ".bin", ".pt"))]
    assert weights == ["jobs/demo/checkpoint/model.safetensors"]


def test_what_is_copied_is_in_the_context_and_every_package_of_ours_is_copied() -> None:
    own = [shlex.split(value) for value in values("COPY") if not value.startswith("--from")]
    sources = {source for *sources, _ in own for source in sources}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]["packages"]

    assert {*packages} <= sources
    assert all(any(path == s or path.startswith(f"{s}/") for path in context()) for s in sources)


def test_the_image_installs_what_the_project_asks_for_in_the_versions_that_were_tested(
    tmp_path: Path,
) -> None:
    step = next(value for value in values("RUN") if "tomllib" in value)
    (printing,) = re.findall(r"python3 (-c '.*?')", step)

    told = subprocess.run(
        [sys.executable, *shlex.split(printing)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    asked = told.stdout.splitlines()
    assert asked == [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["large"]]
    assert [name for r in asked if (name := re.split(r"[^\w.-]", r)[0].lower()) not in PINNED] == []
    assert "PIP_CONSTRAINT=/src/constraints.txt" in values("ENV")[0]
