"""What tests of attacks share: strace, a listener on loopback, and a pickle that leaves a mark when it is read."""

from __future__ import annotations

import os
import select
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import INFRA, run


@dataclass(frozen=True, slots=True)
class Listener:
    """Sockets on one port of loopback, TCP and UDP, to which nobody should talk."""

    tcp: socket.socket
    udp: socket.socket

    @property
    def port(self) -> int:
        """The port of both."""
        return int(self.tcp.getsockname()[1])

    def heard(self) -> bool:
        """Whether anybody connected or sent something."""
        try:
            self.tcp.accept()[0].close()
        except BlockingIOError:
            return bool(select.select([self.udp], [], [], 0)[0])
        return True


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    """A listener for the tests of one file."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        tcp.setblocking(False)
        udp.setblocking(False)
        yield Listener(tcp, udp)


@pytest.fixture(scope="session")
def strace() -> list[str]:
    """The command strace: the installed one, else Debian's, unpacked to the user's cache folder."""
    if installed := shutil.which("strace"):
        return [installed]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    script, prefix = str(INFRA / "debian.sh"), str(cache / "captionmill" / "strace")
    fetched = run([script, "get", prefix, "strace"])
    if fetched.returncode:
        pytest.fail(f"This test needs strace: install it.\n{fetched.stderr}", pytrace=False)
    return [script, "run", prefix, "strace"]


class Marks:
    """A value whose pickle, when it is read, makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._path),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Where a pickle of `Marks` leaves its mark. There must be nothing in the end."""
    return tmp_path / "unpickled"
