"""Kinds of index, by faiss: `flat` compares a query with every row and is exact; the others look at some rows only.

* hnsw: "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs"
  (Malkov and Yashunin 2016, arXiv 1603.09320), M 32, efConstruction 200, efSearch 128.
* ivf: rows in cells around k-means centres, the nearest eighth of the cells searched ("Video Google: A Text Retrieval
  Approach to Object Matching in Videos", Sivic and Zisserman 2003); 4 * sqrt(rows) cells, as faiss advises, of 39 rows
  at least.
* ivf-pq: such cells, of each row the code of its residual ("Product Quantization for Nearest Neighbor Search", Jégou,
  Douze and Schmid 2011, doi 10.1109/TPAMI.2010.57), a byte for 8 dimensions.
* ivf-sq8: such cells, a byte for each dimension of the residual.

Segments of the last two share one quantiser: the centres, and what makes codes. faiss itself: "Billion-scale similarity
search with GPUs" (Johnson et al. 2017, arXiv 1702.08734).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.nearest import faiss_library

KINDS = {
    "flat": "exact: every row is compared",
    "hnsw": "a graph of neighbours: fast for millions of rows, nearly exact, slow to build",
    "ivf": "cells around centres: quick to build, less exact",
    "ivf-pq": "cells of codes, a byte for 8 dimensions; the nearest are ranked again by their rows on disk",
    "ivf-sq8": "cells of codes, a byte for each dimension; the nearest are ranked again by their rows on disk",
}
QUANTISED = ("ivf-pq", "ivf-sq8")
WHOLE = ("hnsw", "ivf")
"""Kinds whose rows of one build stay in one segment."""
ROWS_AT_ONCE = 16384
NEIGHBOURS, EF_CONSTRUCTION, EF_SEARCH = 32, 200, 128
ROWS_A_CELL = 39
TRAINING_ROWS_A_CELL = 256
SAMPLED_ROWS_A_CELL = 64
"""Rows that the centres of a shared quantiser are trained on: faiss advises 39 at least."""
SEARCHED_SHARE = 8
"""One in so many cells is searched."""
SEARCHED_SHARE_OF_CODES = 32
FEWEST_CELLS_SEARCHED = 16
DIMS_A_BYTE = 8
CODES = 256
FEW = 10
"""Where a filter leaves less than one row in so many, a graph's rows are compared one by one."""


def built(kind: str, vectors: Path, rows: int, dims: int, graph_threads: int = 1) -> Any:
    """A faiss index of rows read from a file, a part at a time.

    Args:
        kind: a key of `KINDS`, not quantised.
        vectors: file of rows * dims little-endian float32, unit rows.
        rows, dims: its shape.
        graph_threads: that link a graph; several link neighbours in the order they happen to come.
    """
    faiss = faiss_library()
    table = np.memmap(vectors, "<f4", "r", shape=(rows, dims))
    index = {"flat": empty_flat, "hnsw": _hnsw, "ivf": _ivf}[kind](table)
    threads = faiss.omp_get_max_threads()
    if kind == "hnsw":
        faiss.omp_set_num_threads(graph_threads)
    try:
        for some in _parts(table):
            index.add(some)
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def empty_flat(table: np.ndarray) -> Any:
    """An exact index, for rows as wide as those of a table (N, D)."""
    return faiss_library().IndexFlatIP(table.shape[1])


def sampled_rows(rows: int) -> int:
    """Of how many rows a quantiser of so many is trained."""
    return min(rows, max(SAMPLED_ROWS_A_CELL * cells_of(rows), ROWS_A_CELL * CODES))


