"""`captionmill demo`: generated shards through the whole pipeline, and every caption compared with the truth."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.demo.scenes import PROMPTS
from jobs.demo.shards import write_shards
from jobs.report.command import Asked, write
from jobs.start import start
from pipeline import config, parquet, storage
from pipeline.errors import RunError
from pipeline.publish import snapshot
from pipeline.toml import toml

BAR = 0.95  # below this share of right captions, of any kind under any prompt, the demo fails
KINDS = {"image": "single images", "images": "2 or 3 images a key", "video": "clips of 4 to 16 frames"}


def show(folder: Path, scenes: int, console: Console) -> None:
    """Make the shards, caption them, print how many captions are right and where they lie, and write the report.

    Raises RunError where fewer than `BAR` of the captions of a kind under a prompt are right.
    """
    job = folder / "demo.toml"
    truth = _shards(folder, scenes, console)
    job.write_text(job_file(folder), encoding="utf-8")
    loaded = config.read(job.read_text(encoding="utf-8"))
    start(loaded, console)
    right, asked = score(str(folder / "captions"), truth)
    console.print(_table(right, asked))
    console.print(f"job       {job}")
    console.print(f"truth     {folder / 'truth.json'}")
    write(str(folder / "captions"), folder / "report.html", Asked(source=loaded.job().input), console)
    worst = min(right[cell] / n for cell, n in asked.items())
    if worst < BAR:
        raise RunError(
            f"only {worst:.1%} of the captions of one kind under one prompt are right; {BAR:.0%} are needed"
        )


def _shards(folder: Path, scenes: int, console: Console) -> dict[str, dict[str, str]]:
    """The truth of the sample shards, which are made where this number of scenes is not there yet."""
    made, path = folder / "input" / "made.json", folder / "truth.json"
    if not (made.is_file() and json.loads(made.read_text()) == {"scenes": scenes}):
        console.print(f"Drawing {scenes} scenes of each kind")
        (folder / "input").mkdir(parents=True, exist_ok=True)
        write_shards(folder, scenes)
        made.write_text(json.dumps({"scenes": scenes}))
    truth: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return truth


def job_file(folder: Path) -> str:
    """The demo's job: what a user's own looks like."""
    prompts = "\n".join(f"[[prompt]]\nid = {toml(i)}\ntext = {toml(text)}\n" for i, text in PROMPTS.items())
    uris = [str((folder / "shards").absolute() / name) for name in ("*.tar", "*.parquet")]
    return f"""[input]
dataset = "demo"
uris = {toml(uris)}
key_column = "key"

[model]
path = "demo"
dtype = "float32"

{prompts}
[generation]
max_new_tokens = 32

[unit]
max_assets = 64

[output]
uri = {toml(str((folder / "captions").absolute()))}

[cluster]
replicas = 1
gpus_per_replica = 0
"""


def score(
    output: str, truth: dict[str, dict[str, str]]
) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Right captions, and captions asked for, by (kind, prompt id). A caption that is not there is not right."""
    said = {(row["key"], row["prompt_id"]): row["caption"] for row in _captions(output)}
    asked = Counter((scene["kind"], prompt) for scene in truth.values() for prompt in PROMPTS)
    right = Counter(
        (scene["kind"], prompt)
        for key, scene in truth.items()
        for prompt in PROMPTS
        if said.get((key, prompt)) == scene[prompt]
    )
    return right, asked


def _captions(output: str) -> list[dict[str, Any]]:
    """Key, prompt and caption of every published row."""
    published = snapshot(output)
    files = published["captions"]["files"] if published else []
    rows: list[dict[str, Any]] = []
    for file in files:
        data = storage.read(storage.join(output, file["path"]))
        rows += parquet.read(data, ["key", "prompt_id", "caption"]).to_pylist()
    return rows


def _table(right: Counter[tuple[str, str]], asked: Counter[tuple[str, str]]) -> Table:
    table = Table(title="Captions that equal the truth", title_justify="left")
    table.add_column("scenes never trained on")
    for prompt in PROMPTS:
        table.add_column(prompt, justify="right")
    for kind, name in KINDS.items():
        cells = [f"{right[kind, p]}/{asked[kind, p]}  {right[kind, p] / asked[kind, p]:.1%}" for p in PROMPTS]
        table.add_row(name, *cells)
    return table
