"""Every bad input of the corpus through the whole pipeline, in one job: its own outcome, and its neighbours well."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from jobs.preflight import check
from jobs.run import actors, run
from jobs.session import session
from pipeline import flow
from pipeline.config import read
from pipeline.naming import clean, digest
from tests import made
from tests.corpus import folders, hostile, images, sidecars_and_keys, tables, tars, videos
from tests.corpus.entries import CAPTIONED, Asset, Outcome, Shard, good, picture, tar
from tests.double import said, with_doubles

pytestmark = pytest.mark.slow

JOB = """
[input]
dataset = "corpus"
uris = ["{folder}/assets/*.tar", "{folder}/tars/*.tar", "{folder}/tables/*.parquet", "{folder}/loose"]
root = "{folder}"
key_column = "id"
max_member_bytes = 4_000_000
[model]
path = "{folder}/checkpoint"
[[prompt]]
id = "plain"
text = "What is it?"
[[prompt]]
id = "titled"
text = "Is it {{title|a thing}} or {{subtitle}}?"
[image]
max_pixels = 20_000_000
timeout_s = 5
[video]
frames = 4
max_pixels = 5_000_000
timeout_s = 20
[unit]
max_assets = 24
[output]
uri = "{folder}/out"
[cluster]
replicas = 1
gpus_per_replica = 0
"""
EVERY = 5  # so many bad assets, then a good one
ASSETS: Mapping[str, Mapping[str, Asset]] = {
    "images": images.assets(),
    "videos": videos.assets(),
    "sidecars_and_keys": sidecars_and_keys.assets(),
    "hostile": hostile.assets(),
}
SHARDS: Mapping[str, Mapping[str, Shard]] = {"tars": tars.shards(), "tables": tables.shards()}
SUFFIX = {"tars": "tar", "tables": "parquet"}

Row = Mapping[str, Any]
Expected = dict[tuple[str, str], Outcome]  # by shard and key


def bad() -> Mapping[str, Expected]:
    """What must become of each bad input, by its name."""
    found: dict[str, Expected] = {}
    for medium, assets in ASSETS.items():
        for name, asset in assets.items():
            found[f"{medium}-{name}"] = {(f"assets/{medium}.tar", asset.key or name): asset.outcome}
    for medium, shards in SHARDS.items():
        for name, shard in shards.items():
            path = f"{medium}/{name}.{SUFFIX[medium]}"
            found[f"{medium}-{name}"] = {(path, key): outcome for key, outcome in shard.outcomes.items()}
    for name, (_, outcome) in folders.files().items():
        found[f"folders-{clean(name)}"] = {("loose", clean(name)): outcome}
    return found


def neighbours() -> Mapping[tuple[str, str], int]:
    """Shard and key of each good neighbour, with its number."""
    counts = {f"assets/{medium}.tar": 1 + len(assets) // EVERY for medium, assets in ASSETS.items()}
    return {(path, f"good{i}"): i for path, count in counts.items() for i in range(count)}


BAD, GOOD = bad(), neighbours()


def write(folder: Path) -> None:
    """The corpus."""
    for part in ("assets", *SHARDS, "loose"):
        (folder / part).mkdir()
    for medium, assets in ASSETS.items():
        members = good("good0", 0)
        for i, (name, asset) in enumerate(assets.items(), 1):
            members += asset.named(asset.key or name)
            members += good(f"good{i // EVERY}", i // EVERY) if i % EVERY == 0 else []
        (folder / "assets" / f"{medium}.tar").write_bytes(tar(members))
    for medium, shards in SHARDS.items():
        for name, shard in shards.items():
            (folder / medium / f"{name}.{SUFFIX[medium]}").write_bytes(shard.data)
    folders.write(folder / "loose")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> list[Row]:
    """The published rows of both tables."""
    folder = tmp_path_factory.mktemp("corpus")
    write(folder)
    made.checkpoint(folder / "checkpoint")
    ready, console = check(read(JOB.format(folder=folder))), Console(stderr=True)
    with session(console):
        made_of = with_doubles(actors(ready), ready)
        obedient = flow.Actor(hostile.Obedient, made_of.preprocessor.kwargs)
        told = run(ready, replace(made_of, preprocessor=obedient), console)
    files = [folder / "out" / f["path"] for table in ("captions", "failures") for f in told[table]["files"]]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


@pytest.fixture(scope="module")
def outcomes(rows: list[Row]) -> Expected:
    """What became of each key."""
    found: dict[tuple[str, str], set[tuple[str | None, str]]] = defaultdict(set)
    for row in rows:
        found[row["shard"], row["key"]].add((row["prompt_id"], row.get("error_code", "caption")))
    return {key: frozenset(outcome) for key, outcome in found.items()}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_has_its_own_outcome(outcomes: Expected, name: str) -> None:
    assert {place: outcomes.get(place) for place in BAD[name]} == BAD[name]


def test_there_are_enough_bad_inputs() -> None:
    assert len(BAD) >= 80


def test_there_are_no_rows_but_these(rows: list[Row]) -> None:
    expected = dict.fromkeys(GOOD, CAPTIONED)
    for places in BAD.values():
        expected |= places
    due = Counter((*place, prompt) for place, outcome in expected.items() for prompt, _ in outcome)

    assert Counter((row["shard"], row["key"], row["prompt_id"]) for row in rows) == due


def test_neighbours_are_captioned_from_their_own_bytes(rows: list[Row]) -> None:
    said_of = {(r["shard"], r["key"]): r["caption"] for r in rows if r["prompt_id"] == "plain"}
    digests = {number: hashlib.sha256(picture(number)).hexdigest() for number in GOOD.values()}
    due = {place: said(digests[number], "plain", (number, 100, 200)) for place, number in GOOD.items()}

    assert {place: said_of.get(place) for place in GOOD} == due


def test_what_can_be_shown_was_seen_as_it_is(rows: list[Row]) -> None:
    """Alpha, deep samples and odd colours go wrong without an error."""
    shades = {
        (row["shard"], row["key"]): [int(n) for n in row["caption"].rpartition(" ")[2].split("-")]
        for row in rows
        if row["prompt_id"] == "plain" and "caption" in row
    }
    wrong = [
        (name, shades[f"assets/{medium}.tar", asset.key or name])
        for medium, assets in ASSETS.items()
        for name, asset in assets.items()
        if asset.colour
        and max(abs(np.subtract(shades[f"assets/{medium}.tar", asset.key or name], asset.colour))) > 3
    ]

    assert wrong == []


def test_bytes_that_were_read_have_their_digest(rows: list[Row]) -> None:
    found = {(r["shard"], r["key"]): r["content_sha256"] for r in rows}
    wrong = []
    for medium in ("images", "videos"):
        for name, asset in ASSETS[medium].items():
            sha256 = found[f"assets/{medium}.tar", name]
            if sha256 != digest(tuple(data for _, data in asset.members)):
                wrong.append((name, sha256))

    assert wrong == [("more_bytes_than_allowed", None)]  # which are not read


def test_a_broken_shard_is_one_row_without_media_or_digest(rows: list[Row]) -> None:
    whole = [r for r in rows if r["key"] == ""]

    assert {(r["media"], r["content_sha256"], r["stage"]) for r in whole} == {(None, None, "index")}


def test_messages_are_one_short_line_without_addresses(rows: list[Row]) -> None:
    messages = [r["error_message"] for r in rows if "error_message" in r]

    assert all(m and len(m) <= 300 and len(m.splitlines()) == 1 for m in messages)
    assert [m for m in messages if "://" in m or "/tmp" in m] == []
