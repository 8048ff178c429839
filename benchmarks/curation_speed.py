"""What each stage of curation costs on generated pairs: rows per second of one core, and memory.

The figures are in docs/measurements/curation.md.

    python benchmarks/curation_speed.py --folder FOLDER [--rows 100000] [--dims 512] [--batch 8192] [STAGE ...]

The pairs are written as a user has them: a Parquet file of texts, and shards of features as `vladapt embed` writes
them, in half precision, around centres of unequal frequency, a fifth near copies. `table` gathers them into the table
that all stages read; then each stage runs as `vladapt curate` runs it, from that table to its decisions on the disk, in
a process and on a thread of its own. Printed are CPU seconds, rows per second, and the most anonymous memory
beyond that of the process before it began; files that are mapped are not in it. With `s-cliploss` it is one pass, with
batches of `--batch`; its time grows with both. `metaclip` has 5,000 entries.

`literal` is what the paper or its code writes down, on the same rows in memory, without reading or writing a file: the
cosines and their order for `clip-score`; for `s-cliploss` the whole matrix of each batch; for `sem-dedup` the matrix of
each cluster, without the clusters (`semantic_dedup.py` compares that step alone); for `metaclip` each entry looked for
in each of 1,000 texts.

With `--data-juicer PYTHON`, an interpreter of an environment with py-data-juicer, its filters by the number of words
and of characters run on the same texts with one process, from the loaded set to a Parquet file, beside `caption`, which
asks the same of a caption. Its other filters of pairs run a model in the same step, or have no counterpart here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK, LITERAL_TEXTS = 50_000, 1000
ENTRIES, WORDS, LENGTH = 5000, 4000, 8
EVERY_SECONDS = 0.02
TABLE, LITERAL = "table", "literal"


@dataclass(frozen=True)
class Pairs:
    """Generated pairs in a folder."""

    folder: Path
    rows: int
    dims: int
    batch: int

    @property
    def texts(self) -> Path:
        return self.folder / "texts.parquet"

    @property
    def features(self) -> Path:
        return self.folder / "features"


OPTIONS: dict[str, Callable[[Pairs], dict[str, object]]] = {
    "random": lambda pairs: {},
    "caption": lambda pairs: {"language": "any"},
    "exact": lambda pairs: {},
    "near": lambda pairs: {},
    "clip-score": lambda pairs: {},
    "s-cliploss": lambda pairs: {"passes": 1, "batch": pairs.batch},
    "sem-dedup": lambda pairs: {},
    "density": lambda pairs: {},
    "prototypes": lambda pairs: {},
    "d4": lambda pairs: {},
    "clipcov": lambda pairs: {"classes": str(pairs.folder / "classes.npy")},
    "metaclip": lambda pairs: {"metadata": str(pairs.folder / "entries.txt"), "limit": 20},
}
"""Stage -> options."""


def main() -> None:
    asked = parsed(sys.argv[1:])
    pairs = Pairs(asked.folder / f"{asked.rows}x{asked.dims}", asked.rows, asked.dims, asked.batch)
    if asked.one:
        print(json.dumps(measured(pairs, asked.one)))
        return
    write_pairs(pairs)
    literal = asked.literal and {name: LITERALS[name](pairs) for name in LITERALS if name in asked.stages}
    print(f"{pairs.rows:,} pairs, features of {pairs.dims} numbers\n")
    print("| stage | CPU seconds | rows per second | literal: rows per second | MB |\n|---|---:|---:|---:|---:|")
    for stage in [TABLE, *asked.stages]:
        got = in_a_process(pairs, stage)
        beside = f"{literal[stage]:,.0f}" if literal and stage in literal else ""
        rate = pairs.rows / got["seconds"]
        print(f"| `{stage}` | {got['seconds']:.1f} | {rate:,.0f} | {beside} | {got['memory']:,.0f} |", flush=True)
    if asked.data_juicer:
        seconds = of_data_juicer(asked.data_juicer, pairs)
        print(f"| Data-Juicer, words and characters | {seconds:.1f} | {pairs.rows / seconds:,.0f} |  |  |")


DATA_JUICER = """
import os, sys
from datasets import load_dataset
from data_juicer.core.data import NestedDataset
from data_juicer.ops.filter.text_length_filter import TextLengthFilter
from data_juicer.ops.filter.words_num_filter import WordsNumFilter
texts, folder = sys.argv[1:]
data = NestedDataset(load_dataset("parquet", data_files=texts, split="train", cache_dir=folder))
start = os.times()
filters = [WordsNumFilter(min_num=2, max_num=10**6, num_proc=1), TextLengthFilter(min_len=6, max_len=10**6, num_proc=1)]
data.process(filters).to_parquet(os.path.join(folder, "filtered.parquet"))
print("\\n", sum(os.times()[:4]) - sum(start[:4]))
"""


def of_data_juicer(python: str, pairs: Pairs) -> float:
    """CPU seconds of its two filters, and of its processes."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-c", DATA_JUICER, str(pairs.texts.absolute()), folder]
        ended = subprocess.run(command, env=alone, capture_output=True, text=True, cwd=folder)
    if ended.returncode:
        raise SystemExit(ended.stderr[-2000:])
    return float(ended.stdout.split()[-1])


