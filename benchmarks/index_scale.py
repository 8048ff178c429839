"""Indices of many rows: `ivf-pq` beside faiss alone at equal bytes, recall of image and text queries, and memory.

    python benchmarks/index_scale.py search --rows 1000000
    python benchmarks/index_scale.py flat --rows 1000000
    python benchmarks/index_scale.py memory --rows 10000000 --dims 64 --kind flat

`search` has three sets (`--sets`). `clustered`: rows around centres, where the variance of the i-th direction falls as
1 / i. `around`: rows around stored CLIP features, each between two images of the 500 COCO pairs ($VLADAPT_DATA), with
noise; text queries lie so between their captions, so that the gap between images and texts is the real one. `stored`:
these features as they are. The peer is faiss alone: the same number of cells, codes and float16 rows to rank again
(`IVF<cells>,PQ<bytes>np,Refine(SQfp16)`), trained on as many rows, asked to search as many cells and to rank as many
again. CPU seconds of this process on one thread, of both in turn, the median of `--repeats`; recall@10 counts against
all rows compared.

`flat` builds the exact index, beside faiss that only adds and writes. `memory` builds an index in segments and searches
it in a process of its own each, and tells the most memory that each took, files that are mapped not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vladapt.core.retrieval import Entry, IndexBuilder, RetrievalIndex
from vladapt.core.retrieval.index import REFINED
from vladapt.core.retrieval.kinds import SAMPLED_ROWS_A_CELL, sampled_rows

AT_ONCE = 16384
TOP, QUERIES = 10, 1000
ROWS_A_CENTRE = 50
SETS = ("clustered", "around", "stored")
HEAD = {"holds": "images", "backbone": {"spec": "generated", "fingerprint": "generated"}}
PAIRS = Path("features") / "coco500_clip" / "coco500_pairs_vitb16_fp16.npz"


def clustered(rows: int, dims: int, seed: int = 1) -> Iterator[np.ndarray]:
    """(n, D) unit rows, some at a time, around one centre per fifty rows."""
    spread, count = np.arange(1, dims + 1, dtype=np.float32) ** -0.5, max(1, rows // ROWS_A_CENTRE)
    centres = np.random.default_rng(0).standard_normal((min(count, 50_000), dims), dtype=np.float32)
    for start in range(0, rows, AT_ONCE):
        draw = np.random.default_rng([seed, start])
        size = min(AT_ONCE, rows - start)
        noise = draw.standard_normal((size, dims), dtype=np.float32)
        yield unit((centres[draw.integers(len(centres), size=size)] + 0.6 * noise) * spread)


def between(features: np.ndarray, rows: int, seed: int) -> Iterator[np.ndarray]:
    """(n, D) unit rows, some at a time: each between two of some features, with noise."""
    for start in range(0, rows, AT_ONCE):
        draw = np.random.default_rng([seed, start])
        size = min(AT_ONCE, rows - start)
        one, other = features[draw.integers(len(features), size=(2, size))]
        share = draw.random((size, 1), dtype=np.float32)
        noise = draw.standard_normal((size, features.shape[1]), dtype=np.float32) * features.std(axis=0)
        yield unit(share * one + (1 - share) * other + 0.5 * noise)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def built(folder: Path, rows: Iterator[np.ndarray], dims: int, kind: str) -> None:
    """Write an index as `vladapt index` does."""
    place = 0
    with IndexBuilder(folder, dims=dims, kind=kind) as builder:
        for some in rows:
            builder.add(some, [Entry(f"{place + i}.png", f"/photos/{place + i}.png") for i in range(len(some))])
            place += len(some)
        builder.finish(HEAD)


def built_by_faiss(rows: Iterator[np.ndarray], count: int, dims: int, key: str, nprobe: int, trained: Any) -> Any:
    """The peer, in memory; of a quantiser that is trained already, where there is one."""
    import faiss

    if trained is not None:
        halves = faiss.IndexScalarQuantizer(dims, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index = faiss.IndexRefine(faiss.clone_index(trained), halves)
        index.k_factor = REFINED / TOP
        for some in rows:
            index.add(some)
        return index
    index = faiss.index_factory(dims, key, faiss.METRIC_INNER_PRODUCT)
    table = np.concatenate(list(rows))
    base = faiss.downcast_index(index.base_index)
    base.nprobe, base.cp.min_points_per_centroid, index.k_factor = nprobe, 1, REFINED / TOP
    base.pq.cp.min_points_per_centroid, base.pq.cp.max_points_per_centroid = 1, SAMPLED_ROWS_A_CELL
    drawn = np.sort(np.random.default_rng(0).choice(count, sampled_rows(count), replace=False))
    index.train(table[drawn])
    index.add(table)
    return index


def taken(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what the work gives."""
    started = time.process_time()
    given = work()
    return time.process_time() - started, given


