"""The sandbox against children that crash, hang, eat memory or lie. Run as a program, this file is such a child."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actors import sandboxed
from actors.sandbox import Sandbox, Seen
from pipeline import image
from pipeline.anyres import Geometry
from pipeline.config import ImageConfig, VideoConfig
from pipeline.errors import MediaError, RunError
from pipeline.types import Code, Media, Size

GEOMETRY = Geometry.from_checkpoint({"model_type": "llava_onevision"}, {}, None)
NEXT = Geometry.from_checkpoint({"model_type": "llava_next"}, {"size": 336, "crop_size": 336}, None)
VIDEO = VideoConfig(timeout_s=20.0)
poisoned: list[bytes] = []


def misbehave(settings: sandboxed.Settings, op: str, media: Media, parts: list[bytes]) -> sandboxed.Answer:
    """Does what the bytes say; decodes anything else."""
    match parts[0]:
        case b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"exit":
            os._exit(3)
        case b"hang":
            time.sleep(3600)
        case b"memory":
            raise MediaError(Code.CORRUPT, str(len(bytearray(settings.memory_bytes))))
        case b"poison":
            poisoned.append(parts[0])
        case b"lie":
            return {"facts": "none", "grid": None, "pts": 3, "sha256": 0}, np.zeros(3, np.uint8)
        case b"flood":
            return {}, np.zeros(GEOMETRY.tile**2 * 3 * 65, np.uint8)
        case b"environment":
            raise MediaError(Code.UNSUPPORTED, " ".join(os.environ))
        case b"write":
            return {
                "facts": [{"width": Path("/dev/shm/captionmill-test").write_bytes(b"x"), "height": 1}]
            }, sandboxed.NOTHING
        case _:
            if poisoned:
                os.kill(os.getpid(), signal.SIGSEGV)
    return sandboxed.answer(settings, op, media, [photo()] if parts[0] == b"poison" else parts)


def photo(width: int = 64, height: int = 48) -> bytes:
    sink = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(sink, "PNG")
    return sink.getvalue()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def honest() -> Iterator[Sandbox]:
    with Sandbox(ImageConfig(), VIDEO, GEOMETRY) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def hostile() -> Iterator[Sandbox]:
    with Sandbox(ImageConfig(timeout_s=2.0), VIDEO, GEOMETRY, program=(__file__,)) as sandbox:
        yield sandbox


def failure(sandbox: Sandbox, data: bytes) -> MediaError:
    with pytest.raises(MediaError) as caught:
        sandbox.view(Media.IMAGE, [data])
    return caught.value


def test_an_image_arrives_as_it_is_cut_here(honest: Sandbox) -> None:
    data = photo(700, 300)
    seen = honest.view(Media.IMAGE, [data])

    np.testing.assert_array_equal(seen.crops, GEOMETRY.crops(image.decode(data, ImageConfig())))
    assert (seen.facts, seen.grid, seen.frame_pts_s) == ((Size(700, 300),), (1, 2), ())


def test_the_digest_is_of_the_decoded_bytes(honest: Sandbox) -> None:
    one, two = photo(), photo(20, 10)
    digests = hashlib.sha256(one).digest() + hashlib.sha256(two).digest()

    assert honest.view(Media.IMAGE, [one]).sha256 == hashlib.sha256(one).hexdigest()
    assert honest.view(Media.IMAGES, [one, two]).sha256 == hashlib.sha256(digests).hexdigest()


def test_several_images_are_one_crop_each_in_order(honest: Sandbox) -> None:
    seen = honest.view(Media.IMAGES, [photo(64, 48), photo(20, 10), photo(64, 48)])

    assert seen.crops.shape == (3, 384, 384, 3)
    assert seen.facts == (Size(64, 48), Size(20, 10), Size(64, 48))
    assert (seen.crops[0] == seen.crops[2]).all()
    assert (seen.crops[0] != seen.crops[1]).any()


def test_several_images_are_each_tiled_where_the_checkpoint_does_so() -> None:
    """Twice the most crops that one image can have: the bound on the answer counts the images."""
    data = photo(700, 700)
    with Sandbox(ImageConfig(), VIDEO, NEXT) as sandbox:
        seen = sandbox.view(Media.IMAGES, [data, data])

    expected = NEXT.crops(image.decode(data, ImageConfig()))
    np.testing.assert_array_equal(seen.crops, np.concatenate([expected, expected]))
    assert (len(expected), seen.grid) == (5, (0, 0))


def test_probing_gives_the_facts(honest: Sandbox) -> None:
    assert honest.probe(Media.IMAGE, photo()) == Size(64, 48)


def test_a_media_error_keeps_its_code_and_message(honest: Sandbox) -> None:
    error = failure(honest, b"<html>404</html>")

    assert error.code is Code.UNIDENTIFIED
    assert "HTML" in error.message


@pytest.mark.parametrize(("data", "word"), [(b"crash", "SIGSEGV"), (b"exit", "exit code 3")])
def test_a_crash_costs_one_asset(hostile: Sandbox, data: bytes, word: str) -> None:
    error = failure(hostile, data)

    assert error.code is Code.DECODER_CRASHED
    assert word in error.message
    assert hostile.probe(Media.IMAGE, photo()) == Size(64, 48)


def test_a_hang_costs_its_deadline(hostile: Sandbox) -> None:
    hostile.probe(Media.IMAGE, photo())
    start = time.monotonic()
    error = failure(hostile, b"hang")

    assert error.code is Code.DECODER_TIMEOUT
    assert 1.0 <= time.monotonic() - start < 3.0
    assert hostile.probe(Media.IMAGE, photo()) == Size(64, 48)


def test_a_stopped_child_is_a_hang_too(hostile: Sandbox) -> None:
    """And a request larger than a socket's buffer cannot be sent to it."""
    before = set(children(os.getpid()))
    with Sandbox(ImageConfig(timeout_s=0.5), VIDEO) as sandbox:
        sandbox.probe(Media.IMAGE, photo())
        (pid,) = set(children(os.getpid())) - before
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(MediaError) as caught:
            sandbox.probe(Media.IMAGE, bytes(1 << 24))

    assert caught.value.code is Code.DECODER_TIMEOUT
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_that_died_unasked_is_replaced_without_blame() -> None:
    before = set(children(os.getpid()))
    with Sandbox(ImageConfig(), VIDEO) as sandbox:
        sandbox.probe(Media.IMAGE, photo())
        (pid,) = set(children(os.getpid())) - before
        os.kill(pid, signal.SIGKILL)

        assert sandbox.probe(Media.IMAGE, photo()) == Size(64, 48)


