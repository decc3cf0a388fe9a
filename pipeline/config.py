"""The job file: frozen sections, every key with a default that works, every mistake reported at once.

A section is a frozen dataclass whose fields are the keys of the TOML table of the same name. `load` checks types,
choices and ranges, names the nearest known key for an unknown one, and returns what parsed together with all
problems, so that a caller can go on and check addresses before it reports.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pipeline import placement
from pipeline.conversation import conversations
from pipeline.quality import RULES
from pipeline.types import Media, Turn
from pipeline.values import checked, key, override, section, shown, unknown

GIB = 1 << 30
MIB = 1 << 20
MAX_FIELD_CHARS = 2000  # of a {field} in a prompt: some 500 tokens of English
COLDEST = 0.01  # a temperature below it is 0 in all but name, and its quotients may overflow


@dataclass(frozen=True, slots=True)
class InputConfig:
    """[input]"""

    dataset: str = key(help="name that asset identities are made under")
    uris: tuple[str, ...] = key(help="tar and Parquet shards or folders; braces and globs are expanded")
    root: str = key(
        "", help="what shard paths are relative to; default: the bucket, or the pattern's fixed folder"
    )
    image_column: str = key("image", help="Parquet: binary column, or struct of bytes and path")
    key_column: str = key("", help="Parquet: column with the key; default: the row number")
    max_member_bytes: int = key(256 * MIB, low=1, help="larger media are failures (too_large)")
    duplicates: str = key(
        "once",
        choices=("once", "each"),
        help="assets of the same bytes: all get the caption of one, or its own",
    )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """[model]"""

    path: str = key(help='hub id, folder, or "demo"')
    revision: str = key("", help="of a hub id: commit, branch or tag; the run is pinned to its commit")
    dtype: str = key(
        "bfloat16", choices=("bfloat16", "float16", "float32"), help="of weights and activations"
    )
    attention: str = key(
        "sdpa", choices=("sdpa", "eager", "flash_attention_2"), help="attention implementation"
    )
    quantization: str = key(
        "none",
        choices=("none", "int8", "int4"),
        help="how linear layers are held (bitsandbytes; int4 is nf4)",
    )
    threads: int = key(0, low=0, help="CPU threads of a replica; 0: its share of three quarters of the cores")
    packed: bool = key(
        True,
        help="on CPU, where it is faster and an eighth of the memory holds it: a copy of weights to multiply by",
    )
    compiled: bool = key(
        False,
        help="layers compiled by torch.compile; faster nowhere that it was measured, not measured on GPUs",
    )


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """[[prompt]]: what is asked, in `turns` that end with a user turn. {field} takes text from the asset.

    `turns` is for every kind of asset that has none of its own in `image`, `images` or `video`; where both are
    empty, assets of that kind are not asked.
    """

    id: str = key(help="names the prompt in every row")
    turns: tuple[Turn, ...] = key((), help="the conversation; text = one user turn")
    image: tuple[Turn, ...] = key((), help="the conversation about single images")
    images: tuple[Turn, ...] = key((), help="the conversation about several images under one key")
    video: tuple[Turn, ...] = key((), help="the conversation about videos")
    max_field_chars: int = key(
        MAX_FIELD_CHARS, low=1, help="characters of a {field} that are used; the rest is cut"
    )

    def asked(self, media: Media) -> tuple[Turn, ...]:
        """The conversation about assets of this kind; empty where they are not asked."""
        own = {Media.IMAGE: self.image, Media.IMAGES: self.images, Media.VIDEO: self.video}
        return own[media] or self.turns


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """[generation]"""

    max_new_tokens: int = key(256, low=1, help="longer captions end with finish_reason length")
    min_new_tokens: int = key(0, low=0, help="no caption ends before so many tokens")
    stop: tuple[str, ...] = key((), help="texts that end a caption; they are cut off")
    temperature: float = key(0.0, low=0.0, help="0: the most probable token; else tokens are drawn")
    top_k: int = key(0, low=0, help="draw among so many most probable tokens; 0: all")
    top_p: float = key(
        1.0, low=0.01, high=1.0, help="draw among the most probable tokens that hold this share"
    )
    repetition_penalty: float = key(
        0.0,
        low=0.0,
        help="above 1: tokens already in prompt or caption are less probable; 0: as the checkpoint says",
    )
    seed: int = key(0, low=0, help="with the asset's bytes and the prompt's id it decides what is drawn")
    retries: int = key(
        0, low=0, high=9, help="so often at most a flagged caption is drawn anew, each time with another seed"
    )
    retry_flags: tuple[str, ...] = key(
        ("repetition", "empty", "prompt_echo"),
        choices=tuple(RULES),
        help="with retries: the flags that count",
    )
    retry_temperature: float = key(0.7, low=COLDEST, help="with retries, where temperature is 0")
    batch_tokens: int = key(
        131072, low=1, help="prompt tokens in the cache at once; fewer where memory is short"
    )
    batch_size: int = key(32, low=1, help="captions that are generated together")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """[image]"""

    max_pixels: int = key(100_000_000, low=1, help="width times height of the largest image that is decoded")
    max_crops: int = key(
        0,
        low=0,
        help="of a picture in tiles, at most, its base included; fewer cost less and show less; 0: the checkpoint's",
    )
    decode: str = key(
        "exact", choices=("exact", "fast"), help="fast: JPEGs at 1/2, 1/4 or 1/8 where no crop needs more"
    )
    timeout_s: float = key(30.0, low=0.1, help="seconds that decoding one asset may take")


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """[video]: either `frames` over the whole clip, or `fps` with `max_frames`."""

    frames: int = key(16, low=1, help="frames spread evenly over the clip; all of them where there are fewer")
    fps: float = key(0.0, low=0.0, help="instead of frames: frames a second")
    max_frames: int = key(64, low=1, help="with fps: at most so many, spread evenly")
    max_pixels: int = key(40_000_000, low=1, help="width times height of the largest frame that is decoded")
    timeout_s: float = key(120.0, low=0.1, help="seconds that decoding one clip may take")


@dataclass(frozen=True, slots=True)
class UnitConfig:
    """[unit]: what bounds a work unit, the grain of retry and commit."""

    max_assets: int = key(256, low=1, help="assets in a unit")
    max_visual_tokens: int = key(500_000, low=1, help="visual tokens in a unit")
    max_pixel_bytes: int = key(256 * MIB, low=1, help="bytes of uint8 crops in a unit")


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """[output]"""

    uri: str = key(help="where index, runs and published tables go")
    max_failure_rate: float = key(
        1.0, low=0.0, high=1.0, help="share of assets that may fail before the run exits with 1"
    )


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """[cluster]"""

    replicas: int = key(1, low=1, help="captioner actors, each with the model")
    gpus_per_replica: float = key(
        1.0, low=0.0, help="0: on CPU; below 1: several on a GPU; above 1: the model is spread over so many"
    )
    gpu_memory_gib: float = key(
        0.0,
        low=0.0,
        help="memory of one GPU, to refuse what cannot fit before anything starts; 0: when loading",
    )
    preprocessors: int = key(
        0, low=0, help="preprocessor actors at most; 0: 16 a replica, as far as there are cores"
    )
    replica_labels: tuple[str, ...] = key(
        (), help='replicas only on nodes with these labels: "key=value", "key=!value", "key=in(a,b)"'
    )
    reader_labels: tuple[str, ...] = key(
        (), help="the same for whatever reads, decodes, writes and publishes"
    )
    wait_s: float = key(
        900.0, low=0.0, help="seconds that a run waits for a node that can hold a replica, or a reader"
    )


@dataclass(frozen=True, slots=True)
class Job:
    """A whole job file."""

    input: InputConfig
    model: ModelConfig
    prompts: tuple[PromptConfig, ...]
    output: OutputConfig
    generation: GenerationConfig
    image: ImageConfig
    video: VideoConfig
    unit: UnitConfig
    cluster: ClusterConfig


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` found: the sections that parsed, by name, and every problem, in words."""

    sections: Mapping[str, Any]
    prompts: tuple[PromptConfig, ...]
    problems: tuple[str, ...]

    def job(self) -> Job:
        """The job. Only for a load without problems."""
        return Job(prompts=self.prompts, **self.sections)


