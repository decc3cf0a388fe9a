"""From a unit's bytes to samples: the one place where a media error becomes a failure row."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType

import numpy as np
import pyarrow as pa

from actors.metrics import metered
from actors.sandbox import Sandbox, Seen
from pipeline import messages, schema
from pipeline.anyres import Geometry
from pipeline.commit import Parts
from pipeline.config import ImageConfig, VideoConfig
from pipeline.errors import MediaError
from pipeline.index import read_rows
from pipeline.read import Bytes, read_assets
from pipeline.types import (
    Answer,
    Asset,
    Clip,
    Code,
    Media,
    Preparation,
    Prepared,
    Problem,
    Sample,
    Stage,
    Unit,
    View,
)

TOGETHER = 1 << 20  # bytes of small assets that go to the decoder and back as one message: 0.4 ms of CPU
Found = tuple[int, Asset, Bytes | Problem]  # position in the unit, index row, what was read

IMAGES_ONLY = Problem(
    Stage.PROMPT,
    Code.UNSUPPORTED_MEDIA,
    "this checkpoint takes images only; LLaVA-OneVision checkpoints (model_type llava_onevision) take videos",
)
NO_MEDIA = Problem(Stage.READ, Code.NO_MEDIA, "the index names no media for this key")


class Preprocessor:
    """Reads, decodes and cuts units, one after the other. Holds a decoder process: close it, or use `with`.

    A unit that `parts` has by now is passed on as done, before a byte of its shard is read.
    """

    def __init__(
        self, image: ImageConfig, video: VideoConfig, geometry: Geometry, parts: Parts | None = None
    ) -> None:
        self._parts = parts
        self._sandbox = Sandbox(image, video, geometry)
        self._geometry = geometry

    def __enter__(self) -> Preprocessor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder process."""
        self._sandbox.close()

    @metered("prepare")
    def __call__(self, table: pa.Table) -> pa.Table:
        """`prepare` for one-row tables (`pipeline.schema`); the assets come from the unit's index."""
        unit, index_uri = messages.table_to_unit(table)
        if self._parts and self._parts.done(unit.unit_id):
            return messages.done_to_table(unit)
        rows = read_rows(index_uri, unit.first, unit.count)
        return messages.prepared_to_table(self.prepare(unit, schema.table_to_assets(rows)), rows)

    def prepare(self, unit: Unit, assets: Sequence[Asset]) -> Prepared:
        """Every asset of the unit (in the unit's order), once: as a sample, or as a problem under all prompts.

        Raises StorageError where the store does not answer; everything that is wrong with one asset is a problem.
        """
        begun, begun_at = time.perf_counter(), time.time_ns() // 1000
        samples, problems = [], []
        asked = [self._allowed(asset) for asset in assets]
        for group in self._groups(asked, read_assets(unit.shard, asked)):
            for position, asset, outcome in self._outcomes(group):
                if isinstance(outcome, Problem):
                    problems.append(Answer(position, asset.sha256, None, outcome))
                else:
                    samples.append(outcome)
        preparation = Preparation(begun_at, time.perf_counter() - begun)
        return Prepared(unit, tuple(assets), tuple(samples), tuple(problems), preparation)

    def _groups(self, assets: Sequence[Asset], found: Iterable[Bytes | Problem]) -> Iterator[list[Found]]:
        """Consecutive assets, with their positions: those that are decoded together, which are small."""
        group: list[Found] = []
        held = 0
        weights = self._weights(assets)
        for position, (asset, weight, members) in enumerate(zip(assets, weights, found, strict=True)):
            if group and held + weight > TOGETHER:
                yield group
                group, held = [], 0
            group.append((position, asset, members))
            held += weight
        if group:
            yield group

    def _weights(self, assets: Sequence[Asset]) -> list[int]:
        """Bytes of each asset, its pixels and its crops, by the index; more than fit for all but single images."""
        sizes = {
            i: a.facts[0]
            for i, a in enumerate(assets)
            if a.media is Media.IMAGE and isinstance(a.facts, tuple)
        }
        sides = np.array([(size.width, size.height) for size in sizes.values()], np.int64).reshape(-1, 2)
        weights = np.array([0 if isinstance(a.facts, Problem) else TOGETHER for a in assets], np.int64)
        weights[[*sizes]] = [assets[i].bytes for i in sizes]
        weights[[*sizes]] += 3 * sides.prod(axis=1) + self._geometry.image_costs(sides)[:, 2]
        return list(map(int, weights))

    def _outcomes(self, group: Sequence[Found]) -> Iterator[tuple[int, Asset, Sample | Problem]]:
        """A sample or a problem of each asset of the group, in order."""
        asked = [(a.media, m) for _, a, m in group if a.media is not None and not isinstance(m, Problem)]
        seen = iter(self._sandbox.views(asked) if asked else ())
        for position, asset, members in group:
            if isinstance(members, Problem):
                yield position, asset, members
            else:
                yield position, asset, _sample(position, asset, next(seen))

    def _allowed(self, asset: Asset) -> Asset:
        """The asset, with a problem if it is a video that the checkpoint does not take: it is then not even read."""
        if isinstance(asset.facts, Problem):
            return asset
        if asset.media is None:
            return replace(asset, facts=NO_MEDIA)
        refused = asset.media is Media.VIDEO and not self._geometry.videos
        return replace(asset, facts=IMAGES_ONLY) if refused else asset


def _sample(position: int, asset: Asset, seen: Seen | MediaError) -> Sample | Problem:
    if isinstance(seen, MediaError):
        return Problem(Stage.DECODE, seen.code, seen.message)
    if (changed := _difference(asset, seen)) is not None:
        return Problem(Stage.READ, Code.CONTENT_CHANGED, changed)
    assert asset.media is not None  # or there would have been nothing to decode
    sizes = (seen.facts.size,) if isinstance(seen.facts, Clip) else seen.facts
    n, times = len(seen.crops), seen.frame_pts_s
    return Sample(View(position, asset.media, seen.sha256, sizes, seen.grid, n, times), seen.crops)


def _difference(asset: Asset, seen: Seen) -> str | None:
    """How the decoded bytes differ from the indexed ones."""
    if seen.sha256 != asset.sha256:
        return "the bytes are not those that were indexed; index the shard again"
    if seen.facts != asset.facts:
        return f"the index says {asset.facts}, decoding says {seen.facts}; the index is another version's"
    return None