def test_an_asset_is_not_blamed_for_what_an_earlier_one_did(hostile: Sandbox) -> None:
    hostile.view(Media.IMAGE, [b"poison"])

    assert hostile.view(Media.IMAGE, [photo()]).facts == (Size(64, 48),)


def test_lack_of_memory_is_too_large(hostile: Sandbox) -> None:
    error = failure(hostile, b"memory")

    assert error.code is Code.TOO_LARGE
    assert "4096 MiB" in error.message
    assert hostile.probe(Media.IMAGE, photo()) == Size(64, 48)


def test_an_image_that_does_not_fit_into_memory_is_too_large() -> None:
    """95 million pixels are 380 MB in RGB."""
    sink = io.BytesIO()
    Image.new("1", (10_000, 9_500)).save(sink, "PNG")
    with Sandbox(ImageConfig(), VIDEO, GEOMETRY, memory_bytes=500 << 20) as sandbox:
        assert failure(sandbox, sink.getvalue()).code is Code.TOO_LARGE
        assert sandbox.view(Media.IMAGE, [photo()]).grid == (1, 1)


@pytest.mark.parametrize("data", [b"lie", b"flood"])
def test_an_answer_that_makes_no_sense_is_a_crash(hostile: Sandbox, data: bytes) -> None:
    assert failure(hostile, data).code is Code.DECODER_CRASHED


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"crash", Code.DECODER_CRASHED),
        (b"hang", Code.DECODER_TIMEOUT),
        (b"memory", Code.TOO_LARGE),
        (b"lie", Code.DECODER_CRASHED),
        (b"flood", Code.DECODER_CRASHED),
        (b"<html>", Code.UNIDENTIFIED),
    ],
)
def test_among_assets_that_are_asked_together_one_costs_itself(
    hostile: Sandbox, data: bytes, code: Code
) -> None:
    first, bad, last = hostile.views([(Media.IMAGE, [one]) for one in (photo(), data, photo(30, 20))])

    assert isinstance(bad, MediaError)
    assert bad.code is code
    assert [isinstance(one, Seen) and one.facts for one in (first, last)] == [
        (Size(64, 48),),
        (Size(30, 20),),
    ]


def test_together_crops_and_digests_are_each_assets_own(honest: Sandbox) -> None:
    photos = [photo(), photo(500, 100), photo(20, 10)]

    together = honest.views([(Media.IMAGE, [data]) for data in photos])

    for seen, data in zip(together, photos, strict=True):
        alone = honest.view(Media.IMAGE, [data])
        assert isinstance(seen, Seen)
        assert (seen.sha256, seen.facts, seen.grid) == (alone.sha256, alone.facts, alone.grid)
        np.testing.assert_array_equal(seen.crops, alone.crops)


def test_no_credentials_are_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Sandbox(ImageConfig(), VIDEO, GEOMETRY, program=(__file__,)) as sandbox:
        names = failure(sandbox, b"environment").message.split()

    assert "PYTHONPATH" in names
    assert "AWS_SECRET_ACCESS_KEY" not in names


def test_the_child_writes_no_files(hostile: Sandbox) -> None:
    with pytest.raises(MediaError) as caught:
        hostile.probe(Media.IMAGE, b"write")

    assert caught.value.code is Code.DECODER_CRASHED


def test_a_child_that_does_not_start_says_why() -> None:
    with (
        Sandbox(ImageConfig(), VIDEO, program=("-c", "raise SystemExit('no decoder here')")) as sandbox,
        pytest.raises(RunError, match="no decoder here"),
    ):
        sandbox.probe(Media.IMAGE, photo())


def test_closing_ends_the_child() -> None:
    before = set(children(os.getpid()))
    with Sandbox(ImageConfig(), VIDEO) as sandbox:
        sandbox.probe(Media.IMAGE, photo())
        assert set(children(os.getpid())) - before

    assert set(children(os.getpid())) <= before


@pytest.mark.parametrize("busy", [False, True])
def test_a_child_ends_with_its_parent(busy: bool) -> None:
    """Idle, it sees its socket close; busy, its alarm rings (5 s after its deadline, which was 4 s ago)."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from actors.sandbox import *
child = Sandbox(ImageConfig(), VideoConfig(), program=({__file__!r},))._ready()
print(open(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read(), flush=True)
if {busy}:
    wire.send(child._sock, {{"op": "probe", "assets": [["image", 1]], "timeout_s": -4.0}}, [b"hang"])
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    pid = int(parent.stdout)
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert parent.returncode == -signal.SIGKILL
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    """Whether the process runs; one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sandboxed.serve(misbehave)
