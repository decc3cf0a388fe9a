"""A Hugging Face dataset folder: the published Parquet files as they are, and a card that `datasets` reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCardData

from jobs.export.lines import Write
from pipeline import storage
from pipeline.columns import CAPTIONS, FAILURES
from pipeline.delta import Delta
from pipeline.quality import caption_text

SIZES = {  # the hub's, by the number of rows that is too large for them
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
    1_000_000_000: "100M<n<1B",
}
LICENSE = "# license: yours to choose, see https://huggingface.co/docs/hub/repositories-licenses\n"
TABLES = {"captions": CAPTIONS, "failures": FAILURES}

CARD = """\
---
{license}{metadata}
---

# {title}

{captions:,} captions of {assets:,} images and videos of the dataset `{dataset}`, generated with
[captionmill](https://pypi.org/project/captionmill). They are a model's words and were not checked by people; captions
can be influenced by whoever made the pictures.

- run `{run_id}`, published {published_at}
- recipes {recipes}

The pictures are not in here: `shard` and `key` say where they lie, `content_sha256` which bytes were captioned.

```python
from datasets import load_dataset

captions = load_dataset("path/to/this/folder", split="train"){failures}
```

| column of captions | type | what it is |
|---|---|---|
{columns}
"""
FAILURES_LINE = '\nfailures = load_dataset("path/to/this/folder", "failures", split="train")'


def write(delta: Delta, put: Write) -> int:
    """Write data files and, last, the card; returns how many files."""
    done = 0
    for table in _tables(delta.snapshot):
        files = delta.snapshot[table]["files"]
        for number, file in enumerate(files):
            data = storage.read(storage.join(delta.output, file["path"]), file["bytes"])
            put(f"data/{table}-{number:05d}-of-{len(files):05d}.parquet", data)
            done += 1
    put("README.md", card(delta.snapshot).encode())
    return done + 1


def card(snapshot: Mapping[str, Any]) -> str:
    """README.md: the metadata that the hub and `datasets` read, and words for people."""
    dataset = caption_text(snapshot["dataset"])
    return CARD.format(
        license=LICENSE,
        metadata=_metadata(snapshot).to_yaml(),
        title=f"Captions of {_escaped(dataset)}",
        captions=snapshot["captions"]["rows"],
        assets=snapshot["assets"],
        dataset=dataset.replace("`", "'"),
        run_id=snapshot["run_id"],
        published_at=snapshot["published_at"],
        recipes=", ".join(f"`{recipe}`" for recipe in snapshot["recipe_ids"]),
        failures=FAILURES_LINE if "failures" in _tables(snapshot) else "",
        columns="\n".join(_columns()),
    )


def _metadata(snapshot: Mapping[str, Any]) -> DatasetCardData:
    tables = _tables(snapshot)
    rows = snapshot["captions"]["rows"]
    return DatasetCardData(
        pretty_name=f"Captions of {caption_text(snapshot['dataset'])}",
        task_categories=["image-to-text"],
        size_categories=[next((name for limit, name in SIZES.items() if rows < limit), "n>1B")],
        tags=["captions", "captionmill"],
        configs=[
            {
                "config_name": name,
                "default": name == "captions",
                "data_files": [{"split": "train", "path": f"data/{name}-*.parquet"}],
            }
            for name in tables
        ],
        dataset_info=[_info(name) for name in tables],
    )


def _tables(snapshot: Mapping[str, Any]) -> list[str]:
    """Those that have rows: a data set without any cannot be loaded."""
    return [name for name in TABLES if snapshot[name]["rows"]]


def _info(name: str) -> dict[str, Any]:
    features = [{"name": field.name, **_feature(field.type)} for field in TABLES[name]]
    return {"config_name": name, "features": features}


def _feature(kind: pa.DataType) -> dict[str, str]:
    """As `datasets` names types."""
    if pa.types.is_list(kind):
        return {"list": _dtype(kind.value_type)}
    return {"dtype": _dtype(kind)}


def _dtype(kind: pa.DataType) -> str:
    return {"double": "float64"}.get(str(kind), str(kind))


def _columns() -> Iterator[str]:
    for field in CAPTIONS:
        yield f"| `{field.name}` | {field.type} | {field.metadata[b'description'].decode()} |"


def _escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    return "".join(
        f"&#{ord(c)};" if not c.isalnum() and c.isascii() and c not in " -.,:/" else c for c in text
    )
