"""Pictures of published assets, read again from the input by range and shrunk in a child process."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from actors.thumbnails import SIDE, Thumbnail, Thumbnailer
from pipeline import shards
from pipeline.config import InputConfig, VideoConfig
from pipeline.errors import MediaError
from pipeline.lookup import Place
from pipeline.naming import digest
from pipeline.read import Bytes, read_assets
from pipeline.types import Asset, Media, Problem, Shard

Shown = Sequence[Thumbnail] | str  # pictures, or in words why there are none


@dataclass(frozen=True, slots=True)
class Source:
    """Where the input is now: shards by path."""

    shards: Mapping[str, Shard]

    @classmethod
    def of(cls, given: InputConfig) -> Source:
        """The shards that the section lists. Raises ConfigError as `shards.list_shards`."""
        return cls({shard.path: shard for shard in shards.list_shards(given.uris, given.root)})

    def now(self, place: Place) -> Shard | str:
        """The shard of an index row where it is now, or why it is not there."""
        shard = self.shards.get(place.shard.path)
        if shard is None:
            return "its shard is not in the input that was given"
        return shard if shard.etag == place.shard.etag else "its shard changed since it was captioned"


def pictures(
    places: Mapping[str, Place], source: Source, recipe: Mapping[str, Any], side: int = SIDE
) -> Iterator[tuple[str, Shown]]:
    """For each asset_id, shard by shard: its pictures, of which every byte is what was captioned, or why not."""
    in_order = sorted(places.values(), key=lambda p: (p.shard.path, p.shard.etag, _at(p)))
    with Thumbnailer(video_config(recipe), side) as thumbnailer:
        for _, some in groupby(in_order, key=lambda p: (p.shard.path, p.shard.etag)):
            together = list(some)
            shard = source.now(together[0])
            if isinstance(shard, str):
                yield from ((place.asset.asset_id, shard) for place in together)
                continue
            # what the index could not read is read all the same: perhaps there is something to see
            assets = [replace(p.asset, facts=()) for p in together if p.asset.members and p.asset.media]
            for asset, found in zip(assets, read_assets(shard, assets), strict=True):
                yield asset.asset_id, _shown(asset, found, thumbnailer)


def _at(place: Place) -> int:
    return place.asset.members[0].offset if place.asset.members else -1


def _shown(asset: Asset, found: Bytes | Problem, thumbnailer: Thumbnailer) -> Shown:
    if isinstance(found, Problem):
        return found.message
    if asset.sha256 and digest(found) != asset.sha256:
        return "its bytes changed since it was captioned"
    outcome = thumbnailer.thumbnails(Media(asset.media or Media.IMAGE), found)
    return outcome.message if isinstance(outcome, MediaError) else outcome


def video_config(recipe: Mapping[str, Any]) -> VideoConfig:
    """How a recipe samples frames; the defaults where it does not say."""
    told = recipe.get("video", {})
    known = {name: told[name] for name in ("frames", "fps", "max_frames", "max_pixels") if name in told}
    return VideoConfig(**known)


def data_uri(thumbnail: Thumbnail) -> str:
    """The picture as an address that needs no network."""
    return "data:image/webp;base64," + base64.b64encode(thumbnail.data).decode("ascii")
