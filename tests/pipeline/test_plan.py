"""pipeline.plan: units, costs and names of a run, from the index alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.anyres import Geometry
from pipeline.config import InputConfig, UnitConfig, VideoConfig
from pipeline.errors import IntegrityError
from pipeline.fit import Needs
from pipeline.plan import Plan, job_id
from pipeline.planner import compose
from pipeline.pricing import Pricer, priced
from pipeline.types import Asset, Code, Cost, Media, Problem, Shard, Size, Stage
from tests import made

GEOMETRY = Geometry.from_checkpoint(
    {
        "model_type": "llava_onevision",
        "image_grid_pinpoints": [
            [384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)
        ],
        "vision_config": {"image_size": 384, "patch_size": 14},
    },
    {"size": {"height": 384, "width": 384}},
    None,
)
PRICE = Pricer(GEOMETRY, VideoConfig())
INPUT = InputConfig("birds", ("s3://bucket/a/*.tar",))
LIMITS = UnitConfig()
SHARDS = [made.shard(0), made.shard(1)]
UNREADABLE = Problem(Stage.INDEX, Code.CORRUPT, "x")


def write_index(folder: Path, number: int, assets: Sequence[Asset]) -> str:
    """An index object as the indexer writes it."""
    path = folder / f"{number}.parquet"
    pq.write_table(schema.assets_to_table(assets), path)
    return str(path)


def plan_of(folder: Path, shards: Sequence[Sequence[Asset]], limits: UnitConfig = LIMITS) -> Plan:
    """The plan of shards with these assets."""
    indexes = [write_index(folder, n, assets) for n, assets in enumerate(shards)]
    listed = [made.shard(n) for n in range(len(shards))]
    found = priced(listed, indexes, PRICE)
    return Plan(
        "run0",
        "recipe0",
        "birds",
        tuple(listed),
        tuple(indexes),
        compose(found, (), limits).units,
        sum(map(len, shards)),
        sum(int(p.indexed.problem.sum()) for p in found),
        Needs(5, 4, 3, 2, 1),
        "job0",
    )


def images(number: int, count: int) -> list[Asset]:
    """Assets of one image each."""
    return [made.asset(number, 3 * i) for i in range(count)]


def test_units_cover_every_asset_of_every_shard_once(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [images(0, 7), images(1, 1), images(2, 4)], UnitConfig(max_assets=3))

    assert [(u.shard.path, u.first, u.count) for u in plan.units] == [
        ("a/000000.tar", 0, 3),
        ("a/000000.tar", 3, 3),
        ("a/000000.tar", 6, 1),
        ("a/000001.tar", 0, 1),
        ("a/000002.tar", 0, 3),
        ("a/000002.tar", 3, 1),
    ]
    assert plan.assets == 12


def test_assets_that_the_index_could_not_read_cost_nothing_and_are_counted(tmp_path: Path) -> None:
    bad = [replace(a, facts=UNREADABLE) for a in images(0, 2)]

    plan = plan_of(tmp_path, [[*images(0, 1), *bad]])

    assert (plan.assets, plan.failed) == (3, 2)
    assert plan.cost == plan_of(tmp_path, [images(0, 1)]).cost


def test_a_shard_that_could_not_be_read_is_a_unit_of_one_row(tmp_path: Path) -> None:
    whole = Asset("f" * 32, "", None, (), "", 0, {}, Problem(Stage.INDEX, Code.SHARD_EMPTY, "no bytes"))

    (unit,) = plan_of(tmp_path, [[whole]]).units

    assert (unit.count, unit.cost) == (1, Cost(0, 0, 0))


@pytest.mark.parametrize(
    ("asset", "cost"),
    [
        # 640 x 480 on 2 x 2 tiles: 27^2 of the base crop, 54 rows less 7 of padding at both ends by 54 and newlines
        pytest.param(made.asset(0, 0), (27 * 27 + 40 * 55, 5), id="image"),
        # several images are one padded square each, and one newline closes them all
        pytest.param(made.asset(0, 1), (2 * (27 * 27 + 1), 2), id="images"),
        # a frame is pooled to 14 x 14, and one newline closes the clip
        pytest.param(made.asset(0, 2), (16 * 196 + 1, 16), id="video"),
    ],
)
def test_an_asset_costs_what_its_size_says(tmp_path: Path, asset: Asset, cost: tuple[int, int]) -> None:
    tokens, crops = cost

    assert plan_of(tmp_path, [[asset]]).cost == Cost(tokens, crops, crops * 384 * 384 * 3)


def test_a_clip_of_few_frames_costs_only_those(tmp_path: Path) -> None:
    clip = replace(made.asset(0, 2), facts=replace(made.CLIP, n_frames=4))

    assert plan_of(tmp_path, [[clip]]).cost.crops == 4


def test_the_cost_of_a_plan_is_that_of_its_units(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [[made.asset(0, i) for i in range(9)]], UnitConfig(max_assets=2))

    assert plan.cost.visual_tokens == sum(u.cost.visual_tokens for u in plan.units)
    assert len(plan.units) == 5


def test_the_cost_of_no_units_is_nothing(tmp_path: Path) -> None:
    assert plan_of(tmp_path, []).cost == Cost(0, 0, 0)


def test_a_unit_knows_the_index_of_its_shard(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [images(0, 1), images(1, 5)], UnitConfig(max_assets=2))

    assert [Path(plan.index_of(u)).name for u in plan.units] == [
        f"{int(u.shard.path[2:8])}.parquet" for u in plan.units
    ]


def test_the_plan_is_json_with_a_row_per_unit(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [images(0, 2), images(1, 1)])

    written = json.loads(plan.to_json())

    assert written["unit_columns"] == ["work", "first", "count", "visual_tokens", "crops", "pixel_bytes"]
    assert [row[:3] for row in written["units"]] == [[0, 0, 2], [1, 0, 1]]
    assert written["shards"][1] == {"path": "a/000001.tar", "etag": "etag1", "bytes": 10240, "format": "tar"}
    assert (written["run_id"], written["assets"], written["failed_in_index"]) == ("run0", 3, 0)
    assert written["replica_bytes"] == {"weights": 5, "vision": 4, "prefill": 3, "token": 2, "caption": 1}


def test_the_plan_names_the_index_of_each_shard(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [images(0, 2), images(1, 1)])

    assert json.loads(plan.to_json())["indexes"] == [Path(uri).name for uri in plan.indexes]


def test_the_plan_does_not_say_where_the_input_lies(tmp_path: Path) -> None:
    assert "bucket" not in plan_of(tmp_path, [images(0, 1)]).to_json()


def moved(shard: Shard) -> Shard:
    """The same shard in a renamed bucket."""
    return replace(shard, uri=shard.uri.replace("bucket", "archive"))


def test_a_renamed_bucket_is_the_same_run() -> None:
    assert job_id("r", SHARDS, INPUT, LIMITS) == job_id("r", [moved(s) for s in SHARDS], INPUT, LIMITS)


def test_another_way_to_write_the_input_is_the_same_run() -> None:
    braces = replace(INPUT, uris=("s3://bucket/a/{000000,000001}.tar",))

    assert job_id("r", SHARDS, INPUT, LIMITS) == job_id("r", SHARDS, braces, LIMITS)


@pytest.mark.parametrize(
    ("recipe_id", "shards", "given", "limits"),
    [
        pytest.param("other", SHARDS, INPUT, LIMITS, id="recipe"),
        pytest.param("r", SHARDS[:1], INPUT, LIMITS, id="fewer shards"),
        pytest.param("r", [SHARDS[0], replace(SHARDS[1], etag="new")], INPUT, LIMITS, id="etag"),
        pytest.param("r", [SHARDS[0], replace(SHARDS[1], path="b.tar")], INPUT, LIMITS, id="path"),
        pytest.param("r", SHARDS, replace(INPUT, dataset="cats"), LIMITS, id="dataset"),
        pytest.param("r", SHARDS, replace(INPUT, image_column="jpg"), LIMITS, id="image column"),
        pytest.param("r", SHARDS, replace(INPUT, max_member_bytes=1), LIMITS, id="largest member"),
        pytest.param("r", SHARDS, INPUT, replace(LIMITS, max_assets=7), id="unit bounds"),
    ],
)
def test_another_recipe_input_or_grain_is_another_run(
    recipe_id: str, shards: list[Shard], given: InputConfig, limits: UnitConfig
) -> None:
    assert job_id(recipe_id, shards, given, limits) != job_id("r", SHARDS, INPUT, LIMITS)


def test_rows_of_one_size_cost_the_same_wherever_they_stand() -> None:
    rows = [replace(made.asset(0, 0), facts=(Size(100 + i % 7, 100),), media=Media.IMAGE) for i in range(700)]

    costs = PRICE(schema.assets_to_table(rows))

    assert costs.shape == (700, 3)
    assert (costs[:7] == costs[693:]).all()


def again(plan: Plan, data: str) -> Plan:
    """The plan as a later start reads it, in a renamed bucket."""
    return Plan.from_json(
        data.encode(),
        "out",
        plan.run_id,
        [moved(s) for s in plan.shards],
        [f"other/{uri}" for uri in plan.indexes],
    )


def test_a_plan_is_read_as_it_was_written_at_the_addresses_of_now(tmp_path: Path) -> None:
    bad = replace(made.asset(1, 1), facts=UNREADABLE)
    plan = plan_of(
        tmp_path, [images(0, 7), [made.asset(1, 0), bad, made.asset(1, 2)]], UnitConfig(max_assets=3)
    )

    read = again(plan, plan.to_json())

    assert read == replace(
        plan,
        shards=tuple(map(moved, plan.shards)),
        indexes=tuple(f"other/{uri}" for uri in plan.indexes),
        units=tuple(replace(u, shard=moved(u.shard)) for u in plan.units),
    )
    assert read.to_json() == plan.to_json()


def test_a_plan_of_nothing_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [])

    assert again(plan, plan.to_json()) == plan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: plan.update(schema_version="0"), "schema_version of another"),
        (lambda plan: plan.update(run_id="run1"), "run_id of another"),
        (lambda plan: plan["shards"].reverse(), "shards of another"),
        (lambda plan: plan["indexes"].pop(), "indexes of another"),
        (lambda plan: plan.pop("assets"), "KeyError: 'assets'"),
        pytest.param(lambda plan: plan["units"].pop(0), "do not follow", id="first unit lost"),
        pytest.param(lambda plan: plan["units"].append([0, 0, 3, 0, 0, 0]), "do not follow", id="unit twice"),
        pytest.param(lambda plan: plan["units"].reverse(), "do not follow", id="units backwards"),
        pytest.param(lambda plan: plan["units"].pop(2), "not all there", id="a shard's last unit lost"),
        pytest.param(lambda plan: plan["units"][0].__setitem__(3, 1), "not all there", id="another cost"),
        (lambda plan: plan["units"][0].pop(), "ValueError"),
        (lambda plan: plan["units"][0].__setitem__(1, 1 << 70), "OverflowError"),
        (lambda plan: plan.update(replica_bytes={}), "TypeError"),
    ],
)
def test_a_changed_plan_is_refused_with_what_to_do(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    plan = plan_of(tmp_path, [images(0, 7), images(1, 2)], UnitConfig(max_assets=3))
    told = json.loads(plan.to_json())
    change(told)

    with pytest.raises(IntegrityError, match=f"{said}.*; delete it and start again"):
        again(plan, json.dumps(told))


@pytest.mark.parametrize("data", ["", "[]", '{"schema_version"', "[" * 10_000])
def test_what_is_no_plan_is_refused(tmp_path: Path, data: str) -> None:
    plan = plan_of(tmp_path, [images(0, 1)])

    with pytest.raises(IntegrityError, match="is not the plan that was written"):
        again(plan, data)
