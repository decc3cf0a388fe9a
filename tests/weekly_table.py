"""A table that is published week after week, as incremental runs publish it: kept rows, new rows, removed keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import naming, storage
from pipeline.columns import CAPTIONS, FAILURES, SCHEMA_VERSION
from pipeline.commit import manifest_uri
from pipeline.publish import File, parquet_bytes
from pipeline.quality import caption_text

Captions = Mapping[tuple[str, str], str]  # by key and prompt
REMOVED = pa.schema([(name, pa.string()) for name in ("asset_id", "prompt_id", "reason")])
BEGINNING = datetime(2026, 11, 2, 6, tzinfo=UTC)

WEEKS: tuple[Captions, ...] = (
    {
        ("beach/0001", "short"): "A dog runs.",
        ("beach/0001", "long"): "A dog runs along the beach.",
        ("beach/0002", "short"): "A red boat.",
        ("café", "short"): "Un café à Paris.",
    },
    {  # one key left, one caption changed, one failed, two are new
        ("beach/0001", "short"): "Two dogs run.",
        ("café", "short"): "Un café à Paris.",
        ("it's", "short"): "A 'quoted' \"caption\", with \\ and 100 %.",
        ("海", "short"): "两只狗在海滩上奔跑。",
    },
    {  # what left and what failed are back, and a prompt is no longer asked
        ("beach/0001", "long"): "Two dogs run along the beach.",
        ("beach/0002", "long"): "A red boat on a lake.",
        ("café", "long"): "Un café à Paris, avec une terrasse.",
        ("海", "long"): "两只狗在海滩上奔跑,天空很蓝。",
    },
    {("beach/0001", "long"): "Two dogs run along the beach.", ("new", "long"): "A kite."},
)


class Weeks:
    """Publishes below `output`, first at `begun`; `runs` are the run ids so far."""

    def __init__(self, output: str, files: int = 2, begun: datetime = BEGINNING) -> None:
        self.output, self._files, self._begun = output, files, begun
        self.runs: list[str] = []
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}

    def publish(self, captions: Captions) -> str:
        """The next run, which has these captions. Returns its id."""
        run, before = f"{len(self.runs) + 1:016x}", self._rows
        new = {pair: self._row(*pair, text, run) for pair, text in captions.items()}
        kept = {pair for pair in new if pair in before and before[pair]["caption"] == new[pair]["caption"]}
        self._rows = {pair: before[pair] if pair in kept else row for pair, row in new.items()}
        gone = [_removed(before[pair], captions) for pair in before if pair not in captions]
        self._swap(run, gone)
        self.runs.append(run)
        return run

    def rows(self) -> list[dict[str, Any]]:
        """The published captions, in order."""
        return sorted(self._rows.values(), key=_order)

    def _row(self, key: str, prompt: str, text: str, run: str) -> dict[str, Any]:
        shard = f"a/{len(key) % 2}.tar"
        return dict.fromkeys(CAPTIONS.names) | {
            "asset_id": naming.asset_id("weeks", shard, key),
            "dataset": "weeks",
            "shard": shard,
            "key": key,
            "media": "image",
            "content_sha256": hashlib.sha256(key.encode()).hexdigest(),
            "prompt_id": prompt,
            "caption": text,
            "caption_text": caption_text(text),
            "finish_reason": "stop",
            "flags": ["truncated"] if "boat" in text else [],
            "mean_logprob": float("nan") if "quoted" in text else -0.25,
            "n_output_tokens": len(text),
            "attempt": 0,
            "model": "demo",
            "recipe_id": "0" * 16,
            "run_id": run,
            "unit_id": "000000-00000000-00004",
            "created_at": self._begun + timedelta(weeks=len(self.runs), microseconds=7),
        }

    def _swap(self, run: str, gone: Iterable[dict[str, Any]]) -> None:
        rows = self.rows()
        cuts = [len(rows) * i // self._files for i in range(self._files + 1)]
        parts = [rows[a:b] for a, b in pairwise(cuts)]
        captions = [
            self.put(f"captions/{run}/part-{i:05d}.parquet", p, CAPTIONS) for i, p in enumerate(parts)
        ]
        failures = [self.put(f"failures/{run}/part-00000.parquet", [], FAILURES)]
        removed = self.put(f"removed/{run}.parquet", sorted(gone, key=_order), REMOVED)
        told = {
            "schema_version": SCHEMA_VERSION,
            "dataset": "weeks",
            "run_id": run,
            "previous_run_id": self.runs[-1] if self.runs else None,
            "recipe_ids": ["0" * 16],
            "published_at": (self._begun + timedelta(weeks=len(self.runs))).isoformat(),
            "assets": len({row["asset_id"] for row in rows}),
            "output_tokens": 0,
            "failures_by_code": {},
            "captions": {"rows": len(rows), "files": captions},
            "failures": {"rows": 0, "files": failures},
            "removed": removed,
        }
        storage.put(manifest_uri(self.output, run), json.dumps({"snapshot": told}).encode())
        storage.put(storage.join(self.output, "snapshot.json"), json.dumps(told).encode())

    def put(self, path: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> dict[str, Any]:
        """Write a published file. Returns what the snapshot says of it."""
        data = parquet_bytes(pa.Table.from_pylist(list(rows), schema=schema), {})
        storage.put(storage.join(self.output, path), data)
        ids = [row["asset_id"] for row in rows] or [None]
        digest = hashlib.sha256(data).hexdigest()
        return asdict(File(path, len(rows), len(data), digest, ids[0], ids[-1]))


def _removed(row: Mapping[str, Any], captions: Captions) -> dict[str, str]:
    prompts = {prompt for _, prompt in captions}
    kind = "left" if row["key"] not in {key for key, _ in captions} else "failed"
    reason = "prompt" if row["prompt_id"] not in prompts else kind
    return {"asset_id": row["asset_id"], "prompt_id": row["prompt_id"], "reason": reason}


def _order(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["asset_id"], row["prompt_id"]


def published(output: str) -> Iterator[dict[str, Any]]:
    """The captions of the published table, read as anybody would."""
    told = json.loads(storage.read(storage.join(output, "snapshot.json")))
    for file in told["captions"]["files"]:
        yield from pq.read_table(
            pa.BufferReader(storage.read(storage.join(output, file["path"])))
        ).to_pylist()