SECTIONS: Mapping[str, type] = {
    "input": InputConfig,
    "model": ModelConfig,
    "output": OutputConfig,
    "generation": GenerationConfig,
    "image": ImageConfig,
    "video": VideoConfig,
    "unit": UnitConfig,
    "cluster": ClusterConfig,
}
PROMPT_KEYS = ("id", "text", "turns", "image", "images", "video", "max_field_chars")
ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read(text: str, overrides: Sequence[str] = ()) -> Loaded:
    """Parse TOML `text`, apply `section.key=value` overrides (values in TOML notation, or bare words), and check."""
    raw, problems = resolved(text, overrides)
    loaded = Loaded({}, (), ()) if raw is None else load(raw)
    return Loaded(loaded.sections, loaded.prompts, (*problems, *loaded.problems))


def resolved(text: str, overrides: Sequence[str]) -> tuple[dict[str, Any] | None, list[str]]:
    """The tables of a job file with what the command line changes in them, unchecked, and the problems so far."""
    try:
        raw = tomllib.loads(text.removeprefix("\ufeff"))  # as some Windows editors begin a file
    except ValueError as error:  # TOMLDecodeError is one, and so is a number of more than 4,300 digits
        return None, [f"the job file is not TOML: {error}"]
    return raw, [problem for item in overrides if (problem := override(raw, item, SECTIONS))]


