"""A small hub on this machine: the part of the Hugging Face hub's API that downloading a model uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

LARGE = ".safetensors"  # what the hub keeps as LFS objects, whose ETag is their sha256


@dataclass(slots=True)
class Hub:
    """Repositories by name, each with the folders of its commits and its branches. `asked` has every request."""

    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    endpoint: str = ""

    def push(self, repo: str, folder: Path, branch: str = "main") -> str:
        """Make the folder's content the head of a branch. Returns the commit; the same content is the same one."""
        digest = hashlib.sha1(repo.encode())
        for path in sorted(folder.iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        commit = digest.hexdigest()
        self.commits.setdefault(repo, {})[commit] = folder
        self.branches.setdefault(repo, {})[branch] = commit
        return commit

    def about(self, repo: str, ending: str = "") -> list[str]:
        """Requests about a repository whose address ends like this."""
        return [line for line in self.asked if repo in line and line.endswith(ending)]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers at its `endpoint`."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.served.asked.append(f"{self.command} {path}")
        match path.strip("/").split("/"):
            case ["api", "models", owner, name, "revision", revision]:
                self._info(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", commit]:
                files = sorted(self.served.commits[f"{owner}/{name}"][commit].iterdir())
                self._json([_entry(file) for file in files])
            case [owner, name, "resolve", commit, file]:
                self._file(self.served.commits[f"{owner}/{name}"][commit] / file, commit)
            case _:
                self._refuse(404, "EntryNotFound", "no such address")

    def _info(self, repo: str, revision: str) -> None:
        if repo not in self.served.commits:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if repo in self.served.gated:
            return self._refuse(403, "GatedRepo", f"Access to model {repo} is restricted")
        commit = self.served.branches[repo].get(revision, revision)
        if commit not in self.served.commits[repo]:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self._json({"id": repo, "sha": commit, "siblings": []})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _file(self, path: Path, commit: str) -> None:
        body = path.read_bytes()
        self._send(200, body, {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are in `Hub.asked`."""


def _etag(path: Path) -> str:
    """The sha256 of an LFS object; for other files, as git names its blobs."""
    body = path.read_bytes()
    if path.suffix == LARGE:
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _entry(path: Path) -> dict[str, Any]:
    """A file in a listing of the tree."""
    size, etag = path.stat().st_size, _etag(path)
    entry = {"type": "file", "path": path.name, "size": size, "oid": etag[:40]}
    return entry | ({"lfs": {"oid": etag, "size": size, "pointerSize": 134}} if path.suffix == LARGE else {})
