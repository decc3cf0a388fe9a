"""Copies an output to this machine, where its store is in reach: python -m tests.elastic.fetch URI FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import storage

if __name__ == "__main__":
    uri, folder = sys.argv[1:]
    for entry in storage.listing(uri):
        path = Path(folder, entry.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read(entry.uri))