def load(raw: Mapping[str, Any]) -> Loaded:
    """Check a parsed job file."""
    known = (*SECTIONS, "prompt")
    problems = [unknown(name, known, "section [%s]") for name in raw if name not in known]
    sections: dict[str, Any] = {}
    faultless: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        found: list[str] = []
        built = section(name, cls, raw.get(name), found)
        if built is not None:
            sections[name] = built
        if not found:
            faultless[name] = built
        problems += found
    prompts = _prompts(raw.get("prompt"), problems)
    problems += _across(faultless, raw)
    return Loaded(sections, prompts, tuple(problems))


def _prompts(tables: Any, problems: list[str]) -> tuple[PromptConfig, ...]:
    if isinstance(tables, Mapping):
        problems.append("[prompt] must be written [[prompt]]: there may be several")
        return ()
    if not isinstance(tables, list) or not tables:
        problems.append("at least one [[prompt]] is needed, with id and text (or turns)")
        return ()
    prompts = [p for i, table in enumerate(tables, 1) if (p := _prompt(f"[[prompt]] {i}", table, problems))]
    ids = [p.id for p in prompts]
    problems += [
        f"[[prompt]] id {i!r} is used more than once" for i in sorted({i for i in ids if ids.count(i) > 1})
    ]
    return tuple(prompts)


def _prompt(where: str, table: Any, problems: list[str]) -> PromptConfig | None:
    if not isinstance(table, Mapping):
        problems.append(f"{where} must be a table")
        return None
    found = [unknown(k, PROMPT_KEYS, f"key {where} %s") for k in table if k not in PROMPT_KEYS]
    name = table.get("id")
    if not isinstance(name, str) or not ID.fullmatch(name):
        must = f"must be 1 to 64 letters, digits, '_', '.' or '-', not {shown(name)}"
        found.append(f"{where} id {must if 'id' in table else 'is missing'}")
    values: dict[str, Any] = dict(conversations(where, table, found))
    if (cap := "max_field_chars") in table:
        rule = next(f.metadata for f in fields(PromptConfig) if f.name == cap)
        values[cap] = checked(f"{where} {cap}", table[cap], int, rule, found)
    problems += found
    return None if found or not isinstance(name, str) else PromptConfig(name, **values)


def _across(sections: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
    """Rules that join keys, of sections whose keys are right one by one."""
    problems = []
    video, model, cluster, generation = map(sections.get, ("video", "model", "cluster", "generation"))
    if video and video.fps and "frames" in raw["video"]:
        problems.append("[video] needs either frames or fps, not both")
    if cluster and cluster.gpus_per_replica > 1 and cluster.gpus_per_replica % 1:
        problems.append("[cluster] gpus_per_replica above 1 must be whole")
    if model and model.compiled:
        if model.quantization != "none":
            problems.append('[model] compiled needs quantization = "none"')
        if cluster and cluster.gpus_per_replica > 1:
            problems.append("[model] compiled needs gpus_per_replica of 1 or less")
    if cluster:
        for name in ("replica_labels", "reader_labels"):
            problems += placement.mistakes(f"[cluster] {name}", getattr(cluster, name))
    if generation:
        problems += _generation(generation, raw.get("generation", {}))
    return problems


def _generation(settings: GenerationConfig, given: Mapping[str, Any]) -> Iterator[str]:
    """`given` are the keys that the job file has."""
    if 0 < settings.temperature < COLDEST:
        yield f"[generation] temperature must be 0 or at least {COLDEST:g}, not {settings.temperature:g}"
    if settings.temperature == 0:
        drawing = [name for name in ("top_k", "top_p", "seed") if name in given]
        if not settings.retries:
            yield from (f"[generation] {name} needs a temperature above 0, or retries" for name in drawing)
    if not settings.retries:
        unused = [name for name in ("retry_flags", "retry_temperature") if name in given]
        yield from (f"[generation] {name} needs retries above 0" for name in unused)
    if settings.min_new_tokens > settings.max_new_tokens:
        least, most = settings.min_new_tokens, settings.max_new_tokens
        yield f"[generation] min_new_tokens must be at most max_new_tokens ({most}), not {least}"


def is_hub_id(model: ModelConfig) -> bool:
    """Whether `path` has the form of a hub id ("owner/name"); a relative folder is written with a leading "./"."""
    return bool(HUB_ID.fullmatch(model.path))
