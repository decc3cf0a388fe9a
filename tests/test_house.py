"""The house rules that a machine can check, from the syntax of every file: who imports what, and what nobody writes."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "actors", "jobs")  # a room imports itself and those before it

EXAMPLES = "jobs/examples/"  # each says itself what it needs

# Where each of these may be imported; everywhere else in the three rooms they are not.
HEAVY = {
    "actors/replica.py",
    "actors/decoding.py",
    "actors/compiling.py",
    "actors/attention.py",
    "actors/kernels.py",
    "actors/loading.py",
    "actors/sampling.py",
    "actors/slots.py",
    "actors/trimming.py",
    "actors/vision.py",
    "jobs/bench/machine.py",
    "jobs/bench/measured.py",
    "jobs/bench/preprocessing.py",
    "jobs/bench/transformers_peer.py",
    "jobs/demo/accuracy.py",
    "jobs/demo/hub.py",
    "jobs/demo/lesson.py",
    "jobs/demo/muon.py",
    "jobs/demo/sensitivity.py",
    "jobs/demo/tower.py",
    "jobs/demo/train.py",
}
CONFINED: dict[str, Callable[[str], bool]] = {
    "torch": HEAVY.__contains__,
    "transformers": HEAVY.__contains__,
    "click": lambda file: file.startswith("jobs/"),
    "fsspec": lambda file: file == "pipeline/storage.py",
    "s3fs": lambda file: False,  # reached through fsspec
    "ray": lambda file: not file.startswith("pipeline/") or file == "pipeline/flow.py",
    **dict.fromkeys(("pickle", "cloudpickle", "dill", "joblib"), lambda file: file.startswith("jobs/")),
}


def files(*rooms: str) -> list[str]:
    """Python files of these rooms, by their path from the root."""
    return [str(path.relative_to(ROOT)) for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def parse(file: str) -> ast.Module:
    """The syntax of one file."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def imports(file: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each module a file imports, wherever in the file that stands."""
    for node in ast.walk(parse(file)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield from ((node.lineno, f"{module}.{name.name}") for name in names)
            case ast.ImportFrom():
                yield node.lineno, "." * node.level


def top(module: str) -> str:
    """The package a dotted name lies in."""
    return module.split(".", maxsplit=1)[0]


def found(rule: Callable[[str, str], bool], *rooms: str) -> list[str]:
    """The imports that break a rule, as file:line module. The rule gets file and module."""
    return [f"{file}:{line} {m}" for file in files(*rooms) for line, m in imports(file) if rule(file, m)]


def test_imports_go_one_way_from_jobs_to_actors_to_pipeline() -> None:
    def upward(file: str, module: str) -> bool:
        above = ROOMS[ROOMS.index(top(file.replace("/", "."))) + 1 :]
        return top(module) in (*above, "tests")

    assert found(upward, *ROOMS) == []


def test_imports_are_absolute() -> None:
    assert found(lambda _, module: module.startswith("."), *ROOMS, "tests") == []


@pytest.mark.parametrize("package", CONFINED)
def test_packages_stay_in_their_rooms(package: str) -> None:
    allowed = CONFINED[package]

    assert found(lambda file, module: top(module) == package and not allowed(file), *ROOMS) == []


def test_files_with_leave_for_heavy_imports_exist() -> None:
    assert [file for file in HEAVY if not (ROOT / file).exists()] == []


def test_the_pipeline_does_not_read_the_process_environment() -> None:
    names = {"environ", "environb", "getenv", "getenvb"}
    reads = [
        f"{file}:{node.lineno}"
        for file in files("pipeline")
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os" and node.attr in names
    ]

    assert reads == []
    assert found(lambda _, module: module in {f"os.{name}" for name in names}, "pipeline") == []


def test_nobody_catches_everything() -> None:
    broad = {"Exception", "BaseException"}

    def catches_all(kind: ast.expr | None) -> bool:
        return kind is None or any(isinstance(n, ast.Name) and n.id in broad for n in ast.walk(kind))

    handlers = [
        f"{file}:{node.lineno}"
        for file in files(*ROOMS, "tests")
        for node in ast.walk(parse(file))
        if isinstance(node, ast.ExceptHandler) and catches_all(node.type)
    ]

    assert handlers == []


def test_parquet_is_read_on_the_thread_that_asks() -> None:
    """See `pipeline.parquet.read`: the threads of `pq.read_table` abort processes that end soon after."""
    threaded = {"read_table", "read_row_group", "read_row_groups", "iter_batches"}
    reads = [
        f"{file}:{node.lineno}"
        for file in files(*ROOMS)
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in threaded
        and not any(given.arg == "use_threads" for given in node.keywords)
        and not file.startswith(EXAMPLES)
    ]

    assert reads == []


def test_nobody_mocks() -> None:
    assert (
        found(lambda _, module: module.startswith("unittest.mock") or top(module) == "mock", *ROOMS, "tests")
        == []
    )


def test_what_the_rooms_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked_for = [*project["dependencies"], *extras["lancedb"]]
    declared = {_distribution(requirement) for requirement in asked_for}
    providers = importlib.metadata.packages_distributions()

    def undeclared(file: str, module: str) -> bool:
        package = top(module)
        if package in sys.stdlib_module_names or package in ROOMS or file.startswith(EXAMPLES):
            return False
        return declared.isdisjoint(map(_distribution, providers.get(package, [])))

    assert found(undeclared, *ROOMS) == []


def _distribution(requirement: str) -> str:
    """The normalised name at the beginning of a requirement."""
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("_", "-")
