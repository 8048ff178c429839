"""Decoded frames of clips, kept in the cache: training decodes each video once, and reads its frames ever after.

A clip takes frames x height x width x 3 bytes, as numpy stores them, below `frames/` in the cache; whoever wants the
space back removes that folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Decoded

FOLDER = "frames"


def kept_frames(path: Path, decode: Mapping[str, Any], seed: int | None, draw: Callable[[], np.ndarray]) -> Decoded:
    """The frames that `draw` gives, from the cache where they are there.

    Args:
        path: the video; copies of it share their frames.
        decode: which frames.
        seed: of those drawn by chance.
        draw: decodes them.

    Raises:
        DataError: what `draw` raises. CacheError: the cache cannot be written.
    """
    from ...core.data import FileHashes
    from ...core.runtime import cache_folder, caching

    facts = [FileHashes.of_file(path), dict(decode), seed]
    shown = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)
    key = hashlib.sha256(shown.encode(errors="surrogateescape")).hexdigest()
    target = cache_folder(FOLDER) / key[:2] / f"{key}.npy"
    if (frames := _read(target)) is not None:
        return frames
    frames = draw()
    with caching(target) as handle:
        np.save(handle, frames, allow_pickle=False)
    return frames


def _read(path: Path) -> np.ndarray | None:
    """None where the file is not there, or damaged."""
    try:
        frames = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return frames if frames.ndim == 4 and frames.dtype == np.uint8 else None
