"""The decoder's child process under strace: which files and sockets does it ask the kernel for?

Run as a program, `watched.py LOG STRACE...`, this file is the sandbox's child under the command STRACE; with `serve` as
its only argument, the child itself, which can also be told to misbehave, so that a test can see that it would be seen.
"""

from __future__ import annotations

import os
import socket
import sys

from actors import sandboxed
from pipeline.types import Media

SIGN = b"captionmill opens: "  # then a path and a port
CALLS = (
    "trace=%file,socket,connect,bind,listen,fork,vfork,clone,clone3"  # nothing is sent but through a socket
)


def obey(settings: sandboxed.Settings, op: str, media: Media, parts: list[bytes]) -> sandboxed.Answer:
    """What the real child does, unless the bytes ask for a file and a connection."""
    if parts[0].startswith(SIGN):
        path, _, port = parts[0].removeprefix(SIGN).decode().rpartition(" ")
        with open(path, "rb"), socket.create_connection(("127.0.0.1", int(port))):
            pass
    return sandboxed.answer(settings, op, media, parts)


def _watch(log: str, strace: list[str]) -> None:
    """Become the child under strace. Where strace is unpacked and not installed, it changes the module path."""
    path = f"PYTHONPATH={os.environ['PYTHONPATH']}"
    options = ["-f", "-qq", "-s", "4096", "-e", CALLS, "-o", log, "-E", path]
    os.execvp(strace[0], [*strace, *options, sys.executable, __file__, "serve"])


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        sandboxed.serve(obey)
    else:
        _watch(sys.argv[1], sys.argv[2:])
