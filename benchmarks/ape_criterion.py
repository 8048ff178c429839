"""APE's channel criterion in closed form compared with the published loops: the same channels, faster.

    python benchmarks/ape_criterion.py

The loops (our own transcription) run over ordered pairs of classes; they are timed on some of the pairs at C 100, K 16,
D 1024 and extrapolated. The channels chosen are compared on a problem small enough to run in full.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from timing import median_seconds
from usage import print_help

from vladapt.adapters.cache.ape import channel_criterion


def problem(classes: int, shots: int, dim: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(classes, dim, generator=generator), dim=1)
    keys = F.normalize(text.repeat_interleave(shots, 0) + torch.randn(classes * shots, dim, generator=generator), dim=1)
    return text, keys, torch.arange(classes).repeat_interleave(shots)


def plain_similarity(text, keys, classes: int, shots: int, pairs=None) -> torch.Tensor:
    samples = torch.cat([text[:, None], keys.view(classes, shots, -1)], dim=1)  # (C, K + 1, D)
    total = torch.zeros(text.shape[1])
    for i in range(classes):
        for j in range(classes):
            if i == j or (pairs is not None and (i, j) not in pairs):
                continue
            for m in range(shots + 1):
                for n in range(shots + 1):
                    total += samples[i, m] * samples[j, n]
    return total / (classes * (classes - 1) * (shots + 1) ** 2)


def same_channels(classes: int, shots: int, dim: int, count: int) -> bool:
    """Whether both choose the same `count` channels, in the same order."""
    text, keys, labels = problem(classes, shots, dim)
    ours = channel_criterion(text, (0.5, 0.5), keys, F.one_hot(labels).float())
    loops = -0.5 * plain_similarity(text, keys, classes, shots) + 0.5 * text.var(dim=0)
    return torch.equal(ours.topk(count).indices, loops.topk(count).indices)


def main() -> None:
    print(f"same 40 of 64 channels, in the same order (C 12, K 3): {same_channels(12, 3, 64, 40)}")
    text, keys, labels = problem(100, 16, 1024)
    fast = median_seconds(lambda: channel_criterion(text, (0.5, 0.5), keys, F.one_hot(labels).float()).topk(716))
    pairs = {(i, i + 1) for i in range(20)}
    started = time.perf_counter()
    plain_similarity(text, keys, 100, 16, pairs)
    slow = (time.perf_counter() - started) / len(pairs) * 100 * 99
    print(
        f"C 100, K 16, D 1024: closed form {fast * 1000:.1f} ms; loops {slow:.0f} s (from 20 of 9,900 pairs);"
        f" ratio {slow / fast:,.0f} x"
    )


if __name__ == "__main__":
    print_help(__doc__)
    main()
