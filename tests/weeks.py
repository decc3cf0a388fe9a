"""Three weeks of a labelling team in small, and what their table must say after each, told without code of ours.

Week 1: three shards, among their assets an exact copy, one without a picture, one without the text it is asked with.
Week 2: a shard has left and one is new; in another an asset has other bytes, one has left, one is new and one says
something else in its sidecar. Week 3: one prompt is worded anew, one is new, and the original of copies has left.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests import made
from tests.double import said

JOB = """
[input]
dataset = "weeks"
uris = ["{folder}/in/*.tar"]
[model]
path = "{folder}/checkpoint"
{prompts}
[unit]
max_assets = 2
[output]
uri = "{output}"
[cluster]
gpus_per_replica = 0
"""
BROKEN = 0


@dataclass(frozen=True, slots=True)
class Asset:
    """A picture (a number of its own; `BROKEN` is none), its sidecar's text, and the key of the one it is a copy of."""

    picture: int
    text: str = ""
    copy_of: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Week:
    """Assets by shard and key, and prompts: words by id."""

    shards: Mapping[str, Mapping[str, Asset]]
    prompts: Mapping[str, str]


A = {f"{i}": Asset(10 + i, f"text {i}") for i in range(5)} | {"copy": Asset(11, "text 1", ("a.tar", "1"))}
B = {"same": Asset(20, "b"), "other": Asset(21, "b"), "leaves": Asset(22, "b"), "says": Asset(23, "b")}
B |= {"broken": Asset(BROKEN), "silent": Asset(24)}
C = {"0": Asset(30, "c"), "1": Asset(31, "c")}
B2 = {**B, "other": Asset(25, "b"), "says": Asset(23, "new words"), "new": Asset(26, "b")}
del B2["leaves"]
D = {
    "new": Asset(40, "d"),
    "copy": Asset(11, "text 1", ("a.tar", "1")),
    "was c": Asset(30, "c"),
    "twice": Asset(40, "d", ("d.tar", "new")),
}
A3 = {key: asset for key, asset in A.items() if key not in ("1", "4")} | {"copy": Asset(11, "text 1")}
D3 = {**D, "copy": Asset(11, "text 1", ("a.tar", "copy"))}
LAST = {"short": "What is it?", "text": "What of {txt}?", "long": "Describe.", "title": "A title"}
SHORT, LONG = "What is it?", "Describe the image in detail."
WEEKS = (
    Week({"a.tar": A, "b.tar": B, "c.tar": C}, {"short": SHORT, "text": "What of {txt}?", "long": LONG}),
    Week({"a.tar": A, "b.tar": B2, "d.tar": D}, {"short": SHORT, "text": "What of {txt}?", "long": LONG}),
    Week(
        {"a.tar": A3, "b.tar": B2, "d.tar": D3},
        {"short": SHORT, "text": "What of {txt}?", "long": "Describe.", "title": "A title"},
    ),
)
Key = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Row:
    """What a row says: the words or the error code, whose copy it is, and the week that made it so."""

    said: str
    copy_of: tuple[str, str] | None
    week: int


def write(folder: Path, number: int) -> None:
    """The input of a week, counted from 0, and the checkpoint."""
    (folder / "in").mkdir(exist_ok=True)
    if not (folder / "checkpoint").exists():
        made.checkpoint(folder / "checkpoint")
    for path in (folder / "in").glob("*.tar"):
        if path.name not in WEEKS[number].shards:
            path.unlink()
    for name, assets in WEEKS[number].shards.items():
        if number == 0 or WEEKS[number - 1].shards.get(name) != assets:
            write_tar(folder / "in" / name, assets)


def job(folder: Path, output: Path, number: int) -> str:
    """The job file of a week."""
    prompts = [
        f'[[prompt]]\nid = "{name}"\ntext = "{words}"\n' for name, words in WEEKS[number].prompts.items()
    ]
    return JOB.format(folder=folder, output=output, prompts="".join(prompts))


def expected(number: int) -> dict[Key, Row]:
    """The table after a week, by shard, key and prompt (None: a failure under all of them)."""
    rows: dict[Key, Row] = {}
    for week in range(number + 1):
        before, rows = rows, {}
        for key, words in _week(week).items():
            told, copy_of = words[0], words[1]
            old = before.get(key)
            same = week > 0 and _week(week - 1).get(key) == words
            rows[key] = Row(told, copy_of, old.week if same and old else week)
    return rows


def removed(number: int) -> set[tuple[Key, str]]:
    """What a week takes out of the table, and why."""
    if number == 0:
        return set()
    had, has = expected(number - 1), expected(number)
    assets = {key[:2] for key in has}
    gone = set()
    for key in had.keys() - has.keys():
        if key[:2] not in assets:
            gone.add((key, "left"))
        elif key[2] is not None and not had[key].said.startswith("!"):
            gone.add((key, "failed" if (*key[:2], None) in has else "prompt"))
    return gone


def _week(number: int) -> dict[Key, tuple[str, tuple[str, str] | None, str, int, str]]:
    """Of each row what decides it: what it says, whose copy it is, the prompt's words, the picture, the text used."""
    week = WEEKS[number]
    found: dict[Key, tuple[str, tuple[str, str] | None, str, int, str]] = {}
    for shard, assets in week.shards.items():
        for key, asset in assets.items():
            if asset.picture == BROKEN:
                found[shard, key, None] = ("!unidentified", None, "", BROKEN, "")
                continue
            for prompt, words in week.prompts.items():
                uses = "{txt}" in words
                answer = told(asset.picture, prompt) if asset.text or not uses else "!missing_field"
                copy_of = None if answer.startswith("!") else asset.copy_of
                found[shard, key, prompt] = (
                    answer,
                    copy_of,
                    words,
                    asset.picture,
                    asset.text if uses else "",
                )
    return found


def told(picture: int, prompt: str) -> str:
    """What the double says of a picture."""
    return said(hashlib.sha256(_encoded(picture)).hexdigest(), prompt, _colour(picture))


def _colour(picture: int) -> tuple[int, int, int]:
    return 5 * picture, 255 - picture, 77


def _encoded(picture: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40 + picture, 40), _colour(picture)).save(sink, "PNG")
    return sink.getvalue()


def write_tar(path: Path, assets: Mapping[str, Asset]) -> None:
    """A shard."""
    with tarfile.open(path, "w") as tar:
        for key, asset in assets.items():
            picture = b"<html>" if asset.picture == BROKEN else _encoded(asset.picture)
            sidecar = json.dumps({"txt": asset.text} if asset.text else {}).encode()
            for extension, data in (("png", picture), ("json", sidecar)):
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
