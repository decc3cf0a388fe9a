"""The nouns. Every phase has its own frozen type; nothing here imports anything of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


class Media(StrEnum):
    """What an asset is made of."""

    IMAGE = "image"
    IMAGES = "images"  # several images under one key, in member order
    VIDEO = "video"


class Stage(StrEnum):
    """Where a failure row comes from."""

    INDEX = "index"
    READ = "read"
    DECODE = "decode"
    PROMPT = "prompt"
    GENERATE = "generate"


class Code(StrEnum):
    """What failed; the vocabulary of the `error_code` column. `README.md` explains each."""

    EMPTY = "empty_input"  # zero bytes, or a null cell
    UNIDENTIFIED = "unidentified"  # bytes that no allowed decoder recognises
    UNSUPPORTED = "unsupported_format"  # recognised, and not on the allowlist (SVG, HEIC, EPS, …)
    TRUNCATED = "truncated"  # the file ends before its pixels do
    CORRUPT = "corrupt"  # the decoder gave up inside the file
    TOO_LARGE = "too_large"  # more pixels or bytes than the job allows
    NO_VIDEO_STREAM = "no_video_stream"
    NO_FRAMES = "no_frames"
    NO_MEDIA = "no_media"  # a key with sidecars only
    MIXED_MEDIA = "mixed_media"  # images and videos, or several videos, under one key
    DUPLICATE_MEMBER = "duplicate_member"
    DUPLICATE_KEY = "duplicate_key"  # two Parquet rows or files with one key
    BAD_KEY = "bad_key"  # a null key, or a member name without one
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMEOUT = "decoder_timeout"
    CONTENT_CHANGED = "content_changed"  # the bytes are not those that were indexed
    SHARD_UNREADABLE = "shard_unreadable"
    SHARD_TRUNCATED = "shard_truncated"
    SHARD_EMPTY = "shard_empty"
    MISSING_COLUMN = "missing_column"
    MISSING_FIELD = "missing_field"  # the prompt names a {field} that the asset does not have
    NO_PROMPT = "no_prompt"  # no prompt of the job asks about this kind of asset
    IMAGE_COUNT = "image_count"  # the prompt's turns show another number of images than the asset has
    UNSUPPORTED_MEDIA = "unsupported_media"  # a video, and the checkpoint takes images only
    PROMPT_TOO_LONG = "prompt_too_long"
    OUT_OF_MEMORY = "out_of_memory"
    REPLICA_DIED = "replica_died"  # the process that holds the model, twice with this asset alone


class Finish(StrEnum):
    """Why generation stopped."""

    STOP = "stop"
    LENGTH = "length"


class ShardFormat(StrEnum):
    """How a shard holds its assets."""

    TAR = "tar"
    PARQUET = "parquet"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Shard:
    """One input object (or one folder), as it was listed.

    `path` is relative to the input root and names the shard in identities and rows; `uri` is where to read it.
    `etag` is the store's, or size and modification time in nanoseconds where there is none, or a digest of the
    listing for a folder.
    """

    uri: str
    path: str
    etag: str
    bytes: int
    format: ShardFormat


@dataclass(frozen=True, slots=True)
class Member:
    """A run of bytes in a shard.

    Tar: `name` is the member's path, `offset` and `size` delimit its data in the shard. Parquet: `offset` is the
    row number in the shard. Folder: `name` is the file's path below the folder, `offset` is 0.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels of an upright picture (EXIF orientation or rotation applied)."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Clip:
    """What a video's container says: upright size, seconds, and the number of video packets (one per frame)."""

    size: Size
    duration_s: float
    n_frames: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an asset or a prompt has no caption."""

    stage: Stage
    code: Code
    message: str


Facts = tuple[Size, ...] | Clip | Problem
"""What the index knows of an asset's media: a size per image, a clip, or why it is unreadable."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One row of the index.

    `media` is None for the row that reports a whole shard (its key is ""). `sha256` is the hex digest of the
    media bytes: of the one member's bytes, or, for several members, of their concatenated binary sha256 digests.
    It is "" where the bytes could not be read. `text` holds scalar fields of sidecars or further columns.
    """

    asset_id: str
    key: str
    media: Media | None
    members: tuple[Member, ...]
    sha256: str
    bytes: int
    text: Mapping[str, str]
    facts: Facts


@dataclass(frozen=True, slots=True)
class Cost:
    """What a unit asks of a replica and of memory: language-model visual tokens, crops, uint8 pixel bytes."""

    visual_tokens: int
    crops: int
    pixel_bytes: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A contiguous range of index rows of one shard: the grain of work, retry and commit.

    `prompts` are the ids under which its assets are asked, empty for all of the job's.
    """

    unit_id: str
    shard: Shard
    first: int
    count: int
    cost: Cost
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """How an asset was looked at: what its row says of its pixels.

    `position` is the asset's place in its unit, `sha256` the digest (as in `Asset`) of the bytes that were decoded.
    `sizes` are upright sizes of the pictures in order (one for a video). `grid` is (rows, columns) of tiles of a
    single image, else (0, 0). `frame_pts_s` are seconds from the clip's start, empty for images.
    """

    position: int
    media: Media
    sha256: str
    sizes: tuple[Size, ...]
    grid: tuple[int, int]
    n_crops: int
    frame_pts_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """An asset's pixels, ready for a vision tower.

    `crops` has shape (view.n_crops, tile, tile, 3), uint8 RGB, not normalised: for one image the base crop, then
    tiles row by row; for several images one crop each (OneVision), or each one's base and tiles in turn (NeXT:
    `Geometry.n_crops` says how many); for a video one frame each.
    """

    view: View
    crops: Pixels


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; `role` is system, user or assistant.

    `images` is how many of the asset's images, in order, a user turn shows. Where no turn of a conversation says
    it (0 in all of them), the first user turn shows them all.
    """

    role: str
    text: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One sample under one prompt, in token ids, with one id per visual token where the picture stands."""

    sample: Sample
    prompt_id: str
    input_ids: tuple[int, ...]
    n_visual_tokens: int


