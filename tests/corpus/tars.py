"""Bad tars: cut, damaged, compressed, lying, or not tars at all; and good members in odd company."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping

import numpy as np

from tests.corpus.entries import CAPTIONED, HTML, SIDECAR, Outcome, Shard, failed, good, picture, tar

BLOCK = 512
PAIR = [*good("one", 21), *good("two", 22)]
WHOLE = tar(PAIR, tarfile.GNU_FORMAT)
BOTH: dict[str, Outcome] = {"one": CAPTIONED, "two": CAPTIONED}


def _end() -> int:
    """Where the last member's data ends, padded."""
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as archive:
        last = archive.getmembers()[-1]
    return last.offset_data + BLOCK


def _sealed(data: bytes, at: int = 0) -> bytes:
    """With the checksum of the header at `at` put right."""
    found = bytearray(data)
    found[at + 148 : at + 156] = b" " * 8
    found[at + 148 : at + 156] = b"%06o\0 " % sum(found[at : at + BLOCK])
    return bytes(found)


def _with_header(offset: int, value: bytes) -> bytes:
    """The pair, with something else in the header of its second picture."""
    at = WHOLE.index(b"two.png") + offset
    return _sealed(WHOLE[:at] + value + WHOLE[at + len(value) :], at - offset)


def _extension(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    """An extension header before the second asset."""
    header = tarfile.TarInfo("extension")
    header.type, header.size = kind, len(data) if size is None else size
    at = WHOLE.index(b"two.png")
    padded = data + bytes(-len(data) % BLOCK)
    return WHOLE[:at] + header.tobuf(tarfile.GNU_FORMAT) + padded + WHOLE[at:]


def _special() -> bytes:
    """Links, devices, a pipe and a folder under names of pictures."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as out:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            header = tarfile.TarInfo(f"a{kind.decode()}.png")
            header.type, header.linkname = kind, "/etc/passwd"
            out.addfile(header)
    return sink.getvalue()


def _of(data: bytes, code: str, **others: Outcome) -> Shard:
    return Shard(data, {**others, "": failed(code)})


def shards() -> Mapping[str, Shard]:
    """Each by its name, to which .tar is added."""
    end, huge = _end(), b"\x80" + (1 << 40).to_bytes(11, "big")
    one: dict[str, Outcome] = {"one": CAPTIONED}
    cut = failed("truncated")
    hidden = [
        (name, picture()) for name in (".hidden.png", "x/._mac.png", "__MACOSX/a.png", "README", "x/.png")
    ]
    first, second = PAIR[:2], PAIR[2:]
    return {
        "empty": _of(b"", "shard_empty"),
        "end_and_nothing_before": _of(bytes(10_240), "shard_empty"),
        "no_assets_inside": _of(tar(hidden), "shard_empty"),
        "links_and_devices": _of(_special(), "shard_empty"),
        "html_page": _of(HTML * 100, "shard_unreadable"),
        "short_html_page": _of(HTML, "shard_unreadable"),
        "random_bytes": _of(np.random.default_rng(0).bytes(5000), "shard_unreadable"),
        "gzipped": _of(gzip.compress(WHOLE), "shard_unreadable"),
        "zip_archive": _of(b"PK\x03\x04" + bytes(2000), "shard_unreadable"),
        "parquet_named_tar": _of(b"PAR1" + bytes(2000) + b"PAR1", "shard_unreadable"),
        "cut_in_a_picture": _of(
            tar([*PAIR, ("last.png", bytes(40_000))])[:-30_000], "shard_truncated", **BOTH, last=cut
        ),
        "cut_in_a_sidecar": _of(
            tar([*PAIR, ("last.json", bytes(40_000))])[:-30_000], "shard_truncated", **BOTH, last=cut
        ),
        "cut_between_members": _of(WHOLE[:end], "shard_truncated", **BOTH),
        "cut_in_a_header": _of(WHOLE[: WHOLE.index(b"two.png") + 100], "shard_truncated", **one),
        "cut_in_the_first_header": _of(WHOLE[:300], "shard_unreadable"),
        "cut_after_one_zero_block": Shard(WHOLE[: end + BLOCK], BOTH),
        "header_damaged": _of(WHOLE.replace(b"two.png", b"tw\xff.png"), "shard_unreadable", **one),
        "size_of_a_terabyte": _of(_with_header(124, huge), "shard_truncated", **one, two=cut),
        "size_below_zero": _of(_with_header(124, b"\xff" * 12), "shard_unreadable", **one),
        "size_that_is_no_number": _of(_with_header(124, b"zzzzzzzzzzz\0"), "shard_unreadable", **one),
        "size_of_one_byte": Shard(
            _with_header(124, b"00000000001\0"), {**one, "two": failed("unidentified")}
        ),
        "extension_of_a_terabyte": _of(_extension(b"x", b"", 8 << 30), "shard_unreadable", **one),
        "pax_record_without_end": _of(_extension(b"x", b"999 path=x\n"), "shard_unreadable", **one),
        "pax_size_that_is_no_number": _of(_extension(b"x", b"11 size=-1\n"), "shard_unreadable", **one),
        "pax_size_of_a_terabyte": _of(
            _extension(b"x", b"22 size=1099511627776\n"), "shard_truncated", **one, two=cut
        ),
        "two_archives_joined": _of(WHOLE + WHOLE, "shard_unreadable", **BOTH),
        "junk_behind_the_end": _of(WHOLE + HTML, "shard_unreadable", **BOTH),
        "members_interleaved": Shard(tar([first[0], second[0], first[1], second[1]]), BOTH),
        "hidden_among_good": Shard(tar([*first, *hidden, *second]), BOTH),
        "names_that_are_not_utf_8": Shard(
            tar([("caf\xe9.png", picture(23)), ("caf\xe9.json", SIDECAR)], tarfile.GNU_FORMAT),
            {"caf\\xe9": CAPTIONED},
        ),
        "all_names_the_same": Shard(
            tar([("a.png", picture(i)) for i in range(300)]), {"a": failed("duplicate_member")}
        ),
    }
