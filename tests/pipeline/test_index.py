"""What the index says of shards, good and bad."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data.extensions import ArrowPythonObjectType

from pipeline import folders, naming, schema, storage
from pipeline.config import InputConfig
from pipeline.draft import Probe
from pipeline.errors import MediaError, StorageError
from pipeline.index import asset_id, digest, index_uri, read_index, scan
from pipeline.types import Asset, Clip, Code, Media, Member, Problem, Shard, ShardFormat, Size, Stage
from tests.pipeline.conftest import WriteTar, picture, shard, tar_bytes

JPG = picture()
MP4 = b"\0\0\0\x18ftypisom" + bytes(100)

Scan = Callable[[Shard], list[Asset]]
WriteTable = Callable[..., Shard]


@pytest.fixture(name="scan")
def scan_all(config: InputConfig, probe: Probe) -> Scan:
    """All rows of a shard under default settings."""
    return lambda shard: list(scan(shard, config, probe))


def code(asset: Asset) -> Code | None:
    """The problem's code."""
    return asset.facts.code if isinstance(asset.facts, Problem) else None


def codes(assets: list[Asset]) -> list[tuple[str, Code | None]]:
    """Key and problem of each row."""
    return [(asset.key, code(asset)) for asset in assets]


# Tar shards


def test_an_image_with_its_sidecars(write_tar: WriteTar, scan: Scan) -> None:
    data = picture(8, 6)
    tar = write_tar([("a/b.jpg", data), ("a/b.json", b'{"title": "x", "n": 1}'), ("a/b.txt", b"words\n")])
    [asset] = scan(tar)
    assert asset == Asset(
        asset_id=asset_id("test", "000.tar", "a/b"),
        key="a/b",
        media=Media.IMAGE,
        members=(Member("a/b.jpg", 512, len(data)),),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        text={"title": "x", "n": "1", "txt": "words"},
        facts=(Size(8, 6),),
    )


def test_a_video(write_tar: WriteTar, scan: Scan) -> None:
    [asset] = scan(write_tar([("a.mp4", MP4)]))
    assert (asset.media, asset.facts) == (Media.VIDEO, Clip(Size(320, 240), 2.0, 50))


def test_several_images_under_one_key_stay_in_member_order(write_tar: WriteTar, scan: Scan) -> None:
    parts = picture(8, 6), picture(4, 2)
    [asset] = scan(write_tar([("a.right.jpg", parts[0]), ("a.left.jpg", parts[1])]))
    assert (asset.media, asset.facts) == (Media.IMAGES, (Size(8, 6), Size(4, 2)))
    assert asset.sha256 == digest(parts)
    assert asset.sha256 == hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts)).hexdigest()


def test_interleaved_members_form_one_asset(write_tar: WriteTar, scan: Scan) -> None:
    assets = scan(write_tar([("b.jpg", JPG), ("a.jpg", JPG), ("b.txt", b"b"), ("a.txt", b"a")]))
    assert [(a.key, dict(a.text)) for a in assets] == [("b", {"txt": "b"}), ("a", {"txt": "a"})]


def test_what_is_no_asset(write_tar: WriteTar, scan: Scan) -> None:
    names = [".hidden.jpg", "x/._a.jpg", "__MACOSX/a.jpg", "README", "x/.jpg", "a.jpg"]
    assert [a.key for a in scan(write_tar([(name, JPG) for name in names]))] == ["a"]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("a.txt", b"x"), ("a.cls", b"1")], Code.NO_MEDIA),
        ([("a.jpg", JPG), ("a.mp4", MP4)], Code.MIXED_MEDIA),
        ([("a.1.mp4", MP4), ("a.2.mp4", MP4)], Code.MIXED_MEDIA),
        ([("a.jpg", JPG), ("a.jpg", JPG)], Code.DUPLICATE_MEMBER),
        ([("a.jpg", JPG), ("a.JPG", JPG)], Code.DUPLICATE_MEMBER),
        ([("a.jpg", b"")], Code.EMPTY),
        ([("a.jpg", b"<html>")], Code.UNIDENTIFIED),
        ([("a.heic", b"nothing")], Code.UNIDENTIFIED),
        ([("a.1.jpg", JPG), ("a.2.jpg", b"<html>")], Code.UNIDENTIFIED),
    ],
)
def test_a_bad_asset_is_one_row(
    write_tar: WriteTar, scan: Scan, members: list[tuple[str, bytes]], expected: Code
) -> None:
    assert codes(scan(write_tar([*members, ("good.jpg", JPG)]))) == [("a", expected), ("good", None)]