def cells_of(rows: int) -> int:
    """Of an index of so many rows."""
    return max(1, min(round(4 * rows**0.5), rows // ROWS_A_CELL))


def trained(kind: str, sample: np.ndarray, rows: int) -> Any:
    """The quantiser of an index of `rows` rows, trained on a sample (S, D) of them: a faiss index without rows."""
    faiss, dims = faiss_library(), sample.shape[1]
    cells, centres = cells_of(rows), faiss.IndexFlatIP(dims)
    if kind == "ivf-pq":
        width = next(width for width in range(min(DIMS_A_BYTE, dims), dims + 1) if dims % width == 0)
        index = faiss.IndexIVFPQ(centres, dims, cells, dims // width, 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.min_points_per_centroid, index.pq.cp.max_points_per_centroid = 1, SAMPLED_ROWS_A_CELL
        if len(sample) < CODES:
            sample = np.resize(sample, (CODES, dims))  # faiss wants a row per code
    else:
        of_bytes = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(centres, dims, cells, of_bytes, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.nprobe = min(cells, max(FEWEST_CELLS_SEARCHED, -(-cells // SEARCHED_SHARE_OF_CODES)))
    index.train(np.ascontiguousarray(sample, np.float32))
    return index


def written_codes(quantiser: Any, table: np.ndarray, path: Path) -> None:
    """Write the codes of the rows of a segment, without the centres.

    Args:
        quantiser: of `trained`; it stays without rows.
        table: (N, D) of any floating type, read a part at a time.
    """
    faiss = faiss_library()
    index, nothing = faiss.clone_index(quantiser), faiss.IndexFlatIP(quantiser.d)
    for some in _parts(table):
        index.add(some)
    centres, index.quantizer = index.quantizer, nothing
    try:
        faiss.write_index(index, str(path))
    finally:
        index.quantizer = centres


def memory_mapped(path: Path, quantiser: Any = None) -> Any:
    """The faiss index in a file, of which only what a search needs is read, when it needs it.

    Args:
        quantiser: for codes alone, the opened index that has their centres. It must live as long.

    Raises:
        RuntimeError: it is none, or has other centres.
    """
    faiss = faiss_library()
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    if quantiser is not None:
        if type(index) is not type(quantiser) or index.nlist != quantiser.nlist:
            raise RuntimeError("of another quantiser")
        index.own_fields, index.quantizer = False, quantiser.quantizer
    return index


def refining(index: Any, rows: np.ndarray) -> Any:
    """An index that searches codes, and ranks all that it finds again by the rows, where they lie in the memory.

    Args:
        index: of codes. It must live as long.
        rows: (N, D) float16, mapped.
    """
    faiss = faiss_library()
    exact = faiss.IndexScalarQuantizer(rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    content = rows.view(np.uint8).reshape(-1)
    nobody = faiss.MaybeOwnedVectorUInt8().owner
    exact.codes = faiss.MaybeOwnedVectorUInt8.create_view(faiss.swig_ptr(content), content.size, nobody)
    exact.ntotal = len(rows)
    exact.referenced_objects = [content]
    return faiss.IndexRefine(index, exact)


def cells_searched(index: Any, share: float) -> int:
    """How many cells are searched where only a share of the rows is wanted: as many rows are compared then."""
    return min(index.nlist, int(np.ceil(index.nprobe / max(share, 1 / max(index.nlist, 1)))))


def nearest(
    index: Any,
    queries: np.ndarray,
    count: int,
    bits: np.ndarray | None = None,
    share: float = 1.0,
    cells: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows (Q, count) of the nearest, by one search of faiss; -1 where an approximate kind found none.

    Args:
        queries: (Q, D) float32.
        bits: of each row, whether it is wanted, eight a byte; None for all.
        share: of the rows that are wanted.
        cells: cosines and numbers (Q, P) of the nearest centres, where segments share them.
    """
    faiss = faiss_library()
    selector = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
    if cells is not None:
        scores, rows = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
        how = faiss.SearchParametersIVF(nprobe=cells[1].shape[1], **selector)
        points = [faiss.swig_ptr(each) for each in (queries, cells[1], cells[0], scores, rows)]
        index.search_preassigned_c(len(queries), points[0], count, *points[1:], False, how)
        return scores, rows
    if hasattr(index, "hnsw"):
        if share * FEW >= 1:
            further = min(index.ntotal, int(max(EF_SEARCH, count) / share))
            return index.search(queries, count, params=faiss.SearchParametersHNSW(efSearch=further, **selector))
        index = faiss.downcast_index(index.storage)
    codes = faiss.downcast_index(index.base_index) if hasattr(index, "refine_index") else index
    if hasattr(codes, "nprobe"):
        how = faiss.SearchParametersIVF(nprobe=cells_searched(codes, share), **selector)
        if codes is not index:
            how = faiss.IndexRefineSearchParameters(k_factor=1, base_index_params=how)
        return index.search(queries, count, params=how)
    return index.search(queries, count, params=faiss.SearchParameters(**selector) if selector else None)


def rows_of(index: Any, places: np.ndarray) -> np.ndarray:
    """(n, D) rows of an index that is not quantised, as they were added."""
    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    return index.reconstruct_batch(places.astype(np.int64))


def as_type(rows: np.ndarray, kind: Any) -> np.ndarray:
    """Rows as another floating type, contiguous: by torch, which converts 16 bits many times faster than NumPy."""
    if rows.dtype == kind:
        return np.ascontiguousarray(rows)
    wanted = torch.float32 if np.dtype(kind).itemsize == 4 else torch.float16
    return torch.from_numpy(np.require(rows, requirements="CW")).to(wanted).numpy()


def _parts(table: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(table), ROWS_AT_ONCE):
        yield as_type(table[start : start + ROWS_AT_ONCE], np.float32)


def _hnsw(table: np.ndarray) -> Any:
    faiss = faiss_library()
    index = faiss.IndexHNSWFlat(table.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = EF_CONSTRUCTION, EF_SEARCH
    return index


def _ivf(table: np.ndarray) -> Any:
    faiss, (rows, dims) = faiss_library(), table.shape
    cells = cells_of(rows)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dims), dims, cells, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = -(-cells // SEARCHED_SHARE)
    index.cp.min_points_per_centroid = 1
    wanted = min(rows, TRAINING_ROWS_A_CELL * cells)
    drawn = np.sort(np.random.default_rng(0).choice(rows, wanted, replace=False))
    index.train(np.ascontiguousarray(table[drawn]))
    return index
