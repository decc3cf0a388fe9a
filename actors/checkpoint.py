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
    if not (folder / "config.json").is_file():
        raise ConfigError([f"[model] path: there is no checkpoint (config.json) in {model.path}"])
    if not any(folder.glob(WEIGHTS[0])):
        raise ConfigError([f"[model] path: {model.path} has no *.safetensors; other weight formats are not loaded"])
    return folder


def _download(model: ModelConfig) -> Path:
    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=[*WEIGHTS, *PROCESSOR]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError([f"[model] path: cannot get {model.path} at {model.revision}: {reason}"]) from error


def describe(folder: Path, model: ModelConfig) -> Checkpoint:
    """Name, revision and digests of the checkpoint in `folder`."""
    weights = _digest(folder.glob(WEIGHTS[0]))
    return Checkpoint(
        name=model.path if is_hub_id(model) else folder.resolve().name,
        revision=model.revision if is_hub_id(model) else f"sha256:{weights}",
        weights_sha256=weights,
        processor_sha256=_digest(f for pattern in PROCESSOR for f in folder.glob(pattern)),
    )


def geometry(folder: Path) -> Geometry:
    """Crops and visual tokens as the checkpoint's own configuration has them."""
    video = folder / "video_preprocessor_config.json"
    return Geometry.from_checkpoint(
        _json(folder / "config.json"),
        _json(folder / "preprocessor_config.json"),
        _json(video) if video.is_file() else None,
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError([f"[model] path: the checkpoint has no {path.name}"])
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _digest(files: Iterable[Path]) -> str:
    """Hex sha256 over name, size and content of each file, in name order."""
    digest = hashlib.sha256()
    for path in sorted(set(files), key=lambda p: p.name):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()
