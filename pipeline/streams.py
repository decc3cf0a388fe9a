"""Reading what takes more than one request: a seekable stream over ranges, and many objects in order."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

IN_FLIGHT = 64 << 20  # bytes that `ahead` holds at most, unless one object is larger
THREADS = 16


class Ranges(io.RawIOBase):
    """`size` bytes as a raw stream; `fetch(start, stop)` returns exactly the bytes [start, stop), or raises."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size, self._at = fetch, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        data = self._fetch(self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def ahead(objects: Iterable[tuple[str, int]], fetch: Callable[[str, int], T]) -> Iterator[T]:
    """`fetch(uri, size in bytes)` of each object, in order, by 16 threads while sizes in flight stay below 64 MiB."""
    waiting: deque[tuple[int, Future[T]]] = deque()
    held = 0
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for uri, size in objects:
                while waiting and (held + size > IN_FLIGHT or len(waiting) > 2 * THREADS):
                    done, future = waiting.popleft()
                    held -= done
                    yield future.result()
                waiting.append((size, pool.submit(fetch, uri, size)))
                held += size
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun would find the store down too
