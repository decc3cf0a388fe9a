"""pipeline.schema and pipeline.messages: what goes into Arrow comes out as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import IntegrityError
from pipeline.messages import (
    captioned_to_table,
    done_to_table,
    prepared_to_table,
    shard_to_table,
    table_to_captioned,
    table_to_done,
    table_to_prepared,
    table_to_shard,
    table_to_unit,
    unit_to_table,
)
from pipeline.schema import assets_to_table, table_to_assets
from pipeline.types import Answer, Asset, Code, Media, Prepared, Problem, Sample, ShardFormat, Size, Stage
from tests import made

TILE = 6
WHOLE_SHARD = Asset("f" * 32, "", None, (), "", 0, {}, Problem(Stage.INDEX, Code.SHARD_EMPTY, "no bytes"))


def prepared(count: int = 4, failed: Sequence[int] = (1,)) -> Prepared:
    """A unit whose crops say whose they are."""
    unit = made.captioned(count=count, failed=failed)
    samples = tuple(
        Sample(v, np.full((v.n_crops, TILE, TILE, 3), 10 * v.position, np.uint8)) for v in unit.views
    )
    problems = tuple(a for a in unit.answers if isinstance(a.outcome, Problem))
    return Prepared(unit.unit, unit.assets, samples, problems, made.PREPARATION)


@pytest.mark.parametrize(
    "asset",
    [
        pytest.param(made.asset(0, 0), id="image"),
        pytest.param(made.asset(0, 1), id="images"),
        pytest.param(made.asset(0, 2), id="video"),
        pytest.param(WHOLE_SHARD, id="shard"),
        pytest.param(replace(made.asset(0, 0), facts=made.PROBLEM, sha256=""), id="unreadable"),
        pytest.param(replace(made.asset(0, 2), facts=made.PROBLEM), id="unreadable video"),
        pytest.param(replace(made.asset(0, 0), text={"a": "\0 \u2028 ü 😀", "": ""}), id="odd text"),
    ],
)
def test_an_asset_comes_back(asset: Asset) -> None:
    assert table_to_assets(assets_to_table([asset])) == [asset]


def test_assets_keep_their_order() -> None:
    assets = [made.asset(0, i) for i in (5, 1, 3, 0)]

    assert table_to_assets(assets_to_table(assets)) == assets


def test_no_assets_come_back_as_none() -> None:
    assert table_to_assets(assets_to_table([])) == []


@pytest.mark.parametrize("form", ShardFormat)
def test_a_shard_comes_back(form: ShardFormat) -> None:
    shard = replace(made.shard(), format=form, uri="s3://bücket/a b.tar")

    assert table_to_shard(shard_to_table(shard)) == shard


def test_a_unit_comes_back_with_the_address_of_its_index() -> None:
    unit = made.captioned().unit

    assert table_to_unit(unit_to_table(unit, "s3://out/index/a.parquet")) == (
        unit,
        "s3://out/index/a.parquet",
    )


def test_a_captioned_unit_comes_back() -> None:
    captioned = made.captioned(count=6, failed=(2, 3))

    assert table_to_captioned(captioned_to_table(captioned)) == captioned


def test_a_problem_of_one_prompt_keeps_its_prompt() -> None:
    unit = made.captioned(count=1)
    answers = (unit.answers[0], Answer(0, unit.assets[0].sha256, "long", made.PROBLEM))

    assert table_to_captioned(captioned_to_table(replace(unit, answers=answers))).answers == answers


def test_a_prepared_unit_comes_back() -> None:
    given = prepared()

    back = table_to_prepared(prepared_to_table(given))

    assert (back.unit, back.assets, back.problems) == (given.unit, given.assets, given.problems)
    assert [s.view for s in back.samples] == [s.view for s in given.samples]


def test_every_sample_gets_its_own_pixels_back() -> None:
    given = prepared()

    back = table_to_prepared(prepared_to_table(given))

    for sent, got in zip(given.samples, back.samples, strict=True):
        np.testing.assert_array_equal(got.crops, sent.crops)


def test_a_unit_without_samples_comes_back() -> None:
    given = prepared(count=2, failed=(0, 1))

    assert table_to_prepared(prepared_to_table(given)) == given


def test_pixels_are_read_without_a_copy() -> None:
    table = prepared_to_table(prepared())

    crops = table_to_prepared(table).samples[0].crops

    assert crops.ctypes.data == table["pixels"].chunk(0).buffers()[2].address
    assert not crops.flags.writeable


def test_pixels_are_read_from_a_row_further_down() -> None:
    table = pa.concat_tables(
        [prepared_to_table(prepared(count=2)), prepared_to_table(prepared())]
    ).combine_chunks()

    samples = table_to_prepared(table.slice(1)).samples

    assert [int(s.crops.max()) for s in samples] == [0, 20, 30]


def test_a_message_between_stages_is_one_row() -> None:
    assert len(prepared_to_table(prepared())) == len(captioned_to_table(made.captioned())) == 1


def test_a_unit_that_is_done_stays_the_unit_it_was() -> None:
    assert table_to_done(done_to_table(prepared().unit)) == prepared().unit


def test_a_unit_that_is_worked_on_is_not_done() -> None:
    assert table_to_done(prepared_to_table(prepared())) is None
    assert table_to_done(captioned_to_table(made.captioned())) is None


def test_a_sample_with_other_crops_than_its_view_says_is_refused() -> None:
    given = prepared()
    view = replace(given.samples[0].view, n_crops=6)

    with pytest.raises(IntegrityError, match="has 7 crops and says 6"):
        prepared_to_table(replace(given, samples=(replace(given.samples[0], view=view), *given.samples[1:])))


def test_frame_times_come_back_to_the_last_digit() -> None:
    unit = made.captioned(count=3)
    view = replace(unit.views[2], frame_pts_s=(1 / 3, 0.1 + 0.2, 1e-9))

    assert table_to_captioned(captioned_to_table(replace(unit, views=(view,)))).views == (view,)


def test_upright_sizes_of_several_pictures_keep_their_order() -> None:
    asset = replace(made.asset(0, 1), media=Media.IMAGES, facts=(Size(1, 2), Size(3, 4), Size(5, 6)))

    assert table_to_assets(assets_to_table([asset]))[0].facts == asset.facts
