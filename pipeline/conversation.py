"""The conversations of a [[prompt]] in the job file: one for every kind of asset, or one for each, or both.

A conversation is `text`, which stands for one user turn, or `turns`: at most one system turn at the beginning, then
user and assistant by turns, as chat templates demand (Mistral's raises otherwise), and a user turn at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from pipeline.types import Media, Turn
from pipeline.values import checked, key, shown, unknown

FORMS = ("text", "turns")
ROLES = ("system", "user", "assistant")
IMAGES = key(0, low=1, help="how many of the asset's images, in order, a user turn shows").metadata


def conversations(where: str, table: Mapping[str, Any], problems: list[str]) -> dict[str, tuple[Turn, ...]]:
    """What the table `where` has of `turns`, `image`, `images` and `video`, by these names; wrong ones are empty."""
    found = {}
    if any(form in table for form in FORMS):
        found["turns"] = _conversation(where, table, problems)
    for media in Media:
        if media in table:
            found[media.value] = _own(f"{where} {media}", media, table[media], problems)
    if not found:
        problems.append(f"{where} needs text or turns, or image, images or video with text or turns")
    return found


def _own(where: str, media: Media, table: Any, problems: list[str]) -> tuple[Turn, ...]:
    """The conversation about one kind of asset."""
    if not isinstance(table, Mapping):
        problems.append(f"{where} must be a table with text or turns, not {shown(table)}")
        return ()
    problems += [unknown(k, FORMS, f"key {where} %s") for k in table if k not in FORMS]
    turns = _conversation(where, table, problems)
    n = sum(turn.images for turn in turns)
    if media is Media.IMAGES and n == 1:
        problems.append(f"{where} turns: their images must be at least 2 together, not 1")
    if media is not Media.IMAGES and n > 1:
        problems.append(f"{where} turns: their images must be 1 together, not {n}")
    return turns


def _conversation(where: str, table: Mapping[str, Any], problems: list[str]) -> tuple[Turn, ...]:
    if ("text" in table) == ("turns" in table):
        problems.append(f"{where} needs either text or turns")
        return ()
    if "turns" in table:
        return _turns(where, table["turns"], problems)
    if isinstance(table["text"], str) and table["text"].strip():
        return (Turn("user", table["text"]),)
    problems.append(f"{where} text must be a string that says something, not {shown(table['text'])}")
    return ()


def _turns(where: str, items: Any, problems: list[str]) -> tuple[Turn, ...]:
    if not isinstance(items, list):
        problems.append(f"{where} turns must be a list, not {shown(items)}")
        return ()
    turns = [turn for n, item in enumerate(items, 1) if (turn := _turn(f"{where} turn {n}", item, problems))]
    if len(turns) == len(items):
        problems += _out_of_order(where, [turn.role for turn in turns])
    return tuple(turns)


def _turn(where: str, item: Any, problems: list[str]) -> Turn | None:
    roles = [role for role in ROLES if isinstance(item, Mapping) and role in item]
    if len(roles) != 1 or not isinstance(item[roles[0]], str) or not item[roles[0]].strip():
        each = " or ".join(f'{{{role} = "…"}}' for role in ROLES)
        problems.append(f"{where} must be {each}, not {shown(item)}")
        return None
    (role,) = roles
    known = (role, "images") if role == "user" else (role,)
    problems += [unknown(k, known, f"key {where} %s") for k in item if k not in (role, "images")]
    if "images" not in item:
        return Turn(role, item[role])
    if role != "user":
        problems.append(f"{where}: only user turns show images, and this is {shown(item)}")
        return None
    images = checked(f"{where} images", item["images"], int, IMAGES, problems)
    return None if images is None else Turn(role, item[role], images)


def _out_of_order(where: str, roles: Sequence[str]) -> Iterator[str]:
    if "system" in roles[1:]:
        yield f"{where} turns: only the first may be a system turn"
    said = [(n, role) for n, role in enumerate(roles, 1) if role != "system"]
    for (n, role), due in zip(said, cycle(("user", "assistant")), strict=False):
        if role != due:
            yield f"{where} turn {n} must be {due}, not {role}: they alternate, and user begins"
            break
    if not said or said[-1][1] != "user":
        yield f"{where} turns must end with a user turn"