def exact(rows: Iterator[np.ndarray], queries: np.ndarray) -> np.ndarray:
    """(Q, 10) of all rows, by comparing every one."""
    import faiss

    heap = faiss.ResultHeap(len(queries), TOP, keep_max=True)
    start = 0
    for some in rows:
        scores, places = faiss.knn(queries, some, TOP, metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, places + start)
        start += len(some)
    heap.finalize()
    return heap.I


def recall(places: np.ndarray, wanted: np.ndarray) -> float:
    return statistics.mean(len({*one} & {*other}) / TOP for one, other in zip(places, wanted))


def compared(
    name: str, draw: Callable[[], Iterator[np.ndarray]], queries: dict[str, np.ndarray], given: argparse.Namespace
) -> None:
    """Rows of the table: ours and faiss's, of one set of rows."""
    import faiss

    dims = next(iter(queries.values())).shape[1]
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        build, _ = taken(lambda: built(Path(place) / "index", draw(), dims, "ivf-pq"))
        index = RetrievalIndex.open(Path(place) / "index")
        cells, probed = index.quantiser.nlist, index.quantiser.nprobe
        key = f"IVF{cells},PQ{index.quantiser.pq.M}np,Refine(SQfp16)"  # np: codes are not ordered besides
        drawing, _ = taken(lambda: [None for _ in draw()])
        count = len(index)
        shared = index.quantiser if given.train_once else None
        of_faiss, peer = taken(lambda: built_by_faiss(draw(), count, dims, key, probed, shared))
        files = Path(place, "index").glob("segments/*/*")
        held = sum(path.stat().st_size for path in files if path.suffix in (".faiss", ".f16"))
        theirs = len(faiss.serialize_index(peer))
        segments = f"{len(index.segments)} segment{'s' * (len(index.segments) > 1)}"
        print(f"\n{name}: {count:,} x {dims}, {cells} cells, {probed} searched, {key}, {segments}")
        print(f"bytes per row: {held / count:.0f}, of faiss {theirs / count:.0f}")
        print(f"build, CPU s: {build - drawing:.1f}, of faiss {of_faiss - drawing:.1f}", flush=True)
        print(
            "| queries | CPU ms per query | of faiss | ratio | recall@10 | of faiss | not refined |\n|---|"
            + "---:|" * 6
        )
        for kind, rows in queries.items():
            asked, wanted = torch.from_numpy(rows), exact(draw(), rows)
            times = []
            for _ in range(given.repeats):
                ours, (_, own) = taken(lambda asked=asked: index.nearest(asked, TOP))
                other, (_, places) = taken(lambda rows=rows: peer.search(rows, TOP))
                times.append((ours, other, taken(lambda asked=asked: index.search_many(asked, TOP))[0]))
            took = [1000 * statistics.median(each) / len(rows) for each in zip(*times)]
            _, coarse = index.nearest(asked, TOP, refine=False)
            cells_of_row = [f"{each:.2f}" for each in (*took[:2], took[0] / took[1], took[2])]
            cells_of_row += [f"{recall(each, wanted):.3f}" for each in (own, places, coarse)]
            print(f"| {kind} | {' | '.join(cells_of_row)} |", flush=True)


