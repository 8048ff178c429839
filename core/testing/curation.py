"""Drawn pairs of image and text, for tests of curators: topics of unequal size, copies, wrong and empty captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..contracts.curator import PairTable

FILES = TemporaryDirectory()
WORDS = ["dog", "cat", "car", "tree", "house", "boat", "bird", "horse"]
WIDTH = 16
OPTIONS: dict[str, Callable[[PairTable], dict[str, Any]]] = {
    "clipcov": lambda pairs: {"classes": drawn_rows(5)},
    "metaclip": lambda pairs: {"metadata": drawn_entries(), "limit": 3},
}
"""Curator -> options without which it cannot run, such as targets; a test adds those of its own."""


def options_of_curator(name: str, pairs: PairTable) -> dict[str, Any]:
    """What a curator must be given in tests."""
    return OPTIONS.get(name, lambda pairs: {})(pairs)


def drawn_rows(count: int) -> str:
    """A file of features, of classes or of targets."""
    path = Path(FILES.name) / f"rows-{count}.npy"
    np.save(path, np.random.default_rng(count).normal(size=(count, WIDTH)).astype(np.float32))
    return str(path)


def drawn_entries() -> str:
    """A file of entries."""
    path = Path(FILES.name) / "entries.txt"
    path.write_text("\n".join([*WORDS, "photo of a cat", "number 3"]), encoding="utf-8")
    return str(path)


def drawn_pairs(
    count: int = 120, *, seed: int = 0, shuffled: bool = False, rows: np.ndarray | None = None
) -> PairTable:
    """Pairs with features of a pretended encoder, texts, sizes, languages and hashes.

    Args:
        shuffled: whether they are given in another order.
        rows: only these, counted in the order of ids.
    """
    random = np.random.default_rng(seed)
    topics = random.normal(size=(len(WORDS), WIDTH))
    topic = np.minimum(random.geometric(0.35, count) - 1, len(WORDS) - 1)
    image = topics[topic] + 0.6 * random.normal(size=(count, WIDTH))
    caption = topics[topic] + 0.6 * random.normal(size=(count, WIDTH))
    for first in range(0, count - 1, 10):  # near copies
        image[first + 1] = image[first] + 0.01 * random.normal(size=WIDTH)
    wrong = random.random(count) < 0.2
    caption[wrong] = caption[random.permutation(np.flatnonzero(wrong))]
    texts = [f"a photo of a {WORDS[each]} number {number % 7}" for number, each in enumerate(topic)]
    texts = ["" if number % 17 == 5 else text for number, text in enumerate(texts)]
    columns = {
        "text": texts,
        "image_features": image.astype(np.float16),
        "caption_features": caption.astype(np.float16),
        "width": random.integers(150, 900, count),
        "height": random.integers(150, 900, count),
        "language": ["de" if number % 9 == 4 else "en" for number in range(count)],
        "sha256": [f"{number - (number % 23 == 7):064x}" for number in range(count)],
    }
    ids = [f"id-{number:04d}" for number in range(count)]
    chosen = np.arange(count) if rows is None else rows
    if shuffled:
        chosen = random.permutation(chosen)
    held = {k: [v[i] for i in chosen] if isinstance(v, list) else v[chosen] for k, v in columns.items()}
    return PairTable.of([ids[i] for i in chosen], "drawn", **held)
