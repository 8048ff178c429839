"""A small index of known rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

faiss = pytest.importorskip("faiss", reason="extra retrieval is not installed")


def unit_rows(count: int, dims: int = 8, seed: int = 0) -> np.ndarray:
    """(count, dims) float32, of unit length."""
    rows = np.random.default_rng(seed).standard_normal((count, dims)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def entries_of(places) -> list:
    """Entries "i.png" with the caption "this is i", of three cameras in turn."""
    from vladapt.core.retrieval import Entry

    return [
        Entry(f"{i}.png", f"/data/{i}.png", {"frame": i}, (f"this is {i}",), {"camera": f"c{i % 3}"}) for i in places
    ]


def resigned(folder: Path, **changes) -> None:
    """Write other values into the head of an index, as a process that means it would."""
    from vladapt.core.retrieval.head import DIGEST, head_digest

    head = json.loads((folder / "index.json").read_text())
    head = {key: value for key, value in {**head, **changes}.items() if value is not None}
    (folder / "index.json").write_text(json.dumps({**head, DIGEST: head_digest(head)}))


@pytest.fixture
def make_index(tmp_path):
    """make_index(rows, kind="flat", name="an.index") -> its folder; entry i is "i.png" with the caption "this is i"."""
    from vladapt.core.retrieval import IndexBuilder

    def make(rows: np.ndarray, kind: str = "flat", name: str = "an.index", at_once: int = 7) -> Path:
        with IndexBuilder(tmp_path / name, dims=rows.shape[1], kind=kind) as builder:
            for start in range(0, len(rows), at_once):
                some = rows[start : start + at_once]
                builder.add(some, entries_of(range(start, start + len(some))))
            return builder.finish({"holds": "images", "backbone": {"spec": "toy", "fingerprint": "abc"}})

    return make
