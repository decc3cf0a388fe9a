"""TOML as it is written: values, and a whole job file made of its tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml(value: Any) -> str:
    """A value in TOML notation; mappings are inline tables."""
    match value:
        case str():
            # As JSON, but TOML takes no bare DEL. JSON's escapes of surrogates, which TOML takes not, are not made.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case Mapping():
            return f"{{ {', '.join(_pairs(value))} }}" if value else "{}"
    return str(value)  # numbers, and the dates that no key takes


def dumps(tables: Mapping[str, Any]) -> str:
    """The text of a job file with these tables, as `tomllib` gives them: sections and lists of them."""
    return "\n".join("\n".join(lines) + "\n" for lines in _tables(tables))


def _tables(tables: Mapping[str, Any]) -> Iterator[list[str]]:
    plain = {name: value for name, value in tables.items() if not _is_tables(value)}
    if plain:
        yield [*_pairs(plain)]
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield [f"[{_key(name)}]", *_pairs(value)]
        elif _is_tables(value):
            yield from ([f"[[{_key(name)}]]", *_pairs(table)] for table in value)


def _is_tables(value: Any) -> bool:
    several = isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)
    return isinstance(value, Mapping) or several


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    return (f"{_key(name)} = {toml(value)}" for name, value in table.items())


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else toml(name)
