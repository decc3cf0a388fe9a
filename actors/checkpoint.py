"""Where a checkpoint is, and what it is: its folder on this machine, its digests, its picture geometry.

A checkpoint on the hub is looked at in two steps. `pin` fetches its small files, which say whether it can be used
and at which commit it is; `fetch` gets the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.digests import digest
from pipeline.anyres import Geometry
from pipeline.config import ModelConfig, is_hub_id
from pipeline.errors import ConfigError
from pipeline.footprint import Footprint
from pipeline.recipe import Checkpoint

PROCESSOR = ("*.json", "*.jinja", "*.txt", "*.model")  # configuration, tokenizer, chat template
INDEX = "model.safetensors.index.json"
SAFETENSORS = re.compile(r"[\w-][\w.-]*\.safetensors")
NEEDED = ("config.json", "tokenizer.json")
WHOLE = "give the folder of a whole checkpoint with safetensors weights; other formats are not loaded"
REMEDY = (
    "check id and revision; for a gated one accept its terms and set HF_TOKEN; "
    "without a network only what is in the hub's cache (HF_HUB_CACHE) can be used"
)


def pin(model: ModelConfig) -> ModelConfig:
    """The model at the commit that its revision names now; a full commit is not asked for, a folder has none.

    Of a hub id only configuration, tokenizer and templates are fetched. Offline, a branch or tag is at the commit that
    it had when it was last asked for. Raises ConfigError as `fetch` does, and where `geometry` does.
    """
    folder = settings(model)
    if not is_hub_id(model):
        check(folder)
        geometry(folder)
        return model
    _require(folder, NEEDED)
    _refuse_code(folder)
    geometry(folder)
    return replace(model, revision=folder.name)


def settings(model: ModelConfig) -> Path:
    """The folder with the checkpoint's configuration, tokenizer and templates, without its weights on the hub."""
    return _download(model, PROCESSOR) if is_hub_id(model) else Path(model.path).expanduser()


def fetch(model: ModelConfig) -> Path:
    """The checkpoint's folder on this machine. A hub id is downloaded at its revision, safetensors only.

    Raises ConfigError where there is no such folder or commit, or where it holds no safetensors.
    """
    folder = settings(model)
    if is_hub_id(model):
        folder = _download(replace(model, revision=folder.name), (*PROCESSOR, *_weights(folder)))
    check(folder)
    return folder


def here(model: ModelConfig) -> bool:
    """Whether the weights are on this machine, of a hub id in the hub's cache."""
    folder = settings(model)
    return all((folder / name).is_file() for name in _weights(folder))


def check(folder: Path) -> None:
    """ConfigError, naming each, unless `folder` holds the files that are loaded from it, and asks for no code."""
    if not folder.is_dir():
        raise ConfigError([f"[model] path {folder}: there is no such folder"])
    _require(folder, {*NEEDED, *_weights(folder)})
    _refuse_code(folder)


def _require(folder: Path, files: Iterable[str]) -> None:
    absent = sorted(name for name in files if not (folder / name).is_file())
    if absent:
        raise ConfigError([f"[model] path {folder}: {name} is missing; {WHOLE}" for name in absent])


def _refuse_code(folder: Path) -> None:
    """ConfigError where config.json names attention code of the hub: transformers may fetch and run it unasked.

    It did before 5.3, whatever `trust_remote_code` said (CVE-2026-4372), and still looks for it.
    """
    if named := [*_attention_code(_json(folder / "config.json"))]:
        problem = f"config.json asks for code from the hub as attention, {named[0]!r}, which is not run"
        raise ConfigError([f"[model] path {folder.name}: {problem}; take that key out of a copy"])


def _attention_code(value: object, *, attention: bool = False) -> Iterator[str]:
    """Names of repositories below keys such as _attn_implementation."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _attention_code(inner, attention=attention or "attn_implementation" in str(key))
    elif attention and isinstance(value, str) and "/" in value:
        yield value


def _weights(folder: Path) -> list[str]:
    """Names of the weights' files, as the index says where there are several.

    ConfigError where it names anything but safetensors beside it: pickles are not loaded, nor files from elsewhere.
    """
    index = _json(folder / INDEX).get("weight_map", {"": "model.safetensors"})
    names = sorted(set(map(str, index.values()))) if isinstance(index, dict) else [str(index)]
    if foreign := [name for name in names if not SAFETENSORS.fullmatch(name)]:
        problem = (
            f"[model] path: {INDEX} names {foreign[0]!r}, which is no safetensors file of the checkpoint"
        )
        raise ConfigError([f"{problem}; {WHOLE}"])
    return names


def _download(model: ModelConfig, patterns: Sequence[str]) -> Path:
    """The snapshot's folder, whose name is the commit."""
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    revision = model.revision or "main"
    try:
        return Path(snapshot_download(model.path, revision=revision, allow_patterns=list(patterns)))
    except (HTTPError, OSError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        problem = f"[model] path: cannot get {model.path} at {revision}: {reason}; {REMEDY}"
        raise ConfigError([problem]) from error


def describe(folder: Path, model: ModelConfig) -> Checkpoint:
    """Name, revision and digests of the checkpoint in `folder`, which `model` names, pinned.

    Of a folder only the last name goes into rows: where it lies is nobody's business.
    """
    weights = digest(folder / name for name in _weights(folder))
    return Checkpoint(
        name=model.path if is_hub_id(model) else Path(model.path).name or folder.resolve().name,
        revision=model.revision if is_hub_id(model) else f"sha256:{weights}",
        weights_sha256=weights,
        processor_sha256=digest(f for pattern in PROCESSOR for f in folder.glob(pattern)),
    )


def geometry(folder: Path) -> Geometry:
    """Crops and visual tokens as the checkpoint's own configuration has them."""
    both = _json(folder / "processor_config.json")  # transformers 5 saves all processors in this one file
    image = _json(folder / "preprocessor_config.json") or both.get("image_processor")
    video = _json(folder / "video_preprocessor_config.json") or both.get("video_processor")
    if not image:
        raise ConfigError(
            [f"[model] path: {folder.name} has no preprocessor_config.json; it says how pixels are cut"]
        )
    return Geometry.from_checkpoint(_json(folder / "config.json"), image, video or None)


def footprint(folder: Path) -> Footprint:
    """Parameters and KV as the checkpoint's own configuration has them."""
    return Footprint.from_config(_json(folder / "config.json"))


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the checkpoint; empty where there is no such file."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError([f"[model] path: {path.name} of the checkpoint is not JSON: {error}"]) from error
    return loaded if isinstance(loaded, dict) else {}
