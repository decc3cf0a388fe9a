"""What of a published table stands when a job is run again: which rows of an unchanged asset stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import PromptConfig
from pipeline.recipe import prompts_of
from pipeline.types import Media

NO_MEDIA = ""  # the kind of a row that reports a whole shard, or a key without media
KINDS = (*(str(media) for media in Media), NO_MEDIA)
# Versions of packages are noted in every row's recipe, and do not by themselves make a million captions again. Limits
# of size decide which assets fail, which the index tells one by one.
NOT_COMPARED = {"image": ("max_pixels",), "video": ("max_pixels",)}


@dataclass(frozen=True, slots=True)
class Standing:
    """Of unchanged assets of each kind, by id: prompts whose rows stay, that are asked anew, and that no longer are.

    `failures` says whether a failure of the whole asset stays, for all prompts.
    """

    stays: Mapping[str, tuple[str, ...]]
    asked: Mapping[str, tuple[str, ...]]
    ended: Mapping[str, tuple[str, ...]]
    failures: Mapping[str, bool]

    @classmethod
    def from_json(cls, told: Mapping[str, Mapping[str, Any]]) -> Standing:
        """Inverse of `dataclasses.asdict` after a way through JSON."""
        stays, asked, ended = (
            {kind: tuple(ids) for kind, ids in told[name].items()} for name in ("stays", "asked", "ended")
        )
        return cls(stays, asked, ended, {kind: bool(stay) for kind, stay in told["failures"].items()})


def standing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Standing:
    """Compare two recipes as they are written down (`Recipe.to_json`)."""
    same = _deciding(before) == _deciding(now)
    old, new = prompts_of(before), prompts_of(now)
    nothing: tuple[str, ...] = ()
    stays, asked, ended = {NO_MEDIA: nothing}, {NO_MEDIA: nothing}, {NO_MEDIA: nothing}
    failures = {NO_MEDIA: same}
    for media in Media:
        due = {p.id: _words(p, media) for p in new if p.asked(media)}
        had = {p.id: _words(p, media) for p in old if p.asked(media)}
        kept = tuple(name for name in due if same and had.get(name) == due[name])
        stays[media], asked[media] = kept, tuple(name for name in due if name not in kept)
        ended[media] = tuple(name for name in had if name not in due)
        failures[media] = same and (bool(kept) or not (due or had))
    return Standing(stays, asked, ended, failures)


def _deciding(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe decides every caption, whatever is asked."""
    sections = {name: value for name, value in recipe.items() if name not in ("prompts", "software")}
    for section, limits in NOT_COMPARED.items():
        sections[section] = {k: v for k, v in sections[section].items() if k not in limits}
    return sections


def _words(prompt: PromptConfig, media: Media) -> tuple[object, ...]:
    return prompt.asked(media), prompt.max_field_chars
