"""A folder, or prefix, that holds a whole export or says that it does not.

`export.json` is written last, and taken away before anything else is changed; while it is not there,
`export-unfinished.json` is. So who finds the one has all of it, and who starts the command again after an interruption
may go on in the same folder. Folders that hold anything else are left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jobs import interrupt
from pipeline import storage
from pipeline.errors import ConfigError

WHOLE, UNFINISHED = "export.json", "export-unfinished.json"


class Folder:
    """An export below `uri`: `facts` are its format, run and so on; files that match `mine` are its own."""

    def __init__(self, uri: str, facts: Mapping[str, Any], mine: str) -> None:
        self._uri, self._facts = uri, dict(facts)
        self._mine = re.compile(mine)
        self._written: list[dict[str, Any]] = []

    def begin(self, *, replace: bool) -> bool:
        """Make the folder ready; False where this very export is there already.

        Raises ConfigError where it holds another export, unless that is to be replaced, or any other file.
        """
        names = [entry.name for entry in storage.listing(self._uri)]
        if WHOLE in names and not replace:
            self._same(storage.read(storage.join(self._uri, WHOLE)))
            return False
        if names and not {WHOLE, UNFINISHED} & {*names}:
            where = storage.redact(self._uri)
            raise ConfigError([f"{where} holds other files ({names[0]!r}); name an empty folder"])
        storage.put(storage.join(self._uri, UNFINISHED), _json(self._facts))
        storage.delete(storage.join(self._uri, WHOLE))
        for name in filter(self._mine.fullmatch, names):
            storage.delete(storage.join(self._uri, name))
        return True

    def _same(self, told: bytes) -> None:
        try:
            there = json.loads(told)
            same = all(there[name] == value for name, value in self._facts.items())
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            where = storage.redact(self._uri)
            raise ConfigError([f"{where} holds another export; name another folder, or give --replace"])

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""
        interrupt.check()
        storage.put(storage.join(self._uri, name), data)
        self._written.append({"path": name, "bytes": len(data)})

    def finish(self, counts: Mapping[str, int]) -> None:
        """Say that it is all there."""
        storage.put(
            storage.join(self._uri, WHOLE), _json(self._facts | dict(counts) | {"files": self._written})
        )
        storage.delete(storage.join(self._uri, UNFINISHED))


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
