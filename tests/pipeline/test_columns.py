"""pipeline.columns: the published tables as `design.md` fixes them."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.columns import CAPTIONS, FAILURES, PART, parquet_options, split_part

TABLES = [pytest.param(CAPTIONS, id="captions"), pytest.param(FAILURES, id="failures")]


def test_captions_have_their_fixed_columns_in_order() -> None:
    assert " ".join(CAPTIONS.names) == (
        "asset_id asset_uuid dataset shard key media content_sha256 content_bytes width height duration_s "
        "prompt_id caption caption_text finish_reason flags mean_logprob n_prompt_tokens n_visual_tokens "
        "n_output_tokens attempt grid_rows grid_cols n_crops frame_pts_s duplicate_of model model_revision recipe_id "
        "run_id unit_id created_at"
    )


def test_failures_have_their_fixed_columns_in_order() -> None:
    assert " ".join(FAILURES.names) == (
        "asset_id asset_uuid dataset shard key media content_sha256 prompt_id stage error_code error_message "
        "retriable recipe_id run_id unit_id created_at"
    )


@pytest.mark.parametrize("schema", TABLES)
def test_every_column_says_what_it_is(schema: pa.Schema) -> None:
    assert [field.name for field in schema if not (field.metadata or {}).get(b"description")] == []


@pytest.mark.parametrize("schema", TABLES)
def test_columns_are_scalars_or_lists_of_them(schema: pa.Schema) -> None:
    for field in schema:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        assert not pa.types.is_nested(kind), field


@pytest.mark.parametrize("schema", TABLES)
def test_timestamps_are_utc_microseconds(schema: pa.Schema) -> None:
    assert schema.field("created_at").type == pa.timestamp("us", tz="UTC")


def test_a_part_holds_the_columns_of_both_tables_once() -> None:
    assert sorted(PART.names) == sorted({"row", *CAPTIONS.names, *FAILURES.names})


def test_a_part_splits_into_captions_and_failures() -> None:
    part = pa.Table.from_pylist(
        [{"row": "caption", "key": "a", "caption": "x"}, {"row": "failure", "key": "b", "stage": "read"}],
        PART,
    )

    captions, failures = split_part(part)

    assert (captions.schema.names, captions["key"].to_pylist()) == (CAPTIONS.names, ["a"])
    assert (failures.schema.names, failures["stage"].to_pylist()) == (FAILURES.names, ["read"])


def test_an_empty_part_splits_into_empty_tables() -> None:
    captions, failures = split_part(PART.empty_table())

    assert (len(captions), len(failures)) == (0, 0)


def test_published_files_are_declared_sorted_with_a_bloom_filter_and_a_page_index(tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pa.Table.from_pylist([{"asset_id": "a"}, {"asset_id": "b"}], CAPTIONS)

    pq.write_table(table, sink, **parquet_options(CAPTIONS))

    group = pq.read_metadata(sink).row_group(0)
    assert [c.column_index for c in group.sorting_columns] == [0]
    assert group.column(0).compression == "ZSTD"
    assert group.column(0).has_offset_index
    assert group.column(0).has_column_index


def test_only_the_bloom_filter_makes_an_asset_id_look_up_larger() -> None:
    table = pa.Table.from_pylist([{"asset_id": f"{i:032x}"} for i in range(1000)], CAPTIONS)
    with_filter, without = io.BytesIO(), io.BytesIO()

    pq.write_table(table, with_filter, **parquet_options(CAPTIONS))
    pq.write_table(table, without, **{**parquet_options(CAPTIONS), "bloom_filter_options": None})

    assert 1000 < len(with_filter.getvalue()) - len(without.getvalue()) < 10_000
