"""The gallery's cards: what is shown of one asset, in words that are safe to show anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobs.report.gather import Gathered, Row
from jobs.report.pictures import Shown, data_uri
from pipeline.quality import caption_text

LONGEST = 1_500  # characters of a caption on a card; the whole is in the table
STRIP = 12  # frames of a clip
LEFT_OUT = ("asset_uuid", "caption", "caption_text", "flags", "frame_pts_s")  # of the provenance


@dataclass(frozen=True, slots=True)
class Picture:
    """An address that needs no network, a size in pixels, and a frame's time in words."""

    src: str
    width: int
    height: int
    at: str


@dataclass(frozen=True, slots=True)
class Said:
    """One row of the asset: a caption, or a failure with its code."""

    prompt: str
    text: str
    cut: int
    flags: tuple[str, ...]
    code: str


@dataclass(frozen=True, slots=True)
class Card:
    """An asset. `details` has name and value of all its rows share, and of each row."""

    asset_id: str
    key: str
    kind: str
    facts: str
    pictures: tuple[Picture, ...]
    missing: str
    said: tuple[Said, ...]
    details: tuple[tuple[str, str], ...]
    copy_of: str

    @property
    def tags(self) -> str:
        """What the page filters by, one word each."""
        words = {f"media:{self.kind}", *(f"prompt:{said.prompt}" for said in self.said)}
        words |= {f"flag:{flag}" for said in self.said for flag in said.flags}
        words |= {f"code:{said.code}" for said in self.said if said.code}
        words |= {"flag:any"} if any(said.flags for said in self.said) else set()
        words |= {"copy"} if self.copy_of else set()
        return "\n".join(sorted(words))


def cards(gathered: Gathered, shown: Mapping[str, Shown], missing: str) -> list[Card]:
    """A card for each chosen asset; `missing` says why there are no pictures at all."""
    return [
        _card(asset_id, gathered.rows[asset_id], shown.get(asset_id, missing))
        for asset_id in gathered.chosen
        if gathered.rows[asset_id]
    ]


def _card(asset_id: str, rows: Sequence[Row], pictures: Shown) -> Card:
    first = rows[0]
    return Card(
        asset_id,
        words(first["key"]) or "(whole shard)",
        str(first["media"] or "shard"),
        facts(first),
        _pictures(pictures),
        words(pictures) if isinstance(pictures, str) else "",
        tuple(said(row) for row in rows),
        tuple(details(rows)),
        words(first.get("duplicate_of") or ""),
    )


def said(row: Row, longest: int = LONGEST) -> Said:
    """What a row says; of a long caption the beginning, and how long it is."""
    prompt = words(row["prompt_id"] or "every prompt")
    if "error_code" in row:
        return Said(prompt, words(row["error_message"]), 0, (), words(row["error_code"]))
    text = words(row["caption_text"])
    cut = len(text) if len(text) > longest else 0
    return Said(prompt, text[:longest], cut, tuple(words(flag) for flag in row["flags"]), "")


def facts(row: Row) -> str:
    """Size, crops and duration in a few words; "" for a failure."""
    if "error_code" in row:
        return ""
    parts = [f"{row['width']} × {row['height']}"]
    if row["grid_rows"]:
        parts.append(f"{row['n_crops']} crops, {row['grid_rows']} × {row['grid_cols']} tiles")
    elif row["media"] == "video":
        parts.append(
            f"{row['n_crops']} frames" + (f" of {row['duration_s']:.1f} s" if row["duration_s"] else "")
        )
    else:
        parts.append(f"{row['n_crops']} crops")
    return " · ".join(parts)


def _pictures(shown: Shown) -> tuple[Picture, ...]:
    if isinstance(shown, str):
        return ()
    several = max(1, -(-len(shown) // STRIP))
    return tuple(
        Picture(data_uri(t), t.size.width, t.size.height, "" if t.at_s is None else f"{t.at_s:.1f} s")
        for t in shown[::several]
    )


def details(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Name and value of every column; where the rows differ, of each row under its prompt."""
    names = dict.fromkeys(name for row in rows for name in row if name not in LEFT_OUT)
    for name in names:
        values = {
            words(row["prompt_id"] or ""): value(row[name]) for row in rows if row.get(name) is not None
        }
        if len(set(values.values())) == 1:
            yield name, next(iter(values.values()))
        elif values and name != "prompt_id":
            yield name, "; ".join(f"{prompt}: {v}" if prompt else v for prompt, v in values.items())


def value(told: Any) -> str:
    """A cell in words."""
    match told:
        case datetime():
            return f"{told:%Y-%m-%d %H:%M:%S} UTC"
        case float():
            return f"{told:.4g}"
        case list():
            return ", ".join(value(item) for item in told)
    return words(str(told))


def words(text: str) -> str:
    """Text that strangers chose, without what is invisible or turns the line around."""
    return caption_text(text)
