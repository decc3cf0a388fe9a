"""What a node tries, and what it has to say: an actor of this class runs on each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from safetensors import SafetensorError, safe_open

from actors import checkpoint
from jobs.needs import lacking
from jobs.preflight import SOFTWARE
from pipeline import storage
from pipeline.config import ClusterConfig, ModelConfig
from pipeline.errors import CaptionmillError, ConfigError

PACKAGES = (*SOFTWARE, "ray", "pyarrow", "numpy", "safetensors")
OPTIONAL = {"int8": ("bitsandbytes", "accelerate"), "int4": ("bitsandbytes", "accelerate")}
COUNT = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a node is to try. No `model` where it can hold no replica, no `output` where it writes nothing."""

    reads: tuple[str, ...]  # objects, of each a byte is read
    output: str
    mark: str  # an object below the output that another node has just written
    model: ModelConfig | None
    cluster: ClusterConfig
    count_gpus: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What it found: complaints in words, and facts that are held against those of others. Sizes are bytes."""

    versions: dict[str, str]
    unread: tuple[str, ...] = ()
    unwritten: tuple[str, ...] = ()
    apart: bool = False  # what another node writes is not there
    unloadable: tuple[str, ...] = ()
    weights: str = ""  # digest of the headers and sizes of the weights' files
    devices: int | None = None  # that torch sees
    disk_free: int = 0
    disk: int = 0


class Probe:
    """On a node."""

    def look(self, asked: Asked) -> Seen:
        """Try everything."""
        model = asked.model
        apart, unwritten = _written(asked) if asked.output else (False, ())
        weights, unloadable = _weights(model, asked.cluster) if model else ("", ())
        place: Any = ray._private.worker._global_node
        disk = shutil.disk_usage(place.get_session_dir_path())  # where Ray spills to
        return Seen(
            versions(model),
            tuple(_complaints(asked.reads, lambda uri: storage.read_range(uri, 0, 1))),
            unwritten,
            apart,
            unloadable,
            weights,
            _devices() if asked.count_gpus else None,
            disk.free,
            disk.total,
        )

    def clock(self) -> float:
        """Seconds since the epoch, as this node has it."""
        return time.time()


def versions(model: ModelConfig | None) -> dict[str, str]:
    """Of what decides captions, or whether nodes understand each other; "none" for what is not installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL.get(model.quantization if model else "", ())):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _complaints(uris: tuple[str, ...], look: Callable[[str], object]) -> Iterator[str]:
    for uri in uris:
        try:
            storage.check_readable(
                uri
            )  # quickly; what follows waits a minute for a store that does not answer
            look(uri)
        except CaptionmillError as error:
            yield str(error)


def _written(asked: Asked) -> tuple[bool, tuple[str, ...]]:
    """Whether the mark is not to be seen, and what keeps this node from writing. What it writes, it deletes."""
    with leaving_nothing(asked.output):
        try:
            storage.check_writable(asked.output)
        except CaptionmillError as error:
            return False, (str(error),)
        return bool(asked.mark) and not storage.exists(asked.mark), ()


@contextlib.contextmanager
def leaving_nothing(uri: str) -> Iterator[None]:
    """Folders that come into being inside, on this machine, are gone afterwards, unless something is in them."""
    path = Path(storage.absolute(uri))
    absent = [] if "://" in uri else [p for p in (path, *path.parents) if not p.exists()]
    try:
        yield
    finally:
        for folder in absent:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _weights(model: ModelConfig, cluster: ClusterConfig) -> tuple[str, tuple[str, ...]]:
    """What tells this checkpoint from another, and what keeps a replica from loading it. Nothing large is fetched."""
    complaints = lacking(model, cluster)
    try:
        pinned = checkpoint.pin(model)
        folder = checkpoint.settings(pinned)
        found = [*folder.glob("*.safetensors")] if checkpoint.here(pinned) else []
        return _headers(found), tuple(complaints)
    except ConfigError as error:
        return "", (*complaints, *error.problems)
    except (SafetensorError, OSError) as error:
        return "", (*complaints, f"[model] path {model.path}: its weights cannot be read: {error}")


def _headers(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        with safe_open(path, "numpy") as weights:
            digest.update(f"{path.name} {path.stat().st_size} {sorted(weights.keys())}".encode())
    return digest.hexdigest() if files else ""


def _devices() -> int:
    """GPUs that torch sees in a process that may see all of them; this actor holds none."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    counted = subprocess.run(
        [sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, check=False
    )
    return int(counted.stdout) if counted.returncode == 0 else 0
