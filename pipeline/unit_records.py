"""What each unit took: in the footer of its part while a run goes on, then a row each of `runs/<run_id>/units.parquet`.

For people who watch, plan and pay; nothing that is published depends on it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.columns import TIME, parquet_options, schema, split_part
from pipeline.types import Captioned

KEY = "captionmill.unit"  # of a part's footer
UNITS = schema(
    (
        ("unit_id", pa.string(), "work unit: shard number, first asset, count"),
        ("shard", pa.string(), "path of the shard below the input root"),
        ("first", pa.int64(), "row of its first asset in the shard's index"),
        ("count", pa.int64(), "assets"),
        ("visual_tokens", pa.int64(), "planned: prompt tokens that stand for pictures, once for each asset"),
        ("crops", pa.int64(), "planned: crops given to the vision tower"),
        ("pixel_bytes", pa.int64(), "planned: bytes of these crops, uint8"),
        ("captions", pa.int64(), "rows of captions"),
        ("failures", pa.int64(), "rows of failures"),
        ("failures_by_code", pa.map_(pa.string(), pa.int64()), "rows of failures by error_code"),
        ("prompt_tokens", pa.int64(), "sum of n_prompt_tokens of its captions"),
        ("prefill_tokens", pa.int64(), "prompt tokens that were read; what an asset's prompts share, once"),
        ("output_tokens", pa.int64(), "sum of n_output_tokens of its captions"),
        ("begun_at", TIME, "when its preparing began"),
        ("ended_at", TIME, "when its captioning ended"),
        ("prepare_s", pa.float64(), "seconds of reading, decoding and cutting"),
        ("caption_s", pa.float64(), "seconds in the captioner, perhaps beside another unit"),
        ("busy_s", pa.float64(), "its share of the seconds in which the model computed"),
        ("slot_steps", pa.float64(), "its share of generation.batch_size slots times steps of decoding"),
        ("slots_idle", pa.float64(), "its share of those in which nothing was generated"),
    )
)


def to_json(captioned: Captioned, part: pa.Table) -> str:
    """A unit's record; `part` has its rows, of schema `PART`."""
    unit = captioned.unit
    captions, failures = split_part(part)
    codes = failures["error_code"].value_counts().to_pylist()
    record = {
        "unit_id": unit.unit_id,
        "shard": unit.shard.path,
        "first": unit.first,
        "count": unit.count,
        **asdict(unit.cost),
        "captions": len(captions),
        "failures": len(failures),
        "failures_by_code": {row["values"]: row["counts"] for row in codes},
        "prompt_tokens": pc.sum(captions["n_prompt_tokens"]).as_py() or 0,
        "output_tokens": pc.sum(captions["n_output_tokens"]).as_py() or 0,
        **asdict(captioned.effort),
    }
    return json.dumps(record)


def found(footer: Mapping[bytes, bytes]) -> Iterator[dict[str, Any]]:
    """The record in the footer of a part; none where another version wrote the part."""
    if KEY.encode() in footer:
        yield json.loads(footer[KEY.encode()])


def table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The records as a table of schema `UNITS`, by unit_id."""
    rows = [
        {**record, "failures_by_code": sorted(record["failures_by_code"].items())}
        for record in sorted(records, key=lambda record: str(record["unit_id"]))
    ]
    return pa.Table.from_pylist(rows, schema=UNITS)


def write(
    output: str, run_id: str, records: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> None:
    """Write the records of a run, with `metadata` in the footer."""
    sink = io.BytesIO()
    pq.write_table(table(records).replace_schema_metadata(dict(metadata)), sink, **parquet_options())
    storage.put(uri(output, run_id), sink.getvalue())


def uri(output: str, run_id: str) -> str:
    """Where the records of a published run are."""
    return storage.join(output, "runs", run_id, "units.parquet")