@dataclass(frozen=True, slots=True)
class Caption:
    """What the model said. `text` excludes special tokens; `n_output_tokens` counts the end-of-sequence token.

    `mean_logprob` is the mean natural-log probability of the output tokens under the model's own distribution.
    `attempt` counts the captions that were flagged and given up for this one.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    mean_logprob: float
    n_prompt_tokens: int
    n_visual_tokens: int
    attempt: int = 0

    @property
    def n_output_tokens(self) -> int:
        """Output tokens, the end-of-sequence token included."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one asset under one prompt (None: under all of them), still tied to the bytes it came from."""

    position: int
    sha256: str
    prompt_id: str | None
    outcome: Caption | Problem


@dataclass(frozen=True, slots=True)
class Preparation:
    """When preparing a unit began, UTC microseconds, and the seconds that it took."""

    begun_at: int
    prepare_s: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A unit between preprocessor and captioner: its assets, the samples that decoded, the problems that did not."""

    unit: Unit
    assets: tuple[Asset, ...]
    samples: tuple[Sample, ...]
    problems: tuple[Answer, ...]
    preparation: Preparation


@dataclass(frozen=True, slots=True)
class Effort:
    """What a unit took where it was worked on; nothing depends on it.

    `begun_at` is when preparing began, `ended_at` when captioning ended: UTC microseconds, by each machine's own clock.
    `prepare_s` and `caption_s` are seconds in preprocessor and captioner, there perhaps beside another unit; `busy_s`
    is the unit's share of the seconds in which the model computed. `prefill_tokens` are those of prompts that it read,
    what prompts of a sample share counted once. A step of decoding offers `generation.batch_size` slots: `slot_steps`
    is the unit's share of them over all steps, `slots_idle` its share of those in which nothing was generated.
    """

    begun_at: int
    ended_at: int
    prepare_s: float
    caption_s: float
    busy_s: float
    prefill_tokens: int
    slot_steps: float
    slots_idle: float


@dataclass(frozen=True, slots=True)
class Captioned:
    """A unit between captioner and sink: the same without pixels, with an answer per sample and prompt."""

    unit: Unit
    assets: tuple[Asset, ...]
    views: tuple[View, ...]
    answers: tuple[Answer, ...]
    effort: Effort
