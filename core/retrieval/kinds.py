"""Kinds of index, by faiss: `flat` compares a query with every row and is exact; the others look at some rows only.

* hnsw: "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs"
  (Malkov and Yashunin 2016, arXiv 1603.09320), M 32, efConstruction 200, efSearch 128.
* ivf: rows in cells around k-means centres, the nearest eighth of the cells searched ("Video Google: A Text Retrieval
  Approach to Object Matching in Videos", Sivic and Zisserman 2003); 4 * sqrt(rows) cells, as faiss advises, of 39 rows
  at least.

faiss itself: "Billion-scale similarity search with GPUs" (Johnson et al. 2017, arXiv 1702.08734).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.nearest import faiss_library

KINDS = {
    "flat": "exact: every row is compared",
    "hnsw": "a graph of neighbours: fast for millions of rows, nearly exact, slow to build",
    "ivf": "cells around centres: quick to build, less exact",
}
ROWS_AT_ONCE = 16384
NEIGHBOURS, EF_CONSTRUCTION, EF_SEARCH = 32, 200, 128
ROWS_A_CELL = 39
TRAINING_ROWS_A_CELL = 256
SEARCHED_SHARE = 8
"""One in so many cells is searched."""


def built(kind: str, vectors: Path, rows: int, dims: int) -> Any:
    """A faiss index of rows read from a file, a part at a time.

    Args:
        kind: a key of `KINDS`.
        vectors: file of rows * dims little-endian float32, unit rows.
        rows, dims: its shape.
    """
    faiss = faiss_library()
    table = np.memmap(vectors, "<f4", "r", shape=(rows, dims))
    index = {"flat": _flat, "hnsw": _hnsw, "ivf": _ivf}[kind](faiss, table)
    threads = faiss.omp_get_max_threads()
    if kind == "hnsw":
        faiss.omp_set_num_threads(1)  # several threads link neighbours in the order they happen to come
    try:
        for start in range(0, rows, ROWS_AT_ONCE):
            index.add(np.ascontiguousarray(table[start : start + ROWS_AT_ONCE]))
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def look_further(index: Any, top: int) -> None:
    """Let a graph keep as many candidates as are asked for; other kinds need nothing."""
    graph = getattr(index, "hnsw", None)
    if graph is not None:
        graph.efSearch = max(EF_SEARCH, top)


def _flat(faiss, table: np.ndarray) -> Any:
    return faiss.IndexFlatIP(table.shape[1])


def _hnsw(faiss, table: np.ndarray) -> Any:
    index = faiss.IndexHNSWFlat(table.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = EF_CONSTRUCTION, EF_SEARCH
    return index


def _ivf(faiss, table: np.ndarray) -> Any:
    rows, dims = table.shape
    cells = max(1, min(round(4 * rows**0.5), rows // ROWS_A_CELL))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dims), dims, cells, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = -(-cells // SEARCHED_SHARE)
    index.cp.min_points_per_centroid = 1
    wanted = min(rows, TRAINING_ROWS_A_CELL * cells)
    drawn = np.sort(np.random.default_rng(0).choice(rows, wanted, replace=False))
    index.train(np.ascontiguousarray(table[drawn]))
    return index