def in_a_process(pairs: Pairs, stage: str) -> dict[str, float]:
    words = [f"--folder={pairs.folder.parent}", f"--rows={pairs.rows}", f"--dims={pairs.dims}"]
    command = [sys.executable, __file__, *words, f"--batch={pairs.batch}", "--one", stage]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=alone, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def measured(pairs: Pairs, stage: str) -> dict[str, float]:
    """CPU seconds and peak of anonymous memory of a stage, in this process."""
    import duckdb
    import faiss
    import torch

    from vladapt.core.engine.curate import curate
    from vladapt.core.registry import build_curator

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    duckdb.connect(":memory:", config={"threads": 1}).close()
    name = "random" if stage == TABLE else stage
    features, out = str(pairs.features), pairs.folder / "curated"
    options = OPTIONS[name](pairs)
    if stage != TABLE:  # gathered before
        built = build_curator(stage, **options)
        curate("random", [pairs.texts], out, features=features, reads=built.reads, may_read=built.may_read)
    else:
        remove(out)
    if stage == "random":
        options = {"seed": 1}  # other decisions than those above
    with watched() as peak:
        start = time.process_time()
        curate(name, [pairs.texts], out, features=features, options=options)
        seconds = time.process_time() - start
    return {"seconds": seconds, "memory": peak[0]}


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def watched() -> Iterator[list[float]]:
    """A context whose list has the most anonymous memory beyond that at its start, in MB."""
    base, peak, ended = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_SECONDS):
            peak[0] = max(peak[0], anonymous() - base)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def anonymous() -> float:
    """MB of this process that are of no file."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


# pairs ----------------------------------------------------------------------------------------------------------------


def write_pairs(pairs: Pairs) -> None:
    """Texts, features, entries and classes, unless they are there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts, wanted = pairs.folder / "pairs.json", [pairs.rows, pairs.dims]
    if facts.is_file() and json.loads(facts.read_text()) == wanted:
        return
    remove(pairs.folder)
    pairs.features.mkdir(parents=True)
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(WORDS)])
    share = 1 / np.arange(1, WORDS + 1)
    centres = random.standard_normal((max(8, pairs.rows // 200), pairs.dims), dtype=np.float32)
    sums, hashes, sides = drawn_images(pairs.rows)
    schema = pa.schema([(name, pa.string()) for name in ("id", "text", "sha256")])
    for name, kind in (("phash", pa.uint64()), ("width", pa.int64()), ("height", pa.int64())):
        schema = schema.append(pa.field(name, kind))
    with pq.ParquetWriter(pairs.texts, schema) as writer:
        for start in range(0, pairs.rows, BLOCK):
            count = min(BLOCK, pairs.rows - start)
            ids = [f"{row:09d}" for row in range(start, start + count)]
            chosen = random.choice(WORDS, (count, LENGTH), p=share / share.sum())
            some = slice(start, start + count)
            texts = {"id": ids, "text": [" ".join(row) for row in words[chosen]], "sha256": sums[some]}
            images = {"phash": hashes[some], "width": sides[some, 0], "height": sides[some, 1]}
            writer.write_table(pa.table({**texts, **images}, schema))
            columns = {"id": pa.array(ids), **drawn_features(centres, count, random), "encoder": ["drawn"] * count}
            pq.write_table(pa.table(columns), pairs.features / f"part-{start:09d}.parquet")
    second = words[random.integers(WORDS, size=(ENTRIES, 2))]
    entries = [*words[: ENTRIES // 2], *(" ".join(two) for two in second[: ENTRIES - ENTRIES // 2])]
    (pairs.folder / "entries.txt").write_text("\n".join(entries), encoding="utf-8")
    np.save(pairs.folder / "classes.npy", centres[: min(100, len(centres))])
    facts.write_text(json.dumps(wanted))


def drawn_images(count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Checksums, perceptual hashes and sides (N, 2) of so many images: a tenth have the bytes of another, a fifth a
    hash a few bits from that of another."""
    random = np.random.default_rng(1)
    file_of, hashes = np.arange(count), random.integers(1, 2**64, count, dtype=np.uint64)
    copies, near = np.flatnonzero(random.random(count) < 0.1), np.flatnonzero(random.random(count) < 0.2)
    file_of[copies] = random.integers(count, size=len(copies))
    changed = np.bitwise_or.reduce(np.uint64(1) << random.integers(64, size=(3, len(near)), dtype=np.uint64))
    hashes[near] = hashes[random.integers(count, size=len(near))] ^ changed
    return [f"{number:064x}" for number in file_of], hashes, random.integers(64, 2048, (count, 2))


def drawn_features(centres: np.ndarray, count: int, random: np.random.Generator) -> dict[str, object]:
    """Columns of pictures and captions around the same centres; a fifth of the pictures are near copies."""
    import pyarrow as pa

    share = 1 / np.arange(1, len(centres) + 1) ** 0.7
    near = centres[random.choice(len(centres), count, p=share / share.sum())]
    columns = {}
    for name in ("image_features", "caption_features"):
        rows = near + 0.7 * random.standard_normal(near.shape, dtype=np.float32)
        if name == "image_features":
            copies = np.flatnonzero(random.random(count) < 0.2)
            noise = 0.1 * random.standard_normal((len(copies), near.shape[1]), dtype=np.float32)
            rows[copies] = rows[random.integers(count, size=len(copies))] + noise
        offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(rows.astype(np.float16).ravel()))
    return columns


# literal --------------------------------------------------------------------------------------------------------------


def _in_memory(pairs: Pairs, name: str, rows: int | None = None) -> np.ndarray:
    """Unit rows of all, or of the first."""
    import pyarrow.parquet as pq

    files = sorted(pairs.features.glob("*.parquet"))
    parts, left = [], rows or pairs.rows
    for file in files:
        if left <= 0:
            break
        column = pq.read_table(file, columns=[name]).column(name).combine_chunks()
        parts.append(column.flatten().to_numpy().reshape(len(column), -1)[:left].astype(np.float32))
        left -= len(parts[-1])
    made = np.concatenate(parts)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def literal_score(pairs: Pairs) -> float:
    images, captions = _in_memory(pairs, "image_features"), _in_memory(pairs, "caption_features")
    start = time.process_time()
    np.argsort(-(images * captions).sum(axis=1))
    return pairs.rows / (time.process_time() - start)


def literal_loss(pairs: Pairs) -> float:
    """Of one batch."""
    import torch

    torch.set_num_threads(1)
    rows = min(pairs.batch, pairs.rows)
    images, captions = (torch.from_numpy(_in_memory(pairs, f"{each}_features", rows)) for each in ("image", "caption"))
    start = time.process_time()
    logits = images @ captions.T / 0.01
    logits.diagonal() * 0.01 - 0.005 * (logits.logsumexp(dim=0) + logits.logsumexp(dim=1))
    return rows / (time.process_time() - start)


def literal_dedup(pairs: Pairs) -> float:
    """Of clusters that are the same."""
    import torch
    from semantic_dedup import literal

    from vladapt.core.contracts.curator import PairTable
    from vladapt.core.curators._kmeans import cluster
    from vladapt.core.curators.sem_dedup import members_in_order, visiting_order

    torch.set_num_threads(1)
    features = _in_memory(pairs, "image_features")
    table = PairTable.of([f"{row:09d}" for row in range(pairs.rows)], "drawn", image_features=features)
    clusters = cluster(table, "image_features")
    lists = members_in_order(clusters.nearest[:, :1], visiting_order(clusters.similarity))
    start = time.process_time()
    literal(features, lists)
    return pairs.rows / (time.process_time() - start)


def literal_balance(pairs: Pairs) -> float:
    import pyarrow.parquet as pq

    texts = next(pq.ParquetFile(pairs.texts).iter_batches(LITERAL_TEXTS)).column("text").to_pylist()
    entries = (pairs.folder / "entries.txt").read_text(encoding="utf-8").splitlines()
    start = time.process_time()
    for text in texts:
        [number for number, entry in enumerate(entries) if f" {entry} " in f" {text} "]
    return len(texts) / (time.process_time() - start)


LITERALS = {
    "clip-score": literal_score,
    "s-cliploss": literal_loss,
    "sem-dedup": literal_dedup,
    "metaclip": literal_balance,
}


def parsed(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=[], metavar="STAGE", choices=[*OPTIONS, []])
    parser.add_argument("--folder", type=Path, required=True, help="for the pairs")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8192, help="of s-cliploss")
    parser.add_argument("--no-literal", dest="literal", action="store_false")
    parser.add_argument("--one", choices=[TABLE, *OPTIONS], help="measure this stage alone, of pairs that are there")
    parser.add_argument("--data-juicer", metavar="PYTHON", help="of an environment with py-data-juicer")
    asked = parser.parse_args(words)
    asked.stages = asked.stages or list(OPTIONS)
    return asked


if __name__ == "__main__":
    main()
