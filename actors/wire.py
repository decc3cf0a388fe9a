"""Messages between a sandbox and its child: a JSON header and raw bytes over a socket pair. Nothing is pickled.

A message is the length of its header in 4 bytes, big endian; the header, a JSON object whose key "sizes" lists the
lengths of the parts; and the parts, one after another.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from pipeline.types import Pixels

MAX_HEADER = 1 << 20  # bytes; 64 frame times and 1,000 sizes are some 40 KB
COPIED = (
    1 << 20
)  # bytes of a message that goes as one piece: a copy costs less than waking the other side twice

Buffer = bytes | memoryview


class WireError(Exception):
    """The other side went away or does not keep to the format."""


def send(
    sock: socket.socket,
    header: Mapping[str, Any],
    parts: Sequence[Buffer] = (),
    deadline: float | None = None,
) -> None:
    """Send one message by `deadline` (of `time.monotonic`; None: whenever). Raises TimeoutError, WireError."""
    sizes = [len(part) for part in parts]
    text = json.dumps({**header, "sizes": sizes}).encode()
    pieces = [len(text).to_bytes(4, "big"), text, *parts]
    try:
        for piece in [b"".join(pieces)] if sum(sizes) <= COPIED else pieces:
            sock.settimeout(_left(deadline))
            sock.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        raise WireError("the other side has gone") from None


def receive(
    sock: socket.socket, most: Callable[[Mapping[str, Any]], int], deadline: float | None = None
) -> tuple[dict[str, Any], list[Pixels]]:
    """One message by `deadline`: its header, and its parts as uint8 arrays of one dimension.

    `most` says, given the header, how many bytes the parts may be together. Raises TimeoutError, WireError.
    """
    length = int.from_bytes(_exactly(sock, 4, deadline).tobytes(), "big")
    if length > MAX_HEADER:
        raise WireError(f"a header of {length} bytes")
    try:
        header = json.loads(_exactly(sock, length, deadline).tobytes())
        sizes = [int(size) for size in header["sizes"]]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise WireError("a header that cannot be read") from None
    if min(sizes, default=0) < 0 or sum(sizes) > most(header):
        raise WireError(f"parts of {sizes[:8]} bytes")
    whole, ends = _exactly(sock, sum(sizes), deadline), [*accumulate(sizes)]
    return header, [whole[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _exactly(sock: socket.socket, n: int, deadline: float | None) -> Pixels:
    data = np.empty(n, np.uint8)
    view, got = data.data, 0
    while got < n:
        sock.settimeout(_left(deadline))
        try:
            count = sock.recv_into(view[got:])
        except ConnectionResetError:
            count = 0
        if count == 0:
            raise WireError("the other side has gone")
        got += count
    return data


def _left(deadline: float | None) -> float | None:
    """Seconds until `deadline`; raises TimeoutError when it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
