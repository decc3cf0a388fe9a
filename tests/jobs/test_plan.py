"""jobs.plan: what a run would do, told without a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from actors.sandbox import Sandbox
from jobs import indexing, plan_page
from jobs.plan import Asked, plan
from jobs.preflight import check
from pipeline import storage
from pipeline.commit import Parts
from pipeline.config import Loaded, read
from pipeline.errors import ConfigError
from tests import made
from tests.output import captioned
from tests.pipeline.conftest import tar_bytes

ASKED = Asked("h100", 2.0, 4, 100.0)
CONSOLE = Console(stderr=True)


def png(side: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (side, side // 2), (side % 256, 7, 9)).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(params=["disk", "s3"])
def job_file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Twelve assets in two shards, indexed: eight pictures, a copy, a pair and two that are broken."""
    where = str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3")
    pictures = [(f"{i}.png", png(20 + 10 * i)) for i in range(8)]
    others = [("copy.png", png(20)), ("pair.0.png", png(30)), ("pair.1.png", png(40))]
    broken = [("empty.png", b""), ("html.png", b"<!DOCTYPE html>")]
    storage.put(f"{where}/in/a.tar", tar_bytes(pictures))
    storage.put(f"{where}/in/b.tar", tar_bytes([*others, *broken]))
    text = made.job(f"{where}/in/*.tar", made.checkpoint(tmp_path / "checkpoint"), f"{where}/out")
    return f"{text}\n[unit]\nmax_assets = 3\n"


@pytest.fixture
def job(job_file: str) -> Loaded:
    """Its shards are indexed, and nothing more."""
    loaded = read(job_file)
    ready = check(loaded)
    actor = indexing.indexer(ready.job)
    with Sandbox(ready.job.image, ready.job.video) as sandbox:
        indexer = actor.cls(**{**actor.kwargs, "probe_factory": lambda: sandbox.probes})
        for shard in ready.shards:
            indexer.index(shard)
    return loaded


def planned(job: Loaded) -> dict[str, Any]:
    return plan(job, ASKED, CONSOLE)


def test_a_plan_counts_what_the_index_holds(job: Loaded) -> None:
    told = planned(job)

    assert (told["shards"], told["assets"], told["captions"]) == (2, 12, 10)
    assert told["by_kind"] == {"image": 9, "images": 1}
    assert told["unreadable"] == {"empty_input": 1, "unidentified": 1}
    assert told["duplicates"] == {"assets": 1, "captions_saved": 1}
    assert told["units"] == 4
    assert told["prompt_tokens"]["visual"] == told["visual_tokens"] > 0
    assert sum(b["assets"] for b in told["crops_histogram"]) == 10


def test_a_plan_writes_nothing_where_the_index_is_complete(job: Loaded) -> None:
    output = job.job().output.uri
    before = storage.listing(output)
    planned(job)

    assert storage.listing(output) == before


def test_units_with_a_part_are_done(job: Loaded) -> None:
    ready, before = check(job), planned(job)
    unit_id = before["largest_unit"]["unit_id"]
    storage.put(Parts(ready.job.output.uri, ready.run_id).uri(unit_id), b"")

    told = planned(job)

    assert (told["done"]["units"], told["left"]["units"]) == (1, 3)
    assert told["done"]["visual_tokens"] == before["largest_unit"]["visual_tokens"]
    assert 0 < told["time"]["hours_left"] < told["time"]["hours"]


def test_a_published_job_has_nothing_left(job: Loaded, job_file: str) -> None:
    captioned(job_file)

    told = planned(job)

    assert (told["left"]["units"], told["stands"]["assets"]) == (0, 12)


def test_a_new_prompt_is_asked_of_all_that_can_be_read(job: Loaded, job_file: str) -> None:
    captioned(job_file)
    before = planned(job)

    told = planned(read(f'{job_file}\n[[prompt]]\nid = "title"\ntext = "A title."\n'))

    assert (told["left"]["assets"], told["stands"]["prompts"]["image"]["anew"]) == (9, ("title",))
    assert before["visual_tokens"] > told["left"]["visual_tokens"] > 0


def test_money_is_the_price_of_the_gpus_hours(job: Loaded) -> None:
    told = planned(job)["time"]

    assert told["gpu_hours"] == pytest.approx(4 * told["hours"])
    assert told["money"] == pytest.approx(2.0 * told["gpu_hours"])
    assert told["new_tokens_from"] == "--new-tokens"


@pytest.mark.parametrize("width", [80, 120])
def test_a_plan_fits_a_terminal(job: Loaded, width: int) -> None:
    said = io.StringIO()
    plan_page.tell(planned(job), Console(file=said, width=width))

    lines = said.getvalue().splitlines()
    assert max(len(line) for line in lines if not line.startswith("into ")) <= width
    assert any("unreadable: empty_input" in line for line in lines)
    assert lines[-1] == "Nothing of it is done yet."


def test_a_mistake_in_the_job_is_an_error(job: Loaded) -> None:
    wrong = read("[input]\ndataset = 'x'\nuris = ['/nowhere/*.tar']\n[model]\npath = 'demo'\n")

    with pytest.raises(ConfigError) as raised:
        planned(wrong)
    assert len(raised.value.problems) >= 3
