"""A short name for exactly one model: its architecture, its weights and its preprocessing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..data.identity import FileHashes


def fingerprint(family: str, config: Any, weights: Any, transform: dict[str, Any]) -> str:
    """16 hex digits.

    Args:
        config: the architecture, JSON-able.
        weights: what identifies them: digests of files, or a registry's entry.
        transform: `Preprocess.spec`.
    """
    text = json.dumps([family, config, weights, transform], sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digests(paths: list[Path]) -> list[str]:
    """sha256 of each file; a file hashed once is not read again until it changes.

    Raises:
        DataError: a file cannot be read.
    """
    hashes = FileHashes()
    return [hashes.sha256(path) for path in paths]
