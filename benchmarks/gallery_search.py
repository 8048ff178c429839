"""Search of a gallery of a million people: how long a query takes, and how many of the exact answers it finds.

    python benchmarks/gallery_search.py --kinds flat,ivf

Rows are generated: identities whose features spread like those of image towers (the variance of the i-th direction
falls as 1 / i), with several pictures around each. Queries are further pictures of the identities. `--even` draws rows
without any structure, all directions alike: then only comparing all rows finds the nearest ones.

Each index is written and searched as by `vladapt index` and `vladapt search`, query by query, on two threads. The time
is of the search alone, including reading the entries found. CPU time, the sum over both threads, does not depend on
other work on the machine. With `--folder FOLDER` indices are kept there, and those that an earlier run with the same
rows wrote are searched again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vladapt.core.retrieval import Entry, IndexBuilder, RetrievalIndex
from vladapt.core.retrieval.head import HEAD

AT_ONCE = 50_000
TOP = 10
THREADS = 2


def drawn(count: int, dims: int, each: int, even: bool, seed: int) -> Iterator[np.ndarray]:
    """(n, D) unit rows, some at a time: `each` pictures of an identity, or directions without any structure.

    Args:
        seed: of the pictures; the identities are those of seed 0.
    """
    spread = np.ones(dims, np.float32) if even else np.arange(1, dims + 1, dtype=np.float32) ** -0.5
    for start in range(0, count, AT_ONCE):
        stop = min(start + AT_ONCE, count)
        people = np.arange(start, stop) // each
        first = int(people[0])
        pictures = np.random.default_rng([seed, 1, start])
        noise = pictures.standard_normal((stop - start, dims), dtype=np.float32)
        if even:
            rows = noise
        else:
            centres = np.stack([_identity(person, dims) for person in range(first, int(people[-1]) + 1)])
            rows = (centres[people - first] + 0.6 * noise) * spread
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _identity(person: int, dims: int) -> np.ndarray:
    return np.random.default_rng([0, 0, person]).standard_normal(dims, dtype=np.float32)


def queries_of(count: int, dims: int, each: int, people: int, even: bool) -> np.ndarray:
    """(Q, D) unit rows: one more picture of identities spread over the gallery."""
    spread = np.ones(dims, np.float32) if even else np.arange(1, dims + 1, dtype=np.float32) ** -0.5
    generator = np.random.default_rng([7, 7])
    chosen = generator.choice(max(1, people), count, replace=people < count)
    noise = generator.standard_normal((count, dims), dtype=np.float32)
    rows = noise if even else (np.stack([_identity(int(person), dims) for person in chosen]) + 0.6 * noise) * spread
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def built(folder: Path, kind: str, arguments: argparse.Namespace) -> float:
    """Write the index; returns the seconds that it took."""
    started = time.monotonic()
    with IndexBuilder(folder, dims=arguments.dims, kind=kind) as builder:
        place = 0
        for rows in drawn(arguments.rows, arguments.dims, arguments.pictures, arguments.even, seed=1):
            builder.add(rows, [Entry(f"{place + i}.png", f"/gallery/{place + i}.png") for i in range(len(rows))])
            place += len(rows)
        builder.finish({"holds": "images", "backbone": {"spec": "generated", "fingerprint": "generated"}})
    return time.monotonic() - started


def searched(folder: Path, rows: int, queries: np.ndarray) -> tuple[list[list[str]], list[float], list[float]]:
    """Ids found for each query, and the milliseconds of each: as they passed, and of all threads' work."""
    index = RetrievalIndex.open(folder)
    if len(index) != rows:
        raise SystemExit(f"{folder}: holds {len(index):,} rows, not {rows:,}; give another --folder")
    index.search(torch.from_numpy(queries[0]), TOP)  # a first one reads the file's pages
    found, times, work = [], [], []
    for query in torch.from_numpy(queries):
        started, worked = time.perf_counter(), time.process_time()
        hits = index.search(query, TOP)
        times.append(1000 * (time.perf_counter() - started))
        work.append(1000 * (time.process_time() - worked))
        found.append([hit.entry.id for hit in hits])
    return found, times, work


def recall(found: list[list[str]], exact: list[list[str]]) -> float:
    """Mean share of the exact ten that are found."""
    return statistics.mean(len(set(one) & set(other)) / len(other) for one, other in zip(found, exact, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--pictures", type=int, default=20, help="pictures per identity")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kinds", default="ivf", help="index kinds besides flat: ivf, hnsw")
    parser.add_argument("--even", action="store_true", help="rows without structure")
    parser.add_argument("--folder", help="where indices are kept; by default they are removed")
    arguments = parser.parse_args()
    import faiss

    faiss.omp_set_num_threads(THREADS)
    place = Path(arguments.folder or tempfile.mkdtemp())
    people = arguments.rows // arguments.pictures
    queries = queries_of(arguments.queries, arguments.dims, arguments.pictures, people, arguments.even)
    what = "rows without structure" if arguments.even else f"rows of {people:,} identities"
    print(f"{arguments.rows:,} {what}, width {arguments.dims}, {arguments.queries} queries, top {TOP}")
    print(f"{THREADS} threads, {os.cpu_count()} cores; milliseconds per query")
    print("| kind | build, s | median | 90th percentile | CPU time | recall@10 |\n|---|---:|---:|---:|---:|---:|")
    exact: list[list[str]] = []
    try:
        for kind in ("flat", *(each for each in arguments.kinds.split(",") if each and each != "flat")):
            seconds = "kept" if (place / kind / HEAD).exists() else f"{built(place / kind, kind, arguments):.0f}"
            found, times, work = searched(place / kind, arguments.rows, queries)
            exact = exact or found
            slow = statistics.quantiles(times, n=10)[-1] if len(times) > 1 else times[0]
            row = (
                seconds,
                f"{statistics.median(times):.1f}",
                f"{slow:.1f}",
                f"{statistics.median(work):.1f}",
                f"{recall(found, exact):.3f}",
            )
            print(f"| {kind} | {' | '.join(row)} |", flush=True)
            if not arguments.folder:
                shutil.rmtree(place / kind)
    finally:
        if not arguments.folder:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