def test_an_unreadable_image_keeps_its_digest(write_tar: WriteTar, scan: Scan) -> None:
    [asset] = scan(write_tar([("a.jpg", b"<html>")]))
    assert asset.sha256 == hashlib.sha256(b"<html>").hexdigest()


def test_media_that_are_too_large_are_not_read(
    write_tar: WriteTar, config: InputConfig, probe: Probe
) -> None:
    [asset] = scan(write_tar([("a.jpg", JPG)]), replace(config, max_member_bytes=100), probe)
    assert (code(asset), asset.sha256, asset.bytes) == (Code.TOO_LARGE, "", len(JPG))


def test_a_truncated_tar_keeps_what_is_whole(tmp_path: Path, scan: Scan) -> None:
    whole = tar_bytes([("a.jpg", JPG), ("b.jpg", JPG), ("c.jpg", JPG)])
    (tmp_path / "x.tar").write_bytes(whole[: whole.index(b"c.jpg") + 600])
    assets = scan(shard(tmp_path / "x.tar"))
    expected = [("a", None), ("b", None), ("c", Code.TRUNCATED), ("", Code.SHARD_TRUNCATED)]
    assert codes(assets) == expected
    assert assets[2].media is Media.IMAGE


def test_images_of_which_one_is_cut_are_not_captioned_without_it(tmp_path: Path, scan: Scan) -> None:
    whole = tar_bytes([("a.1.jpg", JPG), ("a.2.jpg", JPG)])
    (tmp_path / "x.tar").write_bytes(whole[: whole.index(b"a.2.jpg") + 600])
    assets = scan(shard(tmp_path / "x.tar"))
    assert (code(assets[0]), assets[0].sha256) == (Code.TRUNCATED, "")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Code.SHARD_EMPTY),
        (tar_bytes([]), Code.SHARD_EMPTY),
        (b"<html>" * 1000, Code.SHARD_UNREADABLE),
    ],
)
@pytest.mark.parametrize("form", [ShardFormat.TAR, ShardFormat.PARQUET])
def test_a_bad_shard_is_one_row(
    tmp_path: Path, scan: Scan, data: bytes, expected: Code, form: ShardFormat
) -> None:
    (tmp_path / "x").write_bytes(data)
    [asset] = scan(shard(tmp_path / "x", form))
    assert (asset.key, asset.media, asset.members) == ("", None, ())
    assert code(asset) is (Code.SHARD_UNREADABLE if data and form is ShardFormat.PARQUET else expected)


@pytest.mark.parametrize("form", [ShardFormat.TAR, ShardFormat.PARQUET])
def test_a_missing_shard_stops_the_run(tmp_path: Path, scan: Scan, form: ShardFormat) -> None:
    with pytest.raises(storage.MissingError):
        scan(Shard(str(tmp_path / "x"), "x", "etag", 100, form))


def test_a_shard_that_changed_since_the_listing_stops_the_run(write_tar: WriteTar, scan: Scan) -> None:
    with pytest.raises(StorageError, match="changed"):
        scan(replace(write_tar([("a.jpg", JPG)]), etag="another"))


