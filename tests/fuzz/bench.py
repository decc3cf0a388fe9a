"""What is done with a mutated file, and what must hold whatever is in it."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from actors.indexer import Indexer
from actors.preprocessor import Preprocessor
from actors.sandbox import Sandbox, Seen
from pipeline import messages, naming, storage
from pipeline.anyres import Geometry
from pipeline.commit import Committer
from pipeline.config import ImageConfig, InputConfig, VideoConfig
from pipeline.errors import MediaError
from pipeline.index import read_index
from pipeline.types import (
    Answer,
    Asset,
    Captioned,
    Clip,
    Code,
    Cost,
    Media,
    Prepared,
    Problem,
    Shard,
    ShardFormat,
    Size,
    Unit,
)
from tests import made
from tests.fuzz import seeds

IMAGE = ImageConfig(max_pixels=20_000_000, timeout_s=10.0)
VIDEO = VideoConfig(frames=4, max_pixels=5_000_000, timeout_s=20.0)
TILE = {"image_size": 28, "patch_size": 14}  # small, because the decoders are what is looked at
GEOMETRY = Geometry.from_checkpoint(
    {"model_type": "llava_onevision", "image_grid_pinpoints": [[28, 28], [56, 56]], "vision_config": TILE},
    {"size": {"height": 28, "width": 28}, "image_grid_pinpoints": [[28, 28], [56, 56]]},
    None,
)
MEMORY_BYTES = 1 << 30  # of a child's address space; 0.3 GiB of it are libraries
GRACE_S = 10.0  # to end a child and start another, on a busy machine
LOST = (Code.DECODER_CRASHED, Code.DECODER_TIMEOUT)
OUTPUT = "memory://fuzz"

T = TypeVar("T")
Outcomes = Mapping[str, int]  # how often each code, or "pixels"


class Broken(Exception):
    """A promise that does not hold for a file."""


class Bench:
    """The real indexer, preprocessor and committer, and a sandbox of a narrow child. Use it with `with`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sandbox = Sandbox(IMAGE, VIDEO, GEOMETRY, memory_bytes=MEMORY_BYTES)
        self._preprocessor = Preprocessor(IMAGE, VIDEO, GEOMETRY)
        self._committer = Committer(OUTPUT, made.CONTEXT, {})

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.close()
        self._preprocessor.close()

    def image(self, data: bytes) -> Outcomes:
        """Probe and decode one image."""
        return self._media(Media.IMAGE, data, IMAGE.timeout_s)

    def clip(self, data: bytes) -> Outcomes:
        """Probe and sample one clip."""
        return self._media(Media.VIDEO, data, VIDEO.timeout_s)

    def tar(self, data: bytes) -> Outcomes:
        """Index, prepare and commit one tar shard."""
        return self._shard(data, ShardFormat.TAR)

    def table(self, data: bytes) -> Outcomes:
        """Index, prepare and commit one Parquet shard."""
        return self._shard(data, ShardFormat.PARQUET)

    def _media(self, media: Media, data: bytes, timeout_s: float) -> Outcomes:
        with within(timeout_s):
            facts = _outcome(lambda: self._sandbox.probe(media, data))
        with within(timeout_s):
            seen = _outcome(lambda: self._sandbox.view(media, [data]))
        if isinstance(seen, Seen):
            _check_seen(seen, facts, data)
            return {"pixels": 1}
        if seen.code in LOST:
            good = (seeds.clips() if media is Media.VIDEO else seeds.images())[0]
            self._sandbox.view(media, [good])  # MediaError unless the child was replaced
        return {seen.code: 1}

    def _shard(self, data: bytes, form: ShardFormat) -> Outcomes:
        path = self._folder / f"shard.{form}"
        path.write_bytes(data)
        entry = storage.info(str(path))
        shard = Shard(entry.uri, path.name, entry.etag, entry.size, form)
        key = "id" if form is ShardFormat.PARQUET else ""
        config = InputConfig("birds", ("unused",), key_column=key, max_member_bytes=1 << 20)
        with within(20 * IMAGE.timeout_s):
            index = Indexer(OUTPUT, config, lambda: self._sandbox.probes).index(shard)
            assets = read_index(index, 0, 1 << 30)
            _check_assets(assets, data, form)
            unit = Unit("unit", shard, 0, len(assets), Cost(0, 0, 0))
            prepared = self._preprocessor.prepare(unit, assets)
        _check_prepared(prepared)
        _check_received(prepared, messages.table_to_prepared(messages.prepared_to_table(prepared)))
        self._commit(prepared)
        storage.delete(index)
        path.unlink()
        return Counter(
            [a.outcome.code for a in prepared.problems if isinstance(a.outcome, Problem)]
        ) + Counter(["pixels"] * len(prepared.samples))

    def _commit(self, prepared: Prepared) -> None:
        """With captions for samples: raises IntegrityError where a row is lost, doubled, or cannot be written."""
        said = [
            Answer(s.view.position, s.view.sha256, p.id, made.caption(prepared.assets[s.view.position], p.id))
            for s in prepared.samples
            for p in made.PROMPTS
        ]
        views = tuple(s.view for s in prepared.samples)
        self._committer.commit(
            Captioned(prepared.unit, prepared.assets, views, (*prepared.problems, *said), made.EFFORT)
        )
        storage.delete(f"{OUTPUT}/runs/{made.CONTEXT.run_id}/units/unit.parquet")


@contextmanager
def within(timeout_s: float) -> Iterator[None]:
    """Broken where the block takes longer than a deadline, and once more for a fresh child."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    if took > 2 * timeout_s + GRACE_S:
        raise Broken(f"took {took:.1f} s; the deadline is {timeout_s:g} s")


def _outcome(action: Callable[[], T]) -> T | MediaError:
    try:
        return action()
    except MediaError as error:
        return error


def _check_seen(seen: Seen, facts: Size | Clip | MediaError, data: bytes) -> None:
    expected = (facts,) if isinstance(facts, Size) else facts
    if seen.facts != expected:
        raise Broken(f"the header says {expected}, the pixels say {seen.facts}")
    if seen.sha256 != hashlib.sha256(data).hexdigest():
        raise Broken("the digest is of other bytes")
    if not len(seen.crops):
        raise Broken("no crops")


def _check_assets(assets: list[Asset], data: bytes, form: ShardFormat) -> None:
    if not assets or len({a.asset_id for a in assets}) < len(assets):
        raise Broken(f"{len(assets)} rows with keys {[a.key for a in assets][:20]}")
    for asset in assets:
        parts = tuple(data[m.offset : m.offset + m.size] for m in asset.members)
        if form is ShardFormat.TAR and asset.sha256 and naming.digest(parts) != asset.sha256:
            raise Broken(f"the digest of {asset.key!r} is of other bytes")


def _check_prepared(prepared: Prepared) -> None:
    found = [s.view.position for s in prepared.samples] + [p.position for p in prepared.problems]
    if sorted(found) != list(range(len(prepared.assets))):
        raise Broken(f"outcomes for {found} of {len(prepared.assets)} assets")
    for answer in prepared.problems:
        if isinstance(answer.outcome, Problem) and answer.outcome.code is Code.CONTENT_CHANGED:
            raise Broken(f"nothing changed, but: {answer.outcome.message}")


def _check_received(sent: Prepared, received: Prepared) -> None:
    if (received.assets, received.problems) != (sent.assets, sent.problems):
        raise Broken("a unit arrives otherwise than it was sent")
    bare = [[replace(s.view) for s in unit.samples] for unit in (sent, received)]
    if bare[0] != bare[1]:
        raise Broken("views arrive otherwise than they were sent")
