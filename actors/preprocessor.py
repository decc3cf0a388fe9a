"""From a unit's bytes to samples: the one place where a media error becomes a failure row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

import pyarrow as pa

from actors.sandbox import Sandbox, Seen
from pipeline import messages
from pipeline.anyres import Geometry
from pipeline.commit import Parts
from pipeline.config import ImageConfig, VideoConfig
from pipeline.errors import MediaError
from pipeline.index import read_index
from pipeline.read import read_assets
from pipeline.types import Answer, Asset, Clip, Code, Media, Prepared, Problem, Sample, Stage, Unit, View

IMAGES_ONLY = Problem(
    Stage.PROMPT,
    Code.UNSUPPORTED_MEDIA,
    "this checkpoint takes images only; LLaVA-OneVision checkpoints (model_type llava_onevision) take videos",
)


class Preprocessor:
    """Reads, decodes and cuts units, one after the other. Holds a decoder process: close it, or use `with`.

    A unit that `parts` has by now is passed on as done, before a byte of its shard is read.
    """

    def __init__(
        self, image: ImageConfig, video: VideoConfig, geometry: Geometry, parts: Parts | None = None
    ) -> None:
        self._parts = parts
        self._sandbox = Sandbox(image, video, geometry)
        self._videos = geometry.videos

    def __enter__(self) -> Preprocessor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder process."""
        self._sandbox.close()

    def __call__(self, table: pa.Table) -> pa.Table:
        """`prepare` for one-row tables (`pipeline.schema`); the assets come from the unit's index."""
        unit, index_uri = messages.table_to_unit(table)
        if self._parts and self._parts.done(unit.unit_id):
            return messages.done_to_table(unit)
        return messages.prepared_to_table(self.prepare(unit, read_index(index_uri, unit.first, unit.count)))

    def prepare(self, unit: Unit, assets: Sequence[Asset]) -> Prepared:
        """Every asset of the unit (in the unit's order), once: as a sample, or as a problem under all prompts.

        Raises StorageError where the store does not answer; everything that is wrong with one asset is a problem.
        """
        samples, problems = [], []
        asked = [self._allowed(asset) for asset in assets]
        members = read_assets(unit.shard, asked)
        for position, (asset, found) in enumerate(zip(asked, members, strict=True)):
            outcome = found if isinstance(found, Problem) else self._sample(position, asset, found)
            if isinstance(outcome, Problem):
                problems.append(Answer(position, asset.sha256, None, outcome))
            else:
                samples.append(outcome)
        return Prepared(unit, tuple(assets), tuple(samples), tuple(problems))

    def _allowed(self, asset: Asset) -> Asset:
        """The asset, with a problem if it is a video that the checkpoint does not take: it is then not even read."""
        refused = asset.media is Media.VIDEO and not self._videos and not isinstance(asset.facts, Problem)
        return replace(asset, facts=IMAGES_ONLY) if refused else asset

    def _sample(self, position: int, asset: Asset, members: tuple[bytes, ...]) -> Sample | Problem:
        if asset.media is None:
            return Problem(Stage.READ, Code.NO_MEDIA, "the index names no media for this key")
        try:
            seen = self._sandbox.view(asset.media, members)
        except MediaError as error:
            return Problem(Stage.DECODE, error.code, error.message)
        if (changed := _difference(asset, seen)) is not None:
            return Problem(Stage.READ, Code.CONTENT_CHANGED, changed)
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