# Names and text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", ("a", "jpg")),
        ("v1.0/a.final.JPG", ("v1.0/a", "final.jpg")),
        ("../../etc/passwd.jpg", ("../../etc/passwd", "jpg")),
        ("./a.jpg", ("./a", "jpg")),
        ("dir/.jpg", None),
        ("a.", None),
    ],
)
def test_keys_are_those_of_webdataset(name: str, expected: tuple[str, str] | None) -> None:
    assert naming.split(name) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"s": "x", "i": 7, "f": 0.5, "b": true, "n": null, "l": [1], "o": {}}', ["x", "7", "0.5", "true"]),
        (b"\xef\xbb\xbf" + b'{"s": "bom"}', ["bom"]),
        (b'{"s": "\\ud800"}', ["\\ud800"]),
        (b'["no object"]', []),
        (b"no json", []),
        (b"\xff\xff", []),
        (b"[" * 60_000, []),
        (b'{"i": 1' + b"0" * 5000 + b"}", []),
    ],
)
def test_sidecar_fields_are_scalars_as_text(data: bytes, expected: list[str]) -> None:
    assert list(naming.sidecar("json", data).values()) == expected


def test_large_sidecars_are_left_alone(write_tar: WriteTar, scan: Scan) -> None:
    [asset] = scan(write_tar([("a.jpg", JPG), ("a.txt", bytes(naming.MAX_TEXT + 1))]))
    assert asset.text == {}


def test_names_that_are_not_utf8_survive_arrow(tmp_path: Path, scan: Scan) -> None:
    (tmp_path / "x.tar").write_bytes(
        tar_bytes([("caf\xe9.jpg", JPG)]).replace(b"caf\xc3\xa9", b"caf\xe9\xe9")
    )
    data = (tmp_path / "x.tar").read_bytes()
    assert b"caf\xe9\xe9" in data
    assert schema.table_to_assets(schema.assets_to_table(scan(shard(tmp_path / "x.tar"))))


def test_identities_do_not_run_together() -> None:
    ids = {
        asset_id(*parts)
        for parts in (("a", "b", "c"), ("ab", "", "c"), ("a", "b\0c", ""), ("a", "b", "\\0c"))
    }
    assert len(ids) == 4
    assert asset_id("a", "b", "c") == hashlib.blake2b(b"a\0b\0c", digest_size=16).hexdigest()


# Parquet shards


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    """Writes columns as a Parquet shard."""

    def write(columns: dict[str, Any] | pa.Table, **options: Any) -> Shard:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, tmp_path / "x.parquet", **options)
        return shard(tmp_path / "x.parquet", ShardFormat.PARQUET)

    return write


def test_rows_are_assets(write_table: WriteTable, scan: Scan) -> None:
    assets = scan(
        write_table({"image": [JPG, picture(4, 2)], "title": ["x", None], "n": [1, 2], "l": [[1], []]})
    )
    assert [(a.key, a.facts, dict(a.text)) for a in assets] == [
        ("0", (Size(8, 6),), {"title": "x", "n": "1"}),
        ("1", (Size(4, 2),), {"n": "2"}),
    ]
    assert assets[1].members == (Member("image", 1, len(picture(4, 2))),)
    assert assets[0].sha256 == hashlib.sha256(JPG).hexdigest()


def test_structs_of_bytes_and_path_as_hugging_face_writes_them(write_table: WriteTable, scan: Scan) -> None:
    cells = [
        {"bytes": JPG, "path": "a.jpg"},
        {"bytes": MP4, "path": "b.mp4"},
        {"bytes": None, "path": "/etc/passwd"},
    ]
    assets = scan(write_table({"image": [*cells, None]}))
    assert [(a.media, code(a)) for a in assets] == [
        (Media.IMAGE, None),
        (Media.VIDEO, None),
        (Media.IMAGE, Code.EMPTY),
        (Media.IMAGE, Code.EMPTY),
    ]


def test_videos_without_a_name_are_known_by_their_first_bytes(write_table: WriteTable, scan: Scan) -> None:
    assert [a.media for a in scan(write_table({"image": [MP4, JPG]}))] == [Media.VIDEO, Media.IMAGE]


def test_the_key_column_gives_the_key(write_table: WriteTable, config: InputConfig, probe: Probe) -> None:
    table = write_table({"image": [JPG] * 7, "id": ["a", "b", None, "a", "", "a", "c"]})
    assets = list(scan(table, replace(config, key_column="id"), probe))
    assert codes(assets) == [
        ("a", Code.DUPLICATE_KEY),
        ("b", None),
        ("row:2", Code.BAD_KEY),
        ("row:4", Code.BAD_KEY),
        ("c", None),
    ]


