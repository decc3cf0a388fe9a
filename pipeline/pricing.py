"""What index rows cost under a checkpoint, and what else planning wants to know of them, read in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import parquet, storage
from pipeline.anyres import Geometry
from pipeline.config import VideoConfig
from pipeline.copies import Digests, leading
from pipeline.standing import KINDS, NO_MEDIA
from pipeline.todo import Indexed
from pipeline.types import Clip, Media, Shard, Size
from pipeline.video import n_samples

READERS = 16  # index files read at once: they are small, and a store answers in tens of milliseconds
COLUMNS = ("media", "widths", "heights", "duration_s", "n_frames", "problem_code")
AT_ONCE = 4096  # sizes that are priced together


@dataclass(frozen=True, slots=True)
class Priced:
    """A shard's index rows: `costs` is int64 (rows, 3) of tokens, crops and pixel bytes; `digests` as `leading`.

    `codes` counts those that the index knows to be bad by error code.
    """

    indexed: Indexed
    costs: npt.NDArray[np.int64]
    digests: Digests
    codes: Mapping[str, int]


def priced(
    shards: Sequence[Shard], indexes: Sequence[str], price: Callable[[pa.Table], npt.NDArray[np.int64]]
) -> list[Priced]:
    """All shards, in input order; 34 bytes an asset."""

    def read(shard: Shard, uri: str) -> Priced:
        table = parquet.read(storage.read(uri), [*COLUMNS, "sha256"])
        kinds = pc.index_in(pc.fill_null(table["media"], NO_MEDIA), pa.array(KINDS)).to_numpy()
        problem = pc.is_valid(table["problem_code"]).to_numpy()
        indexed = Indexed(shard, uri, kinds.astype(np.int8), problem)
        codes = {
            row["values"]: row["counts"]
            for row in table["problem_code"].drop_null().value_counts().to_pylist()
        }
        return Priced(indexed, price(table), leading(table["sha256"]), codes)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, shards, indexes))


class Pricer:
    """Costs of index rows under one checkpoint's geometry and one way of sampling clips."""

    def __init__(self, geometry: Geometry, video: VideoConfig) -> None:
        self._geometry, self._video = geometry, video

    def __call__(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """Table with `COLUMNS` → int64 array (rows, 3) of tokens, crops and pixel bytes; rows with a problem cost 0.

        Single images, which come by the million, are computed together; all else, one by one, is 20 times slower.
        """
        good = pc.is_null(table["problem_code"])
        single = pc.fill_null(pc.and_(good, pc.equal(table["media"], Media.IMAGE.value)), False).to_numpy()
        costs = np.zeros((len(table), 3), np.int64)
        images = table.filter(single)
        sizes = np.stack(
            [pc.list_element(images[name], 0).to_numpy() for name in ("widths", "heights")], axis=1
        )
        priced = [self._geometry.image_costs(sizes[i : i + AT_ONCE]) for i in range(0, len(sizes), AT_ONCE)]
        costs[single] = np.concatenate([np.zeros((0, 3), np.int64), *priced])
        others = np.flatnonzero(good.to_numpy() & ~single)
        for i, row in zip(others, table.take(others).select(COLUMNS[:-1]).to_pylist(), strict=True):
            costs[i] = self._price_of(**row)
        return costs

    def _price_of(
        self, media: str, widths: list[int], heights: list[int], duration_s: float, n_frames: int
    ) -> tuple[int, int, int]:
        sizes = tuple(Size(w, h) for w, h in zip(widths, heights, strict=True))
        n = n_samples(Clip(sizes[0], duration_s, n_frames), self._video) if media == Media.VIDEO else 0
        cost = self._geometry.cost(Media(media), sizes, n)
        return cost.visual_tokens, cost.crops, cost.pixel_bytes
