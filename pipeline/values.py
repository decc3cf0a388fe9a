"""Sections and keys of the job file: defaults, what a value may be, and the words for one that it may not be."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields
from typing import Any, get_type_hints

INT64 = 1 << 63  # TOML promises whole numbers of 64 bits, Python's parser takes any
STRINGS = tuple[str, ...]
KINDS = {str: "a string", int: "a whole number", float: "a number", STRINGS: "a list of non-empty strings"}


def key(
    default: Any = MISSING,
    *,
    choices: Sequence[Any] = (),
    low: float = -math.inf,
    high: float = math.inf,
    help: str,
) -> Any:
    """A field of a section: its default, what it may be, and one line for the README."""
    rule = {"choices": tuple(choices), "low": low, "high": high, "help": help, "needed": default is MISSING}
    return field(metadata=rule) if default is MISSING else field(default=default, metadata=rule)


def checked(where: str, value: Any, kind: Any, rule: Mapping[str, Any], problems: list[str]) -> Any | None:
    """The value as its section holds it; None, with a problem more, where it is not what the key may be."""
    if kind is float and type(value) is int and abs(value) < INT64:
        value = float(value)
    wanted = _outside(value, rule) if _is(kind, value) else KINDS[kind]
    if wanted:
        problems.append(f"{where} must be {wanted}, not {shown(value)}")
        return None
    return tuple(value) if kind == STRINGS else value


def _is(kind: Any, value: Any) -> bool:
    if kind == STRINGS:
        return isinstance(value, list) and all(isinstance(v, str) and v for v in value)
    if type(value) is not kind:
        return False
    return kind is str or abs(value) < INT64  # so that nan and inf are no numbers


def _outside(value: Any, rule: Mapping[str, Any]) -> str | None:
    """What a value of the right type should be, or None where it is."""
    if isinstance(value, str) and rule["needed"] and not value.strip():
        return "a string that says something"
    if isinstance(value, list) and rule["needed"] and not (value and all(v.strip() for v in value)):
        return "a list of one or more strings that say something"
    if rule["choices"] and not set(value if isinstance(value, list) else [value]) <= set(rule["choices"]):
        return ("a list of " if isinstance(value, list) else "") + " or ".join(map(shown, rule["choices"]))
    if isinstance(value, int | float):
        if value < rule["low"]:
            return f"at least {rule['low']:g}"
        if value > rule["high"]:
            return f"at most {rule['high']:g}"
    return None


def shown(value: Any) -> str:
    """A value much as the job file writes it, at most 80 characters of it."""
    if isinstance(value, int) and abs(value) >= INT64:
        return "a number beyond 64 bits"
    written = isinstance(value, str | bool | list | dict)
    text = json.dumps(value, ensure_ascii=False, default=str) if written else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def unknown(name: str, known: Sequence[str], where: str) -> str:
    """The problem of a name that is not among `known`, with the nearest that is; `where` has a %s for names."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"unknown {where % name}; did you mean {near}?"


def section(name: str, cls: type, table: Any, problems: list[str]) -> Any | None:
    """The dataclass `cls` made from its TOML table (None: not in the file); None where required keys are not right."""
    known = {f.name: f for f in fields(cls)}
    required = [n for n, f in known.items() if f.default is MISSING]
    if table is None and required:
        problems.append(f"section [{name}] is missing; it needs {', '.join(required)}")
        return None
    if table is not None and not isinstance(table, Mapping):
        problems.append(f"[{name}] must be a table")
        return None
    given = table or {}
    problems += [unknown(k, tuple(known), f"key [{name}] %s") for k in given if k not in known]
    problems += [f"[{name}] {n} is missing: {known[n].metadata['help']}" for n in required if n not in given]
    hints = get_type_hints(cls)
    parsed = {
        k: checked(f"[{name}] {k}", value, hints[k], known[k].metadata, problems)
        for k, value in given.items()
        if k in known
    }
    values = {k: value for k, value in parsed.items() if value is not None}
    return None if any(n not in values for n in required) else cls(**values)


def override(raw: dict[str, Any], item: str, sections: Mapping[str, type]) -> str | None:
    """Put a `section.key=value` into the parsed job file `raw`. Returns a problem, or None."""
    name, equals, value = item.partition("=")
    section, dot, name = name.strip().partition(".")
    if not (equals and dot and section and name):
        return f"--set {item!r} must be section.key=value"
    table = raw.setdefault(section, {})
    if not isinstance(table, dict):
        return f"--set {item!r}: [{section}] is not a table"
    takes = get_type_hints(sections[section]).get(name) if section in sections else None
    table[name] = _parsed(value, takes)
    return None


def _parsed(value: str, takes: Any) -> Any:
    """TOML notation, or as it stands: a bare word, or what only looks like a number where the key takes a string."""
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except ValueError:
        return value  # --set model.path=demo
    return value.strip() if takes is str and not isinstance(parsed, str) else parsed
