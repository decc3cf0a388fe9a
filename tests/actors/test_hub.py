"""actors.checkpoint and jobs.preflight with a hub: what is asked of it, when, and what a run is pinned to.

The hub's address and cache are read from the environment when huggingface_hub is imported, so each client is a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import hub, made

REPO = "owner/model"
ROOT = Path(__file__).parents[2]
DRIVER = """
import json, sys
from jobs.preflight import check
from pipeline.config import read
from pipeline.errors import ConfigError
try:
    ready = check(read(sys.stdin.read()))
except ConfigError as error:
    print(json.dumps({"problems": error.problems}))
else:
    of, model = ready.recipe.checkpoint, ready.job.model
    print(json.dumps({"name": of.name, "revision": of.revision, "weights": of.weights_sha256,
                      "loaded": model.revision, "path": model.path, "recipe": ready.recipe.recipe_id}))
"""
WORKER = """
import sys
from actors.checkpoint import fetch
from pipeline.config import ModelConfig
print(fetch(ModelConfig(*sys.stdin.read().split())))
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine with a hub's cache of its own, and a shard to caption."""

    folder: Path
    endpoint: str

    def run(self, program: str, text: str, **environment: str) -> str:
        """What a program prints."""
        client = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_CACHE": f"{self.folder}/hub",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=text, env=os.environ | client | environment, cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()[-1]

    def check(self, revision: str = "", model: str = "", **environment: str) -> dict[str, Any]:
        """What the driver finds out about a job."""
        text = f"""
input = {{ dataset = "birds", uris = ["{self.folder}/shards"] }}
output.uri = "{self.folder}/out"
prompt = [{{ id = "short", text = "What is it?" }}]
[model]
path = "{REPO}"
revision = "{revision}"
{model}
"""
        found: dict[str, Any] = json.loads(self.run(DRIVER, text, **environment))
        return found


@pytest.fixture
def server() -> Iterator[hub.Hub]:
    with hub.serving() as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path, server: hub.Hub) -> Machine:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/a.jpg").write_bytes(b"")
    return Machine(tmp_path, server.endpoint)


@pytest.fixture
def first(tmp_path: Path, server: hub.Hub) -> str:
    """The commit of a checkpoint at the head of main."""
    return server.push(REPO, made.checkpoint(tmp_path / "first"))


def second(folder: Path, server: hub.Hub) -> str:
    """Another commit at the head of main, with another template."""
    (made.checkpoint(folder / "second") / "chat_template.jinja").write_text("new")
    return server.push(REPO, folder / "second")


def test_a_job_without_revision_runs_at_the_commit_of_main(machine: Machine, first: str) -> None:
    found = machine.check()

    assert (found["name"], found["revision"]) == (REPO, first)
    assert (found["path"], found["loaded"]) == (REPO, first)


def test_a_branch_a_tag_and_their_commit_are_the_same_recipe(
    machine: Machine, server: hub.Hub, first: str
) -> None:
    server.branches[REPO]["v1.0"] = first

    recipes = {machine.check(revision)["recipe"] for revision in ("main", "v1.0", first)}

    assert len(recipes) == 1


def test_a_branch_that_moves_is_another_recipe_in_the_next_run(
    machine: Machine, server: hub.Hub, first: str, tmp_path: Path
) -> None:
    one = machine.check("main")
    moved = second(tmp_path, server)

    other = machine.check("main")

    assert (one["revision"], other["revision"]) == (first, moved)
    assert one["recipe"] != other["recipe"]


def test_a_branch_that_moves_during_a_run_changes_nothing(
    machine: Machine, server: hub.Hub, first: str, tmp_path: Path
) -> None:
    pinned = machine.check("main")
    second(tmp_path, server)
    worker = Machine(tmp_path / "worker", server.endpoint)

    loaded = worker.run(WORKER, f"{pinned['path']} {pinned['loaded']}")

    assert Path(loaded).name == first
    assert (Path(loaded) / "model.safetensors").is_file()
    assert not (Path(loaded) / "chat_template.jinja").exists()


def test_a_full_commit_that_is_there_is_not_asked_for(machine: Machine, server: hub.Hub, first: str) -> None:
    machine.check(first)
    before = server.about(REPO)

    machine.check(first)

    assert before
    assert server.about(REPO) == before


@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_what_is_in_the_cache_runs_without_a_network(
    machine: Machine, first: str, offline: dict[str, str]
) -> None:
    online = machine.check("main")

    assert machine.check("main", **offline) == online
    assert machine.check(first, **offline) == online


@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_what_is_not_in_the_cache_is_a_problem_that_says_what_to_do(
    machine: Machine, offline: dict[str, str]
) -> None:
    (problem,) = machine.check("v2", **offline)["problems"]

    assert f"cannot get {REPO} at v2" in problem
    assert "HF_HUB_CACHE" in problem
    assert "\n" not in problem


def test_a_repository_that_is_not_there_is_named(machine: Machine) -> None:
    (problem,) = machine.check()["problems"]

    assert f"cannot get {REPO} at main" in problem
    assert "Repository Not Found" in problem


def test_a_revision_that_is_not_there_is_named(machine: Machine, first: str) -> None:
    (problem,) = machine.check("v9")["problems"]

    assert f"cannot get {REPO} at v9" in problem
    assert "Revision Not Found" in problem


def test_a_gated_repository_says_how_to_get_in(machine: Machine, server: hub.Hub, first: str) -> None:
    server.gated.add(REPO)

    (problem,) = machine.check()["problems"]

    assert f"Access to model {REPO} is restricted" in problem
    assert "HF_TOKEN" in problem


def test_a_checkpoint_of_another_kind_is_found_before_its_weights_are_asked_for(
    machine: Machine, server: hub.Hub, tmp_path: Path
) -> None:
    (made.checkpoint(tmp_path / "other") / "config.json").write_text('{"model_type": "qwen2"}')
    server.push(REPO, tmp_path / "other")

    (problem,) = machine.check()["problems"]

    assert "qwen2" in problem
    assert server.about(REPO, "/config.json")
    assert not server.about(REPO, ".safetensors")


def test_what_the_machine_lacks_is_found_before_anything_is_asked_for(
    machine: Machine, server: hub.Hub, first: str
) -> None:
    found = machine.check(model='attention = "flash_attention_2"')["problems"]

    assert any("flash-attn" in problem for problem in found)
    assert server.about(REPO) == []


def test_a_repository_without_safetensors_is_told_so(
    machine: Machine, server: hub.Hub, tmp_path: Path
) -> None:
    (made.checkpoint(tmp_path / "old") / "model.safetensors").rename(tmp_path / "old/pytorch_model.bin")
    server.push(REPO, tmp_path / "old")

    (problem,) = machine.check()["problems"]

    assert "model.safetensors is missing" in problem
    assert not server.about(REPO, ".bin")
