"""pipeline.forecast: counts from index rows, and what they say of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.bench.published import PUBLISHED
from pipeline import forecast, schema
from pipeline.anyres import Geometry
from pipeline.config import PromptConfig, UnitConfig, VideoConfig
from pipeline.footprint import Footprint
from pipeline.forecast import Pace, Survey
from pipeline.planner import compose
from pipeline.pricing import Pricer, priced
from pipeline.roofline import GPUS, Roofline
from pipeline.types import Asset, Media, Turn
from tests import made

GEOMETRY = Geometry.from_checkpoint(PUBLISHED["onevision-7b"], {}, None)
ROOFLINE = Roofline(Footprint.from_config(PUBLISHED["onevision-7b"]), "bfloat16", "none", GPUS["h100"])
PACE = Pace(ROOFLINE, {media: {"a": 10, "b": 10} for media in Media}, 100, 32)


def surveyed(folder: Path, *shards: Sequence[Asset], duplicates: str = "each") -> Survey:
    """The survey of shards that hold these assets."""
    for number, assets in enumerate(shards):
        pq.write_table(schema.assets_to_table(assets), folder / f"{number}.parquet")
    indexes = [str(folder / f"{number}.parquet") for number in range(len(shards))]
    listed = [made.shard(number) for number in range(len(shards))]
    found = priced(listed, indexes, Pricer(GEOMETRY, VideoConfig()))
    return Survey(compose(found, made.PROMPTS, UnitConfig(max_assets=4), duplicates=duplicates))


def bad(asset: Asset) -> Asset:
    """The same, unreadable."""
    return replace(asset, facts=made.PROBLEM)


ASKS = forecast.asks(made.PROMPTS, GEOMETRY)
NINE = [made.asset(0, i) for i in range(9)]  # three of each kind


def test_good_assets_are_counted_by_kind_and_bad_ones_by_code(tmp_path: Path) -> None:
    found = surveyed(tmp_path, [bad(NINE[0]), *NINE[1:]], [made.asset(1, 0)])
    facts = forecast.facts(found, ASKS)

    assert facts["assets"] == 10
    assert facts["by_kind"] == {"image": 3, "images": 3, "video": 3}
    assert facts["unreadable"] == {"corrupt": 1}
    assert facts["captions"] == 18


def test_a_unit_costs_what_its_assets_do(tmp_path: Path) -> None:
    found = surveyed(tmp_path, NINE, NINE[:5])

    assert [unit.count for unit in found.units] == [4, 4, 1, 4, 1]
    for unit in found.units:
        assert found.costs[found.places(unit)].sum(axis=0).tolist() == [*astuple(unit.cost)]


def test_copies_are_good_assets_with_the_bytes_of_one_before(tmp_path: Path) -> None:
    copy, broken = replace(NINE[0], asset_id="f" * 32, key="copy"), bad(NINE[3])
    found = surveyed(tmp_path, [NINE[0], copy, broken, broken], [copy], duplicates="once")

    assert found.copied.tolist() == [False, True, False, False, True]
    assert forecast.facts(found, ASKS)["duplicates"] == {"assets": 2, "captions_saved": 4}


def test_captions_are_due_where_a_prompt_asks_about_the_kind(tmp_path: Path) -> None:
    only_video = PromptConfig("v", (), video=(Turn("user", "What happens?"),))
    found = surveyed(tmp_path, [*NINE, bad(NINE[2])])

    assert found.due(forecast.asks([only_video], GEOMETRY)).tolist() == [0, 0, 1] * 3 + [0]


def test_videos_are_not_asked_about_where_the_checkpoint_takes_none(tmp_path: Path) -> None:
    found = surveyed(tmp_path, NINE)
    facts = forecast.facts(found, forecast.asks(made.PROMPTS, replace(GEOMETRY, videos=False)))

    assert (facts["captions"], facts["not_asked"]) == (12, {"video": 3})


def test_an_input_without_assets_has_a_plan(tmp_path: Path) -> None:
    facts = forecast.facts(surveyed(tmp_path), ASKS)

    assert (facts["assets"], facts["units"], facts["crops_histogram"]) == (0, 0, [])


def test_a_histogram_has_every_value_once() -> None:
    bins = forecast.histogram(np.array([1, 2, 3, 4, 5, 8, 9, 40]))

    assert [(b["from"], b["to"], b["assets"]) for b in bins] == [
        (1, 1, 1), (2, 2, 1), (3, 4, 2), (5, 8, 2), (9, 16, 1), (17, 32, 0), (33, 64, 1),
    ]  # fmt: skip


def test_what_is_done_and_what_is_left_make_the_whole(tmp_path: Path) -> None:
    found = surveyed(tmp_path, NINE)
    due = forecast.due(found.units, {found.units[1].unit_id})
    done, left = (
        forecast.total([u for u, wanted in zip(found.units, which, strict=True) if wanted])
        for which in (~due, due)
    )

    assert (done["units"], left["units"]) == (1, 2)
    assert done["visual_tokens"] + left["visual_tokens"] == found.costs[:, 0].sum()


def test_more_work_takes_longer(tmp_path: Path) -> None:
    found = surveyed(tmp_path, NINE[:1], [NINE[0]] * 2, [bad(NINE[0])])
    one, two, none = PACE.seconds(found).tolist()

    assert 0 == none < one < two
    assert replace(PACE, new_tokens=200).seconds(found)[0] > one
    assert replace(PACE, slots=64).seconds(found)[0] < one


def test_kinds_that_no_prompt_asks_about_take_no_time(tmp_path: Path) -> None:
    found = surveyed(tmp_path, NINE[2:3])

    assert replace(PACE, texts={**PACE.texts, Media.VIDEO: {}}).seconds(found).tolist() == [0.0]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3], [10, 200, 3000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # scipy.stats.spearmanr's own example
    ],
)
def test_rank_correlation_is_spearmans(one: list[float], other: list[float], expected: float) -> None:
    assert forecast.rank_correlation(np.array(one), np.array(other)) == pytest.approx(expected)