def search(given: argparse.Namespace) -> None:
    draw = lambda: clustered(given.rows, given.dims)  # noqa: E731
    if "clustered" in given.sets:
        compared("clustered rows", draw, {"image": next(clustered(QUERIES, given.dims, seed=7))}, given)
    if not {"around", "stored"} & set(given.sets):
        return
    file = Path(os.environ.get("VLADAPT_DATA", "../shared/data")) / PAIRS
    if not file.is_file():
        print(f"{file}: not there, so no rows around stored features")
        return
    pairs = np.load(file)
    images, texts = (unit(pairs[f"{kind}_features"].astype(np.float32)) for kind in ("image", "text"))
    queries = {"image": next(between(images, QUERIES, 7)), "text": next(between(texts, QUERIES, 8))}
    if "around" in given.sets:
        compared("rows around stored CLIP features", lambda: between(images, given.rows, 1), queries, given)
    if "stored" in given.sets:
        queries = {"image": images[:QUERIES], "text": texts[:QUERIES]}
        compared("stored CLIP features", lambda: iter([images]), queries, given)


def flat(given: argparse.Namespace) -> None:
    import faiss

    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        drawing, _ = taken(lambda: [None for _ in clustered(given.rows, given.dims)])

        def by_faiss() -> None:
            index = faiss.IndexFlatIP(given.dims)
            for some in clustered(given.rows, given.dims):
                index.add(some)
            faiss.write_index(index, f"{place}/faiss")

        other, _ = taken(by_faiss)
        Path(place, "faiss").unlink()
        ours, _ = taken(lambda: built(Path(place) / "index", clustered(given.rows, given.dims), given.dims, "flat"))
        print(
            f"flat, {given.rows:,} x {given.dims}, build, CPU s: {ours - drawing:.1f}, of faiss {other - drawing:.1f}"
        )


def memory(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        for step in ("build", "open", "query"):
            command = [sys.executable, __file__, step, "--rows", str(given.rows), "--dims", str(given.dims)]
            subprocess.run([*command, "--kind", given.kind, "--folder", place], check=True)


def _peak() -> float:
    """MB that are this process's own: of memory that files are mapped to, the system can take back what it needs."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def _watched(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives, and the most MB that it took meanwhile."""
    from threading import Event, Thread

    most, done = [_peak()], Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], _peak())

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        return work(), most[0]
    finally:
        done.set()
        watcher.join()


def step(given: argparse.Namespace) -> None:
    """One of the processes of `memory`."""
    folder, queries = Path(given.folder) / "index", next(clustered(QUERIES, given.dims, seed=7))
    before, started = _peak(), time.process_time()
    read = int(Path("/proc/self/io").read_text().split()[1])
    if given.work == "build":
        _, most = _watched(lambda: built(folder, clustered(given.rows, given.dims), given.dims, given.kind))
    else:
        index, most = _watched(lambda: RetrievalIndex.open(folder))
        if given.work == "query":
            _, most = _watched(lambda: index.search_many(torch.from_numpy(queries), TOP))
    read = int(Path("/proc/self/io").read_text().split()[1]) - read
    what = f"{given.kind}, {given.work}, {given.rows:,} x {given.dims}"
    segments = len(list(folder.glob("segments/*")))
    took = f"CPU {time.process_time() - started:.1f} s; read {read / 1e6:.2f} MB"
    print(f"{what}: {segments} segments, {most:.0f} MB, {before:.0f} of them before; {took}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=("search", "flat", "memory", "build", "open", "query"))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--kind", default="ivf-pq", help="of `memory`")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="of `search`")
    parser.add_argument("--train-once", action="store_true", help="faiss takes the quantiser of ours: half the time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", help="where indices are written, and removed again")
    given = parser.parse_args()
    import faiss

    faiss.omp_set_num_threads(given.threads)
    torch.set_num_threads(given.threads)
    {"search": search, "flat": flat, "memory": memory}.get(given.work, step)(given)


if __name__ == "__main__":
    main()
