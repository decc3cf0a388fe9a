"""Storage on local files and on a real S3 interface: whole writes, exact ranges, words that help."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import s3fs

from pipeline import retry, storage
from pipeline.errors import StorageError
from pipeline.storage import MissingError, join


def test_what_was_put_is_read(root: str) -> None:
    storage.put(join(root, "a/b.bin"), b"hello")
    assert storage.read(join(root, "a/b.bin")) == b"hello"


def test_put_replaces(root: str) -> None:
    storage.put(join(root, "a"), b"old")
    storage.put(join(root, "a"), b"new")
    assert storage.read(join(root, "a")) == b"new"


def test_put_new_writes_once(root: str) -> None:
    written = [storage.put_new(join(root, "a"), data) for data in (b"first", b"second")]
    assert (written, storage.read(join(root, "a"))) == ([True, False], b"first")


def test_range_is_exact(root: str) -> None:
    storage.put(join(root, "a"), b"0123456789")
    assert storage.read_range(join(root, "a"), 3, 6) == b"345"


@pytest.mark.parametrize(("start", "stop"), [(8, 12), (20, 30)])
def test_range_beyond_the_end_is_an_error(root: str, start: int, stop: int) -> None:
    storage.put(join(root, "a"), b"0123456789")
    with pytest.raises(StorageError):
        storage.read_range(join(root, "a"), start, stop)


def test_etag_changes_with_the_content(root: str) -> None:
    storage.put(join(root, "a"), b"1")
    before = storage.info(join(root, "a")).etag
    storage.put(join(root, "a"), b"2")
    assert storage.info(join(root, "a")).etag not in ("", before)


def test_a_missing_object_is_told_apart(root: str) -> None:
    with pytest.raises(MissingError, match="cannot read"):
        storage.read(join(root, "nothing"))


def test_a_folder_is_no_object(root: str) -> None:
    storage.put(join(root, "x/a"), b"")
    assert not storage.exists(join(root, "x"))


def test_delete_removes_and_does_not_mind(root: str) -> None:
    storage.put(join(root, "a"), b"")
    storage.delete(join(root, "a"))
    storage.delete(join(root, "a"))
    assert not storage.exists(join(root, "a"))


def test_stream_reads_and_seeks(root: str) -> None:
    data = bytes(range(256)) * 100
    storage.put(join(root, "a"), data)
    with storage.open_read(join(root, "a"), read_ahead=1000) as stream:
        head = stream.read(10)
        stream.seek(20_000)
        assert (head, stream.read(3000), stream.read()) == (data[:10], data[20_000:23_000], data[23_000:])


def test_read_many_keeps_the_order_and_marks_what_is_missing(root: str) -> None:
    for i in range(50):
        storage.put(join(root, str(i)), str(i).encode())
    found = list(storage.read_many((join(root, str(i)), 2) for i in range(51)))
    assert found == [*(str(i).encode() for i in range(50)), None]


def test_a_writable_place_is_left_as_it_was(root: str) -> None:
    storage.check_writable(root)
    assert storage.listing(root) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        storage.put(str(tmp_path / "a"), b"a folder is in the way")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_files_being_written_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".a.0.captionmill-tmp").write_bytes(b"left by kill -9")
    assert storage.listing(str(tmp_path)) == []


def test_links_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert storage.listing(str(tmp_path)) == []


def test_a_name_is_never_an_address(tmp_path: Path) -> None:
    storage.put(str(tmp_path / "a.jpg::memory:"), b"mine")
    assert storage.read(str(tmp_path / "a.jpg::memory:")) == b"mine"


def test_redact_drops_user_and_signature() -> None:
    assert storage.redact("https://me:secret@host/a/b?X-Amz-Signature=1#f") == "https://host/a/b"


def test_an_unknown_scheme_says_what_to_do() -> None:
    with pytest.raises(StorageError, match="check the address"):
        storage.read("nosuch://bucket/key")


def test_a_missing_bucket_is_named(s3: str) -> None:
    with pytest.raises(MissingError, match="no-such-bucket"):
        storage.listing("s3://no-such-bucket/x")


def test_a_missing_bucket_is_not_writable(s3: str) -> None:
    with pytest.raises(MissingError, match=r"cannot write to s3://no-such-bucket/x: .*bucket"):
        storage.check_writable("s3://no-such-bucket/x")


def test_put_is_one_request(s3: str, caplog: pytest.LogCaptureFixture) -> None:
    storage.exists(join(s3, "a"))  # connects
    with caplog.at_level(logging.INFO, "werkzeug"):
        storage.put(join(s3, "a"), bytes(1 << 20))
        storage.read(join(s3, "a"), 1 << 20)
    assert [r.getMessage().split()[5] for r in caplog.records if r.name == "werkzeug"] == ['"PUT', '"GET']


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A server at AWS_ENDPOINT_URL that answers with these statuses in turn, then with the object "ok"."""
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # else nobody answers "Expect: 100-continue"

        def do_GET(self) -> None:
            status = statuses.pop(0) if statuses else 200
            body = b"ok" if status == 200 and self.command in ("GET", "HEAD") else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_DELETE = do_GET

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *args: object) -> None:
            """Nothing to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        _use(monkeypatch, server.server_port)
        yield statuses
        s3fs.S3FileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()


def _use(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()


def test_throttling_is_waited_out(answer: list[int]) -> None:
    answer += [503, 503]
    assert storage.read("s3://bucket/key") == b"ok"


def test_patience_ends(answer: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENT", retry.Patience(0.5))
    answer += [503] * 200
    with pytest.raises(StorageError, match="HTTP 503; check AWS_ENDPOINT_URL"):
        storage.read("s3://bucket/key")
    assert answer


def test_a_refusal_that_stays_is_told_soon(answer: list[int]) -> None:
    answer += [403] * 200
    with pytest.raises(StorageError, match="credentials"):
        storage.check_readable("s3://bucket/key")
    assert answer


@pytest.mark.parametrize("passing", [403, 500, 503])
def test_a_check_waits_for_a_store_that_is_busy_for_a_moment(answer: list[int], passing: int) -> None:
    answer += [passing]
    storage.check_writable("s3://bucket/prefix")
    assert passing not in answer


def test_a_conflict_without_details_is_a_conflict(answer: list[int]) -> None:
    """Ceph's 412 lacks the field by which s3fs knows AWS's."""
    answer += [412]
    assert not storage.put_new("s3://bucket/key", b"x")


def test_a_store_without_conditions_takes_a_plain_put(answer: list[int]) -> None:
    answer += [501]
    assert storage.put_new("s3://bucket/key", b"x")


@pytest.mark.parametrize("check", [storage.check_readable, storage.check_writable])
def test_a_dead_endpoint_is_noticed_soon(monkeypatch: pytest.MonkeyPatch, check: object) -> None:
    """One that refuses, and one that accepts and never answers."""
    assert callable(check)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        for port in (1, deaf.getsockname()[1]):
            _use(monkeypatch, port)
            start = time.monotonic()
            with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
                check("s3://bucket/prefix")
            assert time.monotonic() - start < 20  # two seconds; the ordinary client tries for minutes
    s3fs.S3FileSystem.clear_instance_cache()


def test_threads_share_the_client_of_s3(s3: str) -> None:
    storage.put(join(s3, "a"), b"")
    with ThreadPoolExecutor(4) as pool:
        clients = list(pool.map(lambda _: storage._filesystem(s3).s3, range(8)))
    assert all(client is clients[0] for client in clients)
