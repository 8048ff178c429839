"""SemDeDup: CPU beside the loop of its pseudo-code on the same clusters, and how many near pairs clusters miss.

    python benchmarks/semantic_dedup.py --rows 200000

Rows are drawn around centres of unequal frequency, a fifth of them near copies of another. Both sides get the same
clusters, order and rows in memory, and run on one thread. `literal` takes the whole matrix of cosines of a cluster, its
upper triangle and the largest of each column, as the authors write it. Printed are CPU seconds, their ratio, whether
decisions are equal, the CPU of k-means, and the note on borders.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators._kmeans import cluster
from vladapt.core.curators.sem_dedup import (
    max_similarities,
    members_in_order,
    missed_by_clusters,
    visiting_order,
)

EPS = 0.07


def literal(features: np.ndarray, lists: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) the largest cosine of each pair to one that its cluster's list has before it, as in the paper's
    pseudo-code."""
    largest = np.zeros(len(features), np.float32)
    for members in lists:
        rows = torch.from_numpy(features[members])
        cosines = rows @ rows.T
        largest[members] = torch.triu(cosines, diagonal=1).max(dim=0).values.numpy()
    return largest


def same_decisions(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether the same pairs are dropped."""
    return np.array_equal(ours > 1 - EPS, theirs > 1 - EPS)


def drawn(rows: int, dims: int, seed: int) -> PairTable:
    """Pairs with unit rows around centres of unequal frequency; a fifth are near copies."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(8, rows // 200), dims), dtype=np.float32)
    share = 1 / np.arange(1, len(centres) + 1) ** 0.7
    features = centres[random.choice(len(centres), rows, p=share / share.sum())]
    features += 0.7 * random.standard_normal((rows, dims), dtype=np.float32)
    copies = np.flatnonzero(random.random(rows) < 0.2)
    noise = random.standard_normal((len(copies), dims), dtype=np.float32) * random.uniform(0, 0.6, (len(copies), 1))
    features[copies] = features[random.integers(rows, size=len(copies))] + noise.astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return PairTable.of([f"{number:09d}" for number in range(rows)], "drawn", image_features=features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--clusters", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = drawn(args.rows, args.dims, args.seed)
    start = time.process_time()
    clusters = cluster(pairs, "image_features", args.clusters, args.seed)
    sizes = clusters.sizes
    print(
        f"{args.rows:,} rows of {args.dims}, {len(sizes)} clusters, the largest of {sizes.max():,}; "
        f"k-means {time.process_time() - start:.1f} s"
    )
    features = pairs.unit("image_features")
    for name, nearest in (("clusters", clusters.nearest[:, :1]), ("with borders", clusters.nearest)):
        lists = members_in_order(nearest, visiting_order(clusters.similarity))
        for warm in (literal, lambda rows, some: max_similarities(rows.__getitem__, some, len(rows))):
            warm(features, lists[:1])
        start = time.process_time()
        ours = max_similarities(features.__getitem__, lists, len(features))
        between = time.process_time()
        if nearest.shape[1] > 1:
            print(f"{name}: {between - start:.2f} s, {(ours > 1 - EPS).mean():.1%} dropped")
            continue
        theirs = literal(features, lists)
        seconds, loop = between - start, time.process_time() - between
        same = same_decisions(ours, theirs)
        print(
            f"{name}: {seconds:.2f} s, literal loop {loop:.2f} s, ratio {seconds / loop:.2f}, decisions "
            f"{'equal' if same else 'DIFFER'}, {(ours > 1 - EPS).mean():.1%} dropped"
        )
    print(missed_by_clusters(pairs, "image_features", clusters, 1 - EPS))


if __name__ == "__main__":
    main()
