"""Brace patterns as shells have them: `{000000..000099}`, `{a,b}`, and products of both."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

MAX_NAMES = 1_000_000  # of one pattern; a million shards are more than an input, they are a typing error
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
MAGIC = re.compile(r"[*?\[{]")


def braces(pattern: str) -> Iterator[str]:
    """The names that `pattern` stands for, in the order it is written; braces that say nothing stay.

    A range is zero-padded if an end is. `ValueError` for more than a million names.
    """
    found = _first_group(pattern)
    if found is None:
        yield pattern
        return
    start, stop, choices = found
    names = (
        pattern[:start] + middle + tail
        for choice in choices
        for middle in braces(choice)
        for tail in braces(pattern[stop:])
    )
    for count, name in enumerate(names):
        if count == MAX_NAMES:
            raise ValueError(f"stands for more than {MAX_NAMES:,} names")
        yield name


def fixed_folder(pattern: str) -> str:
    """The folder that all names of the pattern are in: what comes before the first component with magic."""
    magic = MAGIC.search(pattern)
    return pattern[: magic.start() if magic else len(pattern)].rpartition("/")[0]


def is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")


def _first_group(pattern: str) -> tuple[int, int, Iterator[str]] | None:
    """Where the first brace group is and what it offers; None if there is none."""
    for opening in re.finditer(r"\{", pattern):
        closing = _closing(pattern, opening.end())
        if closing is None:
            continue
        inside = pattern[opening.end() : closing]
        if numbers := RANGE.fullmatch(inside):
            return opening.start(), closing + 1, _range(numbers[1], numbers[2])
        if len(parts := _parts(inside)) > 1:
            return opening.start(), closing + 1, iter(parts)
    return None


def _closing(pattern: str, start: int) -> int | None:
    depth = 1
    for at in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[at], 0)
        if depth == 0:
            return at
    return None


def _parts(inside: str) -> list[str]:
    """`inside`, cut at commas that are in no inner group."""
    depths = itertools.accumulate({"{": 1, "}": -1}.get(character, 0) for character in inside)
    cuts = [i for i, depth in enumerate(depths) if inside[i] == "," and depth == 0]
    edges = [-1, *cuts, len(inside)]
    return [inside[a + 1 : b] for a, b in itertools.pairwise(edges)]


def _range(first: str, last: str) -> Iterator[str]:
    a, b = int(first), int(last)
    padded = any(re.match(r"-?0\d", end) for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if a <= b else -1
    return (f"{number:0{width}d}" for number in range(a, b + step, step))