def test_many_row_groups_are_one_shard(write_table: WriteTable, scan: Scan) -> None:
    assets = scan(write_table({"image": [picture(i + 1, 1) for i in range(50)]}, row_group_size=7))
    assert [a.facts for a in assets] == [(Size(i + 1, 1),) for i in range(50)]


@pytest.mark.parametrize("columns", [{"picture": [JPG]}, {"image": ["text"]}, {"image": [{"path": "a.jpg"}]}])
def test_a_missing_image_column_is_one_row(
    write_table: WriteTable, scan: Scan, columns: dict[str, Any]
) -> None:
    assert codes(scan(write_table(columns))) == [("", Code.MISSING_COLUMN)]


def test_a_missing_key_column_is_one_row(write_table: WriteTable, config: InputConfig, probe: Probe) -> None:
    assets = list(scan(write_table({"image": [JPG]}), replace(config, key_column="id"), probe))
    assert codes(assets) == [("", Code.MISSING_COLUMN)]


def test_pickled_columns_are_never_read(write_table: WriteTable, config: InputConfig, probe: Probe) -> None:
    """Neither as the image, nor as the key, nor as text."""
    evil = pa.ExtensionArray.from_storage(
        ArrowPythonObjectType(), pa.array([b"cos\nsystem\n"], pa.large_binary())
    )
    table = write_table(pa.table({"image": [JPG], "evil": evil}))
    [kept] = scan(table, config, probe)
    assert (code(kept), kept.text) == (None, {})
    for changed in (replace(config, image_column="evil"), replace(config, key_column="evil")):
        assert codes(list(scan(table, changed, probe))) == [("", Code.SHARD_UNREADABLE)]


def test_a_damaged_page_ends_the_shard_with_a_row(write_table: WriteTable, scan: Scan) -> None:
    table = write_table({"image": [picture(100, 100, "BMP", i) for i in range(64)]}, row_group_size=16)
    path = Path(table.uri)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = b"\xff" * 4000
    path.write_bytes(data)
    assets = scan(shard(path, ShardFormat.PARQUET))
    assert codes(assets)[-1] == ("", Code.SHARD_UNREADABLE)
    assert 16 <= len(assets) - 1 < 64


