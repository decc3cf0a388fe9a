"""Published tables of given captions, without an input: for who reads an output only."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.columns import CAPTIONS, FAILURES, SCHEMA_VERSION
from pipeline.naming import asset_id
from pipeline.provenance import NAMESPACE, RETRIABLE
from pipeline.publish import File, parquet_bytes
from pipeline.quality import caption_text, flags
from pipeline.types import Caption, Code, Finish

RUN, RECIPE = "run0", "recipe0"
BEGAN = datetime(2026, 11, 2, 8, tzinfo=UTC)
QUESTION = "Describe the image in detail."
PROMPT = {
    "id": "detailed",
    "turns": [{"role": "user", "text": QUESTION, "images": 0}],
    "max_field_chars": 2000,
}


def caption(text: str, number: int = 0, **other: Any) -> dict[str, Any]:
    """A row of captions: the `number`th asset's, with other values where they are given."""
    n = min(256, 1 + len(text.split()))
    finish = Finish(other.get("finish_reason", Finish.STOP))
    said = Caption(text, (5,) * n, finish, -0.25, 40, 30)
    row = {
        "media": "image",
        "content_sha256": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
        "content_bytes": 1000,
        "width": 640,
        "height": 480,
        "prompt_id": "detailed",
        "caption": text,
        "caption_text": caption_text(text),
        "finish_reason": finish,
        "flags": flags(said, QUESTION),
        "mean_logprob": -0.25,
        "n_prompt_tokens": 40,
        "n_visual_tokens": 30,
        "n_output_tokens": n,
        "attempt": 0,
        "grid_rows": 2,
        "grid_cols": 2,
        "n_crops": 5,
        "model": "owner/model",
        "model_revision": "0" * 40,
        **_common(number, **other),
    }
    return {name: row.get(name) for name in CAPTIONS.names} | other


def failure(code: Code, number: int = 0, **other: Any) -> dict[str, Any]:
    """A row of failures."""
    row = {
        "media": "image",
        "stage": "decode",
        "error_code": code,
        "error_message": "the decoder gave up",
        "retriable": code in RETRIABLE,
        **_common(number, **other),
    }
    return {name: row.get(name) for name in FAILURES.names} | other


def _common(number: int, **other: Any) -> dict[str, Any]:
    key = other.get("key", f"{number:08d}")
    own = asset_id("made", "0.tar", key)
    return {
        "asset_id": own,
        "asset_uuid": str(uuid.uuid5(NAMESPACE, own)),
        "dataset": "made",
        "shard": "0.tar",
        "key": key,
        "recipe_id": RECIPE,
        "run_id": RUN,
        "unit_id": f"000000-{number // 256 * 256:08d}-00256",
        "created_at": BEGAN + timedelta(seconds=number // 256),
    }


def publish(
    folder: Path,
    captions: Sequence[Mapping[str, Any]] | pa.Table,
    failures: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Write snapshot, recipe and files of these rows below `folder`; returns its address."""
    made = captions if isinstance(captions, pa.Table) else _table(captions, CAPTIONS)
    tables = {"captions": made, "failures": _table(failures, FAILURES)}
    told: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "dataset": "made", "run_id": RUN}
    told |= {"previous_run_id": None, "recipe_ids": [RECIPE], "published_at": BEGAN.isoformat()}
    told["assets"] = len({i for table in tables.values() for i in table["asset_id"].to_pylist()})
    for name, table in tables.items():
        rows = table.sort_by([("asset_id", "ascending"), ("prompt_id", "ascending")])
        told[name] = {"rows": len(rows), "files": [_put(folder, f"{name}/{RUN}/part-00000.parquet", rows)]}
    (folder / "recipes").mkdir()
    recipe = {"checkpoint": {"name": "owner/model"}, "prompts": [PROMPT], "generation": {"seed": 0}}
    (folder / "recipes" / f"{RECIPE}.json").write_text(json.dumps(recipe))
    (folder / "snapshot.json").write_text(json.dumps(told))
    return str(folder)


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def _put(folder: Path, path: str, rows: pa.Table) -> dict[str, Any]:
    data = parquet_bytes(rows, {})
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_bytes(data)
    ids = rows["asset_id"].to_pylist() or [None]
    return asdict(File(path, len(rows), len(data), hashlib.sha256(data).hexdigest(), ids[0], ids[-1]))


def many(count: int) -> pa.Table:
    """Captions of `count` assets, in the time that two columns of them take."""
    (row,) = pa.Table.from_pylist([caption("a cat")], schema=CAPTIONS).to_pylist()
    columns = {name: pa.array([row[name]], CAPTIONS.field(name).type) for name in CAPTIONS.names}
    table = pa.table({name: column.take(pa.array([0] * count)) for name, column in columns.items()})
    ids = [hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(count)]
    for name, values in (("asset_id", ids), ("caption_text", [f"a cat and {i} dogs" for i in range(count)])):
        table = table.set_column(
            CAPTIONS.get_field_index(name), CAPTIONS.field(name), pa.array(values, pa.string())
        )
    return table
