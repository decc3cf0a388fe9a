"""A driver that keeps a diary: the real run of a job with doubles, and which actor and which unit was on which node.

python -m tests.elastic.driver JOB.toml DIARY [caption_s=0.05] [prepare_s=0] [impatient=1]

A line of the diary is a JSON list of time (UTC s), what, node and who: "node" for each node that joins (its id),
"actor" for each actor that lives (its class), "prepare" and "caption" for each unit that is begun.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from rich.console import Console

from actors.preprocessor import Preprocessor
from jobs.exit_codes import FAILED, USAGE
from jobs.preflight import check
from jobs.run import Actors, actors, run
from jobs.session import session
from pipeline.commit import Parts
from pipeline.config import read
from pipeline.errors import CaptionmillError, ConfigError
from pipeline.flow import Actor
from tests.double import with_doubles
from tests.faults.command import IN_WORKERS
from tests.faults.impatience import be_impatient

LOOK_S = 0.3


@dataclass(frozen=True, slots=True)
class Diary:
    """A file that processes of one machine write to."""

    path: str

    def note(self, what: str, node: str, who: str) -> None:
        """One line; short writes stay whole."""
        with Path(self.path).open("a") as file:
            file.write(f"{json.dumps([time.time(), what, node, who])}\n")


@dataclass(frozen=True, slots=True)
class Watched(Parts):
    """The parts, as an actor looks at them before it begins a unit: each unit that it begins is a line."""

    diary: Diary
    what: str

    def done(self, unit_id: str) -> bool:
        """As the parts do."""
        found = Parts.done(self, unit_id)
        if not found:
            self.diary.note(self.what, ray.get_runtime_context().get_node_labels().get("name", ""), unit_id)
        return found


class Slow(Preprocessor):
    """A preprocessor that takes `prepare_s` more for each unit."""

    def __init__(self, *, prepare_s: float, **settings: Any) -> None:
        super().__init__(**settings)
        self._prepare_s = prepare_s

    def __call__(self, table: pa.Table) -> pa.Table:
        """As the preprocessor does."""
        time.sleep(self._prepare_s)
        return super().__call__(table)


def watched(made_of: Actors, parts: Parts, diary: Diary, prepare_s: float) -> Actors:
    """The same actors, with lines in the diary."""
    settings = {**made_of.preprocessor.kwargs, "parts": Watched(parts.output, parts.run_id, diary, "prepare")}
    captioner = {**made_of.captioner.kwargs, "parts": Watched(parts.output, parts.run_id, diary, "caption")}
    return replace(
        made_of,
        preprocessor=Actor(Slow, {**settings, "prepare_s": prepare_s}),
        captioner=Actor(made_of.captioner.cls, captioner),
    )


def observe(diary: Diary) -> None:
    """Note every node, and every actor that lives, once for each node that it lives on. Never ends."""
    seen = set[tuple[str, str]]()
    while True:
        time.sleep(LOOK_S)
        nodes = {n["NodeID"]: (n["Labels"] or {}).get("name", "") for n in ray.nodes()}
        for node_id in nodes.keys() - {where for _, where in seen}:
            seen.add(("", node_id))
            diary.note("node", nodes[node_id], node_id)
        for actor_id, actor in ray._private.state.actors().items():
            at = actor["Address"]["NodeID"]
            if actor["State"] == "ALIVE" and (actor_id, at) not in seen:
                seen.add((actor_id, at))
                diary.note("actor", nodes.get(at, ""), actor["ActorClassName"])


def main() -> None:
    """The command line; the last words are an error's, and the exit codes captionmill's."""
    job, path, *settings = sys.argv[1:]
    given = dict(item.split("=") for item in settings)
    console, diary = Console(stderr=True), Diary(path)
    if "impatient" in given:  # with stores, here and in workers
        be_impatient()
        os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps(IN_WORKERS)
    try:
        ready = check(read(Path(job).read_text()))
        parts = Parts(ready.job.output.uri, ready.run_id)
        with session(console):
            threading.Thread(target=observe, args=(diary,), daemon=True).start()
            doubles = with_doubles(actors(ready), ready, float(given.get("caption_s", 0.05)))
            run(ready, watched(doubles, parts, diary, float(given.get("prepare_s", 0))), console)
    except CaptionmillError as error:
        print(f"✗ {error}", file=sys.stderr)
        sys.exit(USAGE if isinstance(error, ConfigError) else FAILED)


if __name__ == "__main__":
    from tests.elastic.driver import main as start  # not __main__'s: workers get classes by name

    start()
