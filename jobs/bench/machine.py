"""What this machine is, and the most it can do: products of matrices, memory, disk, measured when it is asked."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from pipeline.config import MIB, ModelConfig

DTYPES = ("float32", "bfloat16", "float16")
# Rows, inputs and outputs: a pass through the MLPs of SigLIP and of Qwen2 0.5B, and a wider matrix.
PRODUCTS = ((4096, 1152, 4304), (4096, 896, 4864), (2048, 4096, 4096))
TIMES = 8  # the best of so many counts
ENOUGH_S = 1.0  # of one product: some processors multiply 16 bits slowly
COPIED = 256 * MIB  # beyond every cache
SOFTWARE = ("captionmill", "torch", "transformers", "ray", "pyarrow", "pillow", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates a second: operations in `gemm`, by dtype, all others bytes.

    Memory counts what is read and what is written by a copy, on the model's device with all threads, and on one core.
    `disk_read` is past the page cache where the file system lets it be dropped, `cached_read` through it, as a shard is
    read that was just written.
    """

    cpu: str
    cores: int
    threads: int
    device: str
    memory_bytes: int
    software: Mapping[str, str]
    gemm: Mapping[str, float]
    memory: float
    memory_one_core: float
    disk_write: float
    disk_read: float
    cached_read: float

    def products(self, model: ModelConfig) -> str:
        """The dtype in which such a model's vision and prefill are computed here (`actors.kernels`)."""
        plain = self.device != "cpu" or model.quantization != "none"
        return model.dtype if plain else max(model.dtype, "float32", key=self.gemm.__getitem__)


def measure(device: str, threads: int) -> Machine:
    """Some ten seconds. `device` is the model's, cpu or cuda; `threads` are torch's from now on, 0: as it chooses."""
    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryFile() as file:
        write, read, cached = _disk(file)
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        software={"python": platform.python_version(), **{name: version(name) for name in SOFTWARE}},
        gemm={dtype: _gemm(getattr(torch, dtype), device) for dtype in DTYPES},
        memory=_copies(device),
        memory_one_core=_copies_one_core(),
        disk_write=write,
        disk_read=read,
        cached_read=cached,
    )


def _cpu() -> str:
    """The processor's name, as Linux has it on x86; elsewhere its architecture."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _best(work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of the fastest of some times."""
    found, until = list[float](), time.perf_counter() + ENOUGH_S
    while len(found) <= TIMES and (not found or time.perf_counter() < until):
        begun = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return min(found)


def _gemm(dtype: torch.dtype, device: str) -> float:
    """Operations a second, of the product that reaches most."""
    found = []
    for rows, inputs, outputs in PRODUCTS:
        a = torch.randn(rows, inputs, device=device).to(dtype)
        b = torch.randn(inputs, outputs, device=device).to(dtype)
        into = torch.empty(rows, outputs, dtype=dtype, device=device)
        seconds = _best(lambda a=a, b=b, into=into: torch.mm(a, b, out=into), device)  # type: ignore[misc]
        found.append(2 * rows * inputs * outputs / seconds)
        if seconds > ENOUGH_S:
            break
    return max(found)


def _copies(device: str) -> float:
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * COPIED / _best(lambda: target.copy_(source), device)


def _copies_one_core() -> float:
    source, target = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)
    return 2 * COPIED / _best(lambda: np.copyto(target, source))


def _disk(file: BinaryIO) -> tuple[float, float, float]:
    """Bytes a second to write a file until it is on the disk, to read it from there, and to read it again."""
    data = os.urandom(8 * MIB)
    into = bytearray(len(data))

    def read() -> float:
        begun = time.perf_counter()
        file.seek(0)
        while file.readinto(into):  # type: ignore[attr-defined]
            pass
        return COPIED / (time.perf_counter() - begun)

    begun = time.perf_counter()
    for _ in range(COPIED // len(data)):
        file.write(data)
    file.flush()
    os.fsync(file.fileno())
    write = COPIED / (time.perf_counter() - begun)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return write, read(), read()
