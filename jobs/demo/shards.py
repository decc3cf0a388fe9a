"""Sample shards of held-out scenes: tars of pictures, of picture sets and of clips, and one Parquet table.

The same arguments give the same bytes under one version of Pillow, PyAV and pyarrow.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.demo.scenes import HELD_OUT_SEEDS, Kind, Scene, scene

SEED = HELD_OUT_SEEDS.start + 1_000_000  # clear of the seeds the held-out accuracy is measured on
# Every sixth picture is stored turned, with the EXIF orientation that turns it back; 5 is a mirrored one.
TURNED = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
    5: Image.Transpose.TRANSPOSE,
}
ORIENTATION = 0x0112
# x264's assembly gave other bytes for 7 clips of 24 a second time, on one thread; its C code the same.
X264 = {"crf": "8", "preset": "medium", "x264-params": "asm=0"}

Truth = dict[str, dict[str, str]]
Member = tuple[str, bytes]


def write_shards(folder: Path, per_kind: int, seed0: int = SEED) -> Truth:
    """Write folder/shards/: images-0.tar, images-1.tar, several-0.tar, clips-0.tar, table-0.parquet.

    `per_kind` single pictures, picture sets and clips go into the tars, half as many pictures into the table.
    Returns what folder/truth.json holds: for each key "kind" and the caption of each prompt id. No two shards
    share a key.
    """
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    scenes = {f"picture-{i:04d}": scene("image", seed0 + i) for i in range(per_kind)}
    several, clips = _named("set", "images", per_kind, seed0), _named("clip", "video", per_kind, seed0)
    table = _named("row", "image", per_kind // 2, seed0 + per_kind)
    half = -(-per_kind // 2)
    members = list(_pictures(scenes))
    write_tar(shards / "images-0.tar", members[:half])
    write_tar(shards / "images-1.tar", members[half:])
    write_tar(shards / "several-0.tar", _sets(several))
    write_tar(shards / "clips-0.tar", ((f"{key}.mp4", mp4(one.pictures)) for key, one in clips.items()))
    _table(shards / "table-0.parquet", table)
    everything = scenes | several | clips | table
    truth = {key: {"kind": one.kind, **one.truth} for key, one in everything.items()}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return truth


def _named(stem: str, kind: Kind, count: int, seed0: int) -> dict[str, Scene]:
    return {f"{stem}-{i:04d}": scene(kind, seed0 + i) for i in range(count)}


def _pictures(scenes: dict[str, Scene]) -> Iterator[Member]:
    """PNG and JPEG by turns; every sixth picture is a JPEG stored turned, each orientation in its turn."""
    for i, (key, one) in enumerate(scenes.items()):
        if i % 6 == 5:
            yield f"{key}.jpg", jpeg(one.pictures[0], list(TURNED)[i // 6 % len(TURNED)])
        elif i % 2:
            yield f"{key}.jpg", jpeg(one.pictures[0])
        else:
            yield f"{key}.png", png(one.pictures[0])


def _sets(scenes: dict[str, Scene]) -> Iterator[Member]:
    """key.0.png, key.1.png, …: the key ends at the first dot, and the members' order is the pictures'."""
    for key, one in scenes.items():
        for i, picture in enumerate(one.pictures):
            yield f"{key}.{i}.png", png(picture)


def png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as PNG."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def jpeg(picture: np.ndarray, orientation: int = 1) -> bytes:
    """(H, W, 3) uint8 as JPEG 95, no chroma subsampling, stored so that its EXIF orientation rights it."""
    image, exif = Image.fromarray(picture), Image.Exif()
    if orientation != 1:
        image = image.transpose(TURNED[orientation])
        exif[ORIENTATION] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, subsampling=0, exif=exif)
    return out.getvalue()


def mp4(frames: Iterable[np.ndarray]) -> bytes:
    """(H, W, 3) uint8 frames of even sides as H.264, one every quarter of a second."""
    out, pictures = io.BytesIO(), list(frames)
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=4, options=X264)
        stream.thread_count = 1
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 4)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


def write_tar(path: Path, members: Iterable[Member]) -> None:
    """A tar of these members, in order."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _table(path: Path, scenes: dict[str, Scene]) -> None:
    """Columns key, title and image {bytes, path}, as the hub's image tables have it; ten rows a row group."""
    images = [{"bytes": png(one.pictures[0]), "path": f"{key}.png"} for key, one in scenes.items()]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    titles = [f"shape study no. {i}" for i in range(1, len(scenes) + 1)]
    columns = {"key": list(scenes), "title": titles, "image": pa.array(images, kind)}
    pq.write_table(pa.table(columns), path, row_group_size=10)
