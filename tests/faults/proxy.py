"""A proxy in front of an S3 server that injects faults: what a store does on a bad day, by kind and by schedule.

What fails is decided by a function of the request (`Schedule` is the seeded one), so that a test may as well write
its own script. What is not to fail goes through unchanged, the Host header included: clients sign it.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Headers = list[tuple[str, str]]

ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "list_500": (500, "InternalError"),
    "400": (400, "RequestTimeout"),  # what S3 says when it stopped waiting for a body
}
READS = ("reset_in_body", "reset_after_body", "cut_off", "shortened", "slow")  # need an answer with a body
LISTS = ("list_500", "list_misses", "list_shows_removed")
WRITES = ("400", "reset_in_upload", "lost_put")
KINDS = ("500", "503", "403", "reset_before", *READS, *LISTS, *WRITES)
Conditions = Literal["kept", "unknown", "ignored"]  # what a store makes of If-None-Match
REFUSED = "refused_condition"  # not a fault: the store does not know If-None-Match and says so
HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}
DRIPS, DRIP_S = 8, 0.06
CONTENTS = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
KEY = re.compile(rb"<Key>(.*?)</Key>")


@dataclass(frozen=True, slots=True)
class Call:
    """A request as a schedule sees it. `key` is bucket and key, of a LIST bucket and prefix; `nth` counts from 0."""

    method: str
    key: str
    is_list: bool
    range: str
    nth: int

    def suits(self, kind: str) -> bool:
        """Whether this kind of fault can befall the request."""
        if kind in WRITES:
            return self.method == "PUT"
        if kind in LISTS:
            return self.is_list
        return self.method == "GET" if kind in READS else True


Fault = Callable[[Call], str]  # the kind, or "" for none


@dataclass(frozen=True, slots=True)
class Schedule:
    """These kinds, each request one of them with probability `rate`, but at most `limit` times the same request.

    What happens to the nth request for a key depends on the seed alone, in whatever order threads ask.
    """

    kinds: Sequence[str]
    rate: float
    seed: int
    limit: int = 2  # fewer than the tries a client has

    def __call__(self, call: Call) -> str:
        """The fault for a request."""
        name = call.key.split("/", 2)[-1]  # without the bucket and a test's own folder in it
        dice = random.Random(f"{self.seed} {call.method} {name} {call.range} {call.nth}")
        suitable = [kind for kind in self.kinds if call.suits(kind)]
        if not suitable or call.nth >= self.limit or dice.random() >= self.rate:
            return ""
        return dice.choice(suitable)


def nothing(call: Call) -> str:
    """The schedule of a good day."""
    return ""


class Proxy:
    """Listens on a port of 127.0.0.1 while entered (`serving`). `fault` may be set anew at any time.

    `injected` counts faults by kind, `seen` all requests. Where conditions are unknown, a PUT with If-None-Match is
    answered with 501 Not Implemented; where they are ignored, it arrives without. Errors quote the request in full, as
    some gateways do, signature and session token included.
    """

    def __init__(self, port: int = 0) -> None:
        self.upstream = ""
        self.fault: Fault = nothing
        self.conditions: Conditions = "kept"
        self.injected: Counter[str] = Counter()
        self.seen = 0
        self._nth: Counter[tuple[str, str, str]] = Counter()
        self._listed: dict[str, dict[bytes, bytes]] = {}
        self._lock = threading.Lock()
        self._port = port

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._port}"

    def forward_to(self, url: str, conditions: Conditions = "kept") -> None:
        """The server behind from now on, and what it makes of conditional writes."""
        self.upstream, self.conditions = urlsplit(url).netloc, conditions

    def schedule(self, fault: Fault) -> None:
        """A new schedule; all counts begin again."""
        with self._lock:
            self.fault, self.seen = fault, 0
            self.injected.clear()
            self._nth.clear()

    @contextmanager
    def serving(self) -> Iterator[Proxy]:
        """Answer requests until the block ends; then connections are refused. May be entered again."""
        with _Server(("127.0.0.1", self._port), _handler(self)) as server:
            self._port = server.server_port
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def decide(self, method: str, target: str, headers: Message) -> tuple[str, Call]:
        """What happens to a request, counted."""
        parts, query = urlsplit(target), parse_qs(urlsplit(target).query)
        is_list = method == "GET" and "list-type" in query
        key = parts.path.strip("/") + ("/" + query.get("prefix", [""])[0] if is_list else "")
        name = (method, key, headers.get("Range", ""))
        with self._lock:
            call = Call(method, key, is_list, name[2], self._nth[name])
            self._nth[name] += 1
            self.seen += 1
            if self.conditions == "unknown" and method == "PUT" and "If-None-Match" in headers:
                return REFUSED, call
            kind = self.fault(call)
            self.injected.update([kind] if kind else [])
        return kind, call

    def stale(self, kind: str, call: Call, body: bytes) -> bytes:
        """An answer to a LIST as it should not be: without its newest keys, or with keys that are gone."""
        if not call.is_list:
            return body
        now = {key[1]: found[0] for found in CONTENTS.finditer(body) if (key := KEY.search(found[0]))}
        with self._lock:
            before = self._listed.setdefault(call.key, {})
            gone = [entry for key, entry in before.items() if key not in now]
            before |= now
        if kind == "list_misses":
            for entry in list(now.values())[::2]:
                body = body.replace(entry, b"")
        if kind == "list_shows_removed":
            body = body.replace(b"</ListBucketResult>", b"".join(gone) + b"</ListBucketResult>")
        return body


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # idle connections are the clients' to close
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are no news here."""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def _one(self) -> None:
            kind, call = proxy.decide(self.command, self.path, self.headers)
            length = int(self.headers.get("Content-Length", 0))
            if kind == "reset_in_upload":
                self.rfile.read(length // 2)
                return self._reset()
            body = self.rfile.read(length)
            if kind == "reset_before":
                return self._reset()
            if kind == REFUSED:
                return self._error(501, "NotImplemented")
            if kind in ERRORS:
                return self._error(*ERRORS[kind])
            status, headers, answer = self._forward(body)
            if kind == "lost_put":
                return self._reset()
            self._answer(kind, status, headers, proxy.stale(kind, call, answer))

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _one

        def _forward(self, body: bytes) -> tuple[int, Headers, bytes]:
            connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            dropped = HOP_BY_HOP | ({"if-none-match"} if proxy.conditions == "ignored" else set())
            for name, value in self.headers.items():
                if name.lower() not in dropped:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            answer = response.read()
            connection.close()
            kept = [(n, v) for n, v in response.getheaders() if n.lower() not in HOP_BY_HOP]
            return response.status, kept, answer

        def _answer(self, kind: str, status: int, headers: Headers, body: bytes) -> None:
            sent = body[: len(body) // 2] if kind in ("reset_in_body", "cut_off", "shortened") else body
            said = sent if kind == "shortened" else body
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            step = max(1, len(sent) // DRIPS) if kind == "slow" else max(1, len(sent))
            for at in range(0, len(sent), step):
                self.wfile.write(sent[at : at + step])
                time.sleep(DRIP_S if kind == "slow" else 0)
            self.close_connection = self.close_connection or kind == "cut_off"
            if kind in ("reset_in_body", "reset_after_body"):
                self._reset()

        def _error(self, status: int, code: str) -> None:
            request = escape(f"injected for {self.requestline}\n{self.headers}")
            words = f"<Error><Code>{code}</Code><Message>{request}</Message></Error>"
            body = b"" if self.command == "HEAD" else words.encode()
            self._answer("", status, [("Content-Type", "application/xml")], body)

        def _reset(self) -> None:
            """End the connection with RST, at once."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                os.close(self.connection.detach())

        def log_message(self, *args: object) -> None:
            """Nothing to stderr."""

    return Handler
