"""Bounds: 1,000,000 assets through index, plan, caption and publish, beside runs of 10,000 and 30,000.

    python -m tests.bounds.million --assets 1000000

The assets are small PNGs of colours of their own, 1,000 a shard, every 997th of them cut; the replica is a double that
says what it saw. Checked: every asset is published once, with the words that its own bytes ask for, or its failure.
Printed: what an asset costs, by time stamps in the output alone, and the most memory that the driver took. Indexing: in
the middle of the stage, without its start and end. Captioning, which works ahead of what it commits: what 20,000 assets
more cost than 10,000, and what all the others do.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from pipeline.publish import snapshot
from tests import made
from tests.double import caption_with_doubles, said

ROOT = Path(__file__).parents[2]
EACH = 1_000  # assets a shard
BAD_EVERY = 997
SMALL = 10_000
MIDDLE = (0.1, 0.9)  # of a stage, by count: without its beginning and its end


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run. Times are milliseconds of this machine per asset, memory is MiB."""

    assets: int
    index: float
    caption_s: float
    publish_s: float
    peak: float
    wrong: int

    def more(self, than: Figures) -> float:
        """Milliseconds of captioning for each asset more than another run had."""
        return 1e3 * (self.caption_s - than.caption_s) / (self.assets - than.assets)


def write(folder: Path, assets: int) -> pa.Table:
    """Shards of `assets` assets below `folder`, and what must come of each: shard, key, and words or nothing."""
    truth: dict[str, list[str | None]] = {"shard": [], "key": [], "caption": []}
    folder.mkdir(parents=True)
    for first in range(0, assets, EACH):
        name = f"{first // EACH:06d}.tar"
        with tarfile.open(folder / name, "w") as tar:
            for number in range(first, min(first + EACH, assets)):
                data, words = _asset(number)
                entry = tarfile.TarInfo(f"{number:08d}.png")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
                for column, value in zip(truth.values(), (name, f"{number:08d}", words), strict=True):
                    column.append(value)
    return pa.table(truth)


def _asset(number: int) -> tuple[bytes, str | None]:
    """The bytes of one asset, and what the double says of them; nothing where they are cut."""
    colour = (number % 256, number // 256 % 256, number // 65536)
    sink = io.BytesIO()
    Image.new("RGB", (16 + number % 25, 16 + number % 15), colour).save(sink, "PNG")
    whole = sink.getvalue()
    if number % BAD_EVERY == 0:
        return whole[: len(whole) // 2], None
    return whole, said(hashlib.sha256(whole).hexdigest(), "short", colour)


def drive(job: Path) -> None:
    """The driver's process: run the job with doubles, and say how much memory that took."""
    caption_with_doubles(job.read_text(), Console(stderr=True))
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss is inherited
    assert found
    print(int(found[1]) / 1024)


def run(root: Path, name: str, assets: int) -> Figures:
    """Make the input, run the job in a process of its own, and look at what came out."""
    truth = write(root / name / "in", assets)
    output, job = root / name / "out", root / name / "job.toml"
    job.write_text(made.job(f"{root / name / 'in'}/*.tar", root / "checkpoint", output, replicas=2))
    command = [sys.executable, "-m", "tests.bounds.million", "--drive", str(job)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    peak = float(subprocess.check_output(command, cwd=ROOT, env=environment))
    (planned,) = output.glob("runs/*/plan.json")
    captions, failures = published(output, "captions"), published(output, "failures")
    indexed = [p.stat().st_mtime for p in (output / "index").iterdir()]
    committed = _commits(pa.concat_tables([captions, failures], promote_options="default"))
    told = snapshot(str(output))
    assert told is not None
    publish_s = datetime.fromisoformat(told["published_at"]).timestamp() - committed[-1]
    return Figures(
        assets,
        _steady(sorted(indexed)),
        committed[-1] - planned.stat().st_mtime,
        publish_s,
        peak,
        wrong(truth, captions, failures),
    )


def published(output: Path, table: str) -> pa.Table:
    """What this check needs of the rows of a table, by the snapshot."""
    told = snapshot(str(output))
    assert told is not None
    columns = ["shard", "key", "unit_id", "created_at", *(["caption"] if table == "captions" else [])]
    return pa.concat_tables(
        [pq.read_table(output / f["path"], columns=columns) for f in told[table]["files"]]
    )


def wrong(truth: pa.Table, captions: pa.Table, failures: pa.Table) -> int:
    """Assets that are missing, twice, or not said what is true of them."""
    rows = pa.concat_tables([captions, failures], promote_options="default")
    found = rows.select(["shard", "key", "caption"]).sort_by([("shard", "ascending"), ("key", "ascending")])
    if len(found) != len(truth):
        return abs(len(found) - len(truth))
    same = [pc.equal(pc.fill_null(found[c], ""), pc.fill_null(truth[c], "")) for c in truth.column_names]
    right: int = pc.sum(pc.and_(pc.and_(*same[:2]), same[2])).as_py()
    return len(truth) - right


def _commits(rows: pa.Table) -> list[float]:
    """When each unit was committed, in seconds, in that order."""
    times = rows.group_by("unit_id").aggregate([("created_at", "min")])["created_at_min"]
    return sorted(pc.divide(times.cast(pa.int64()).cast(pa.float64()), 1e6).to_pylist())


def _steady(indexed: Sequence[float]) -> float:
    """Milliseconds per asset in the middle of indexing, given when each shard was done."""
    low, high = (round(share * (len(indexed) - 1)) for share in MIDDLE)
    return 1e3 * (indexed[high] - indexed[low]) / (EACH * (high - low))


def lines(small: Sequence[tuple[Figures, Figures]], large: Figures) -> Iterator[str]:
    """The table."""
    yield f"{'':24}{SMALL:>12,} {large.assets:>12,}    ratio"
    one, other = statistics.median(f.index for f, _ in small), large.index
    yield f"{'index, ms per asset':24}{one:12.3f} {other:12.3f} {other / one:8.2f}"
    one = statistics.median(more.more(few) for few, more in small)
    other = statistics.median(large.more(few) for few, _ in small)
    yield f"{'caption, ms per asset':24}{one:12.3f} {other:12.3f} {other / one:8.2f}"
    for name, unit in (
        ("publish_s", "publish, s"),
        ("peak", "driver's peak, MiB"),
        ("wrong", "wrong or missing"),
    ):
        one = statistics.median(getattr(few, name) for few, _ in small)
        yield f"{unit:24}{one:12.1f} {getattr(large, name):12.1f}"


def main(arguments: Sequence[str]) -> int:
    """The command line; 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bounds.million")
    parser.add_argument("--assets", type=int, default=1_000_000)
    parser.add_argument(
        "--pairs", type=int, default=5, help="runs of 10,000, half of them before and half after"
    )
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.drive:
        drive(given.drive)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made.checkpoint(root / "checkpoint")
        small = []
        for number in range(given.pairs):
            if number == given.pairs // 2:
                large = run(root, "large", given.assets)
                print(large, flush=True)
            pair = run(root, f"few{number}", SMALL), run(root, f"more{number}", 3 * SMALL)
            small.append(pair)
            print(*pair, sep="\n", flush=True)
        print(*lines(small, large), sep="\n", flush=True)
        return bool(large.wrong + sum(f.wrong for pair in small for f in pair))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
