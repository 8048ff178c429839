"""Remembering what was read of a file's header for as long as the file stays as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def remember_by_file(size: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorator of `f(path, *args)`: the `size` latest results are kept, each until its file's size or time changes."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @lru_cache(maxsize=size)
        def cached(path: Path, version: tuple[int, int], *args) -> T:
            return function(path, *args)

        @wraps(function)
        def wrapped(path: Path, *args) -> T:
            stat = os.stat(path)
            return cached(Path(path), (stat.st_size, stat.st_mtime_ns), *args)

        return wrapped

    return decorate
