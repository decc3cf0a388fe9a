"""pipeline.tally, .identical and .gallery: counts against plain Python's, and a sample that has every kind of row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from pipeline import gallery
from pipeline.columns import CAPTIONS
from pipeline.identical import Identical, Shared
from pipeline.lookup import published
from pipeline.tally import PIXELS, Tally
from tests import tables

FLAGGED = ("no " * 9, "I cannot see it.", "See https://a.b/", "")


def rows(count: int, prompts: tuple[str, ...] = ("detailed", "title")) -> list[dict[str, Any]]:
    """Captions of `count` assets under each prompt, some of them flagged, some the same, some copies."""
    draw = Random(1)
    found = []
    for i in range(count):
        size = draw.choice([(64, 64), (640, 480), (3000, 2000)])
        grid = 1 + i % 3
        other: dict[str, Any] = {
            "width": size[0],
            "height": size[1],
            "grid_rows": grid,
            "n_crops": 1 + 2 * grid,
        }
        other["duplicate_of"] = "0" * 32 if i % 50 == 7 else None
        for prompt in prompts:
            text = draw.choice(FLAGGED) if draw.random() < 0.1 else f"a {draw.randrange(40)} {prompt}"
            found.append(tables.caption(text, i, prompt_id=prompt, **other))
    return found


@pytest.fixture
def output(tmp_path: Path) -> str:
    return tables.publish(tmp_path / "out", rows(400))


def read(output: str, seed: int = 0) -> list[pa.Table]:
    table = published(output)
    return list(gallery.from_id(output, table.captions, gallery.start(seed)))


def test_every_row_is_read_once_and_assets_in_one_piece(output: str) -> None:
    tables_read = read(output)
    pieces = [set(table["asset_id"].to_pylist()) for table in tables_read]

    assert sum(len(table) for table in tables_read) == 800
    assert sum(map(len, pieces)) == len(set().union(*pieces)) == 400


def test_counts_are_those_of_the_rows(output: str) -> None:
    tally, own = Tally(), rows(400)
    for table in read(output):
        tally.add(table)
    assets = {row["asset_id"]: row for row in own}.values()

    assert (tally.captions, tally.assets, tally.copies) == (800, 400, 8)
    assert tally.flags == Counter(flag for row in own for flag in row["flags"])
    assert tally.flagged == sum(bool(row["flags"]) for row in own)
    assert tally.lengths == Counter(len(row["caption_text"]) for row in own)
    assert tally.tokens == Counter(row["n_output_tokens"] for row in own)
    assert tally.tokens_of.total() == sum(row["n_output_tokens"] for row in own)
    assert tally.crops == Counter(row["n_crops"] for row in assets)
    assert tally.sizes == Counter(sum(r["width"] * r["height"] >= p for p in PIXELS) for r in assets)
    assert sum(work.tokens for work in tally.units.values()) == tally.tokens_of.total()


def shared(own: list[dict[str, Any]], **bounds: int) -> Shared:
    identical, table = Identical(**bounds), pa.Table.from_pylist(own, schema=CAPTIONS)
    for start in range(0, len(table), 90):
        identical.add(table.slice(start, 90))
    return identical.shared()


def test_identical_captions_are_those_of_other_assets_under_the_same_prompt() -> None:
    own = [row for row in rows(400) if row["duplicate_of"] is None]
    often = Counter((row["prompt_id"], row["caption_text"]) for row in own)
    found = shared(rows(400), at_once=100)

    assert (found.rows, found.exact) == (len(own), True)
    assert found.shared == sum(n for n in often.values() if n > 1)
    assert [r.rows for r in found.largest] == [n for _, n in often.most_common(10)]
    assert all(often[r.prompt_id, r.caption] == r.rows for r in found.largest)


def test_with_too_many_captions_to_hold_the_largest_are_still_found() -> None:
    own = [tables.caption("blurry" if i % 4 == 0 else f"caption {i}", i) for i in range(2_000)]
    found = shared(own, most=100, at_once=200)

    assert (found.exact, found.shared) == (False, 500)
    assert [(r.caption, r.rows) for r in found.largest] == [("blurry", 500)]


@pytest.mark.parametrize(("every", "answers", "suspicious"), [(20, 10_000, 1), (1_000, 10_000, 0), (3, 3, 0)])
def test_one_caption_on_many_rows_is_suspicious_unless_a_prompt_has_few_answers(
    every: int, answers: int, suspicious: int
) -> None:
    own = [tables.caption("blurry" if i % every == 0 else f"{i % answers} shapes", i) for i in range(2_000)]

    assert len(shared(own).suspicious()) == suspicious


def test_a_sample_has_every_kind_of_row_and_no_asset_twice(output: str) -> None:
    sampler = gallery.Sampler(60)
    for table in read(output):
        sampler.add(table)
    ids, table = sampler.chosen()
    seen = {flag for flags in table["flags"].to_pylist() for flag in flags}

    assert len(ids) == len(set(ids)) == 60
    assert seen == {flag for row in rows(400) for flag in row["flags"]}
    assert set(table["grid_rows"].to_pylist()) == {1, 2, 3}
    assert sorted(table["asset_id"].to_pylist()) == sorted([*ids, *ids])  # a row under each prompt
    assert set(table["duplicate_of"].to_pylist()) > {None}


def test_wanted_assets_are_kept_beside_the_sample(output: str) -> None:
    wanted = [row["asset_id"] for row in rows(400)[::100]]
    sampler = gallery.Sampler(1, wanted)
    for table in read(output):
        sampler.add(table)

    assert set(wanted) <= set(sampler.chosen()[1]["asset_id"].to_pylist())
