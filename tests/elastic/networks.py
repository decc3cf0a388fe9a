"""Hosts with addresses of their own on one machine: network namespaces behind a switch, which is one more.

Nothing of this machine's own network is touched. Needs root and iproute2.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field

from tests.elastic.nodes import Host

NET = "10.77.0"  # seen by nobody outside


def lacking() -> str:
    """Why namespaces cannot be had here; "" where they can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if not shutil.which("ip"):
        return "needs the program ip (package iproute2)"
    name = f"cm{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode == 0:
        ip("netns", "del", name)
    return f"this machine makes no network namespaces: {made.stderr.strip()}" if made.returncode else ""


def ip(*words: str) -> None:
    """The program ip."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


@dataclass(slots=True)
class Network:
    """A switch, and the hosts on it by name. A context manager; nothing is left of it afterwards."""

    _stem: str = field(default_factory=lambda: f"cm{secrets.token_hex(3)}")
    _hosts: dict[str, Host] = field(default_factory=dict)

    def __enter__(self) -> Network:
        ip("netns", "add", self._stem)
        ip("-n", self._stem, "link", "add", "switch", "type", "bridge")
        ip("-n", self._stem, "link", "set", "switch", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._hosts, ""]:
            ip("netns", "del", self._space(name))

    def host(self, name: str) -> Host:
        """One more host."""
        space, port, number = self._space(name), f"p{len(self._hosts)}", len(self._hosts) + 1
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._stem)
        ip("-n", self._stem, "link", "set", port, "master", "switch", "up")
        ip("-n", space, "addr", "add", f"{NET}.{number}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        self._hosts[name] = Host(("ip", "netns", "exec", space), f"{NET}.{number}")
        return self._hosts[name]

    def cut(self, name: str) -> None:
        """Pull the host's plug: nobody reaches it, and it reaches nobody."""
        ip("-n", self._space(name), "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        """Put the plug in again."""
        ip("-n", self._space(name), "link", "set", "eth0", "up")

    def lose(self, name: str, other: str) -> None:
        """From now on, what the host sends to the other goes nowhere, without a word."""
        nobody = ["lladdr", "02:00:00:00:00:fe", "dev", "eth0", "nud", "permanent"]
        ip("-n", self._space(name), "neigh", "replace", self._hosts[other].address, *nobody)

    def find(self, name: str, other: str) -> None:
        """The host reaches the other again."""
        ip("-n", self._space(name), "neigh", "del", self._hosts[other].address, "dev", "eth0")

    def _space(self, name: str) -> str:
        return f"{self._stem}{name}"