def test_strings_that_are_not_utf8_become_escapes(write_table: WriteTable, scan: Scan) -> None:
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
    [asset] = scan(write_table(pa.table({"image": [JPG], "title": text})))
    assert asset.text == {"title": r"caf\xe9"}


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an image, a video, sidecars, and what is nothing of these."""
    files = {
        "a.jpg": JPG,
        "a.json": b'{"t": 1}',
        "sub/b.v2.mp4": MP4,
        "sub/b.v2.txt": b"words",
        ".c.jpg": JPG,
    }
    for name, data in {**files, "d.html": b"", "e.png": b"<html>"}.items():
        storage.put(str(tmp_path / "in" / name), data)
    (tmp_path / "in" / "link.jpg").symlink_to("a.jpg")
    return tmp_path / "in"


def listed(folder: Path) -> Shard:
    """The folder as a listed shard."""
    return Shard(str(folder), "in", folders.etag(storage.listing(str(folder))), 1, ShardFormat.FOLDER)


def test_files_are_assets_with_the_sidecars_beside_them(folder: Path, scan: Scan) -> None:
    assets = scan(listed(folder))
    assert [(a.key, code(a), dict(a.text)) for a in assets] == [
        ("a.jpg", None, {"t": "1"}),
        ("e.png", Code.UNIDENTIFIED, {}),
        ("sub/b.v2.mp4", None, {"txt": "words"}),
    ]
    assert assets[0].members == (Member("a.jpg", 0, len(JPG)),)


def test_large_files_are_not_read(folder: Path, config: InputConfig, probe: Probe) -> None:
    assets = list(scan(listed(folder), replace(config, max_member_bytes=200), probe))
    assert codes(assets)[0] == ("a.jpg", Code.TOO_LARGE)


def test_a_file_name_that_is_not_utf8_is_a_row(folder: Path, scan: Scan) -> None:
    (folder / "z\udcff.jpg").write_bytes(JPG)
    assert codes(scan(listed(folder)))[-1] == (r"z\udcff.jpg", Code.BAD_KEY)


def test_a_folder_that_changed_since_the_listing_stops_the_run(folder: Path, scan: Scan) -> None:
    before = listed(folder)
    (folder / "new.jpg").write_bytes(JPG)
    with pytest.raises(StorageError, match="changed"):
        scan(before)


# The index object


def test_index_rows_are_read_by_range(tmp_path: Path) -> None:
    problem = Problem(Stage.INDEX, Code.EMPTY, "")
    assets = [Asset(str(i), str(i), Media.IMAGE, (), "", 0, {}, problem) for i in range(100)]
    pq.write_table(schema.assets_to_table(assets), tmp_path / "i.parquet", row_group_size=16)
    for first, count in ((0, 1), (10, 30), (96, 4), (0, 100)):
        assert read_index(str(tmp_path / "i.parquet"), first, count) == assets[first : first + count]


def test_the_index_moves_with_what_it_depends_on(config: InputConfig) -> None:
    base = Shard("s3://b/x.tar", "a/x.tar", "etag", 1, ShardFormat.TAR)
    uris = {
        index_uri("out", base, config),
        index_uri("out", replace(base, etag="other"), config),
        index_uri("out", replace(base, path="a-x.tar"), config),
        index_uri("out", base, replace(config, dataset="other")),
        index_uri("out", base, replace(config, max_member_bytes=1)),
        index_uri("out", base, config, "pixels=1"),
    }
    assert len(uris) == 6
    assert index_uri("out", replace(base, uri="s3://c/x.tar"), replace(config, uris=("b",))) in uris


def test_shard_names_make_safe_paths(config: InputConfig) -> None:
    evil = Shard("s3://b/x", "../../etc/passwd\0 *?.tar", "e/../tag", 1, ShardFormat.TAR)
    name = index_uri("out", evil, config).removeprefix("out/index/")
    assert "/" not in name
    assert name.startswith("etc-passwd-.tar-")


def test_probe_errors_are_rows_of_the_index_stage(write_tar: WriteTar, config: InputConfig) -> None:
    def crash(media: Sequence[tuple[Media, bytes]]) -> list[MediaError]:
        return [MediaError(Code.DECODER_CRASHED, "killed")] * len(media)

    [asset] = scan(write_tar([("a.jpg", JPG)]), config, crash)
    assert asset.facts == Problem(Stage.INDEX, Code.DECODER_CRASHED, "killed")


def test_pictures_are_looked_at_together_and_facts_are_their_own(
    write_tar: WriteTar, config: InputConfig
) -> None:
    asked = list[int]()

    def lengths(media: Sequence[tuple[Media, bytes]]) -> list[Size]:
        asked.append(len(media))
        return [Size(len(data), 1) for _, data in media]

    assets = list(scan(write_tar([(f"{i}.jpg", bytes(1 + i)) for i in range(200)]), config, lengths))

    assert [asset.facts for asset in assets] == [(Size(1 + i, 1),) for i in range(200)]
    assert sum(asked) == 200
    assert len(asked) < 10


def test_the_first_problem_of_a_key_is_told_though_it_is_found_last(write_tar: WriteTar, scan: Scan) -> None:
    assert codes(scan(write_tar([("a.jpg", b"no picture"), ("a.jpg", JPG)]))) == [("a", Code.UNIDENTIFIED)]


def test_text_is_json_safe(write_tar: WriteTar, scan: Scan) -> None:
    [asset] = scan(write_tar([("a.jpg", JPG), ("a.json", json.dumps({"k": "\ud83d"}).encode())]))
    sink = io.BytesIO()
    pq.write_table(schema.assets_to_table([asset]), sink)
    assert schema.table_to_assets(pq.read_table(sink))[0].text == {"k": "\\ud83d"}
