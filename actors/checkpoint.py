"""Where a checkpoint is, and what it is: its folder on this machine, its digests, its picture geometry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from pipeline.anyres import Geometry
from pipeline.config import ModelConfig, is_hub_id
from pipeline.errors import ConfigError
from pipeline.recipe import Checkpoint

WEIGHTS = ("*.safetensors",)
PROCESSOR = ("*.json", "*.jinja", "*.txt", "*.model")  # configuration, tokenizer, chat template
BLOCK = 1 << 20


def fetch(model: ModelConfig) -> Path:
    """The checkpoint's folder on this machine. A hub id is downloaded at its pinned commit, safetensors only.

    Raises ConfigError where there is no such folder or commit, or where it holds no safetensors.
    """
    folder = _download(model) if is_hub_id(model) else Path(model.path).expanduser()
    check(folder)
    return folder


def check(folder: Path) -> None:
    """ConfigError, naming each, unless `folder` holds the files that are loaded from it."""
    if not folder.is_dir():
        raise ConfigError([f"[model] path {folder}: there is no such folder"])
    index = _json(folder / "model.safetensors.index.json").get("weight_map", {"": "model.safetensors"})
    files = {"config.json", "tokenizer.json", *index.values()}
    absent = sorted(name for name in files if not (folder / name).is_file())
    if absent:
        what = "give the folder of a whole checkpoint with safetensors weights; other formats are not loaded"
        raise ConfigError([f"[model] path {folder}: {name} is missing; {what}" for name in absent])


def _download(model: ModelConfig) -> Path:
    try:
        return Path(
            snapshot_download(model.path, revision=model.revision, allow_patterns=[*WEIGHTS, *PROCESSOR])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError([f"[model] path: cannot get {model.path} at {model.revision}: {reason}"]) from error


def describe(folder: Path, model: ModelConfig) -> Checkpoint:
    """Name, revision and digests of the checkpoint in `folder`, which `model` names.

    Of a folder only the last name goes into rows: where it lies is nobody's business.
    """
    weights = _digest(folder.glob(WEIGHTS[0]))
    return Checkpoint(
        name=model.path if is_hub_id(model) else Path(model.path).name or folder.resolve().name,
        revision=model.revision if is_hub_id(model) else f"sha256:{weights}",
        weights_sha256=weights,
        processor_sha256=_digest(f for pattern in PROCESSOR for f in folder.glob(pattern)),
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


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the checkpoint; empty where there is no such file."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError([f"[model] path: {path.name} of the checkpoint is not JSON: {error}"]) from error
    return loaded if isinstance(loaded, dict) else {}


def _digest(files: Iterable[Path]) -> str:
    """Hex sha256 over name, size and content of each file, in name order."""
    digest = hashlib.sha256()
    for path in sorted(set(files), key=lambda p: p.name):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()
