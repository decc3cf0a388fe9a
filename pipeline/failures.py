"""What each failure code means and what to do about it, in words that people are shown."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.types import Code

_MEND = "mend or replace the file; it is captioned with the next run over the input"
_LEAVE = "nothing, where the file is no medium; else convert it to JPEG, PNG or MP4"
_LIMIT = "raise the limit in the job file if such assets are worth it"
_AGAIN = "run it again with --retry-failed: it may pass, on a machine with more to spare"

WORDS: Mapping[Code, tuple[str, str]] = {
    Code.EMPTY: ("zero bytes, or a null cell", _MEND),
    Code.UNIDENTIFIED: (
        "bytes that no allowed decoder recognises, for instance an error page named .jpg",
        "look at what wrote the shard: downloads that failed are stored like this",
    ),
    Code.UNSUPPORTED: ("recognised and not decoded: SVG, HEIC, EPS, PSD, …", _LEAVE),
    Code.TRUNCATED: (
        "the file ends before its pixels do; a clip ends well before its declared duration",
        "fetch it again: a download or an upload broke off",
    ),
    Code.CORRUPT: ("the decoder gave up inside the file", _MEND),
    Code.TOO_LARGE: (
        "more pixels or bytes than the job allows",
        "image.max_pixels, video.max_pixels and input.max_member_bytes are the limits; " + _LIMIT,
    ),
    Code.NO_VIDEO_STREAM: ("audio only", "nothing: there is no picture"),
    Code.NO_FRAMES: ("a video stream without a frame", _MEND),
    Code.NO_MEDIA: ("a key with sidecars only", "look whether the medium has another key, or was left out"),
    Code.MIXED_MEDIA: (
        "images and videos, or several videos, under one key",
        "give each its own key when the shard is written",
    ),
    Code.DUPLICATE_MEMBER: ("one member name twice under a key", "write the shard again without the second"),
    Code.DUPLICATE_KEY: ("two Parquet rows with one key", "name a column of unique keys in input.key_column"),
    Code.BAD_KEY: ("a null key", "name a column without nulls in input.key_column"),
    Code.DECODER_CRASHED: ("the decoder process died on these bytes", _AGAIN),
    Code.DECODER_TIMEOUT: (
        "decoding took longer than the deadline",
        "image.timeout_s and video.timeout_s are the deadlines; or " + _AGAIN,
    ),
    Code.CONTENT_CHANGED: (
        "the bytes are not those that were indexed",
        "run the job again: it indexes the input as it is now",
    ),
    Code.SHARD_UNREADABLE: ("the whole shard: not a tar or Parquet file", "write or fetch the shard again"),
    Code.SHARD_TRUNCATED: (
        "the whole shard: its end is missing; what came before is captioned",
        "fetch the shard again",
    ),
    Code.SHARD_EMPTY: ("the whole shard: nothing in it", "look whether it should be in the input"),
    Code.MISSING_COLUMN: ("the whole shard: no such Parquet column", "name it in input.image_column"),
    Code.MISSING_FIELD: (
        "the prompt names a {field} that the asset does not have",
        "say what stands for it, as in {place|an unknown place}",
    ),
    Code.NO_PROMPT: (
        "no prompt of the job asks about this kind of asset",
        "give a prompt a text or turns for this kind",
    ),
    Code.IMAGE_COUNT: (
        "the prompt's turns show more or fewer images than the asset has",
        "leave images out of the turns, or give such assets a prompt of their own",
    ),
    Code.UNSUPPORTED_MEDIA: (
        "a video, and the checkpoint takes images only (LLaVA-NeXT); LLaVA-OneVision takes videos",
        "caption videos with a LLaVA-OneVision checkpoint",
    ),
    Code.PROMPT_TOO_LONG: (
        "prompt and caption do not fit the model's positions",
        "lower video.frames, generation.max_new_tokens or the prompt's max_field_chars",
    ),
    Code.OUT_OF_MEMORY: (
        "one caption alone does not fit the device",
        "set image.max_crops or video.frames lower, or take a device with more memory",
    ),
    Code.REPLICA_DIED: (
        "the process that holds the model died, twice with this asset alone",
        "look at the worker's log; it is most often killed for memory; then " + _AGAIN,
    ),
}
