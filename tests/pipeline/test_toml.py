"""Job files that are written are read back as they were."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from pipeline.toml import dumps

TURNS = [{"system": 'Say "it"\nin five words: \\d\x7f\tü'}, {"user": "What?", "images": 1}]
TABLES: list[dict[str, Any]] = [
    {"input": {"dataset": "a", "uris": ["s3://b/{0..9}.tar", "x"]}, "output": {"uri": "s3://c"}},
    {"prompt": [{"id": "a", "turns": TURNS}, {"id": "b", "image": {"text": ""}, "video": {}}]},
    {"generation": {"temperature": 0.5, "top_p": 1e-05, "max_new_tokens": 9, "stop": []}, "cluster": {}},
    {"loose": True, "odd key": {"é.x": False}, "empty": [], "mixed": [1, {"a": 2}]},
]


@pytest.mark.parametrize("tables", TABLES)
def test_tables_survive_being_written(tables: dict[str, Any]) -> None:
    assert tomllib.loads(dumps(tables)) == tables
