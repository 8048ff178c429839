"""Tip-Adapter's (beta, alpha) search compared with the plain loop: the published 200 x 20 grid, the same choice.

    python benchmarks/tip_search.py

The plain loop is a transcription of the published search: at each of the 4,000 points it computes affinities, cache
logits, CLIP logits and the accuracy anew. It is timed on 40 points spread over the grid and extrapolated; the choices
are compared on a smaller problem on which the whole loop is run.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from timing import median_seconds
from usage import print_help

import vladapt
from vladapt import FeatureSet, TextClassifier

SCALE, STEPS = (7, 3), (200, 20)


def problem(n_val: int, classes: int, shots: int, dim: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=generator)
    support_labels = torch.arange(classes).repeat_interleave(shots)
    val_labels = torch.randint(classes, (n_val,), generator=generator)

    def around(labels, noise):
        return F.normalize(centres[labels] + noise * torch.randn(len(labels), dim, generator=generator), dim=1)

    text = F.normalize(centres + 3.0 * torch.randn(classes, dim, generator=generator), dim=1)
    names = [f"class {i}" for i in range(classes)]
    support = FeatureSet(around(support_labels, 2.0), labels=support_labels, class_names=names)
    val = FeatureSet(around(val_labels, 2.0), labels=val_labels, class_names=names)
    return support, val, TextClassifier(text, class_names=names)


def grid(scale: float, steps: int) -> list[float]:
    return [i * (scale - 0.1) / steps + 0.1 for i in range(steps)]


def plain_point(support, val, classifier, values, beta: float, alpha: float) -> float:
    affinity = val.unit @ support.unit.T
    cache = (-beta * (1 - affinity)).exp() @ values
    logits = 100.0 * val.unit @ classifier.weights.T + alpha * cache
    return (logits.argmax(dim=1) == val.labels).float().mean().item()


def plain_search(support, val, classifier):
    values = support.one_hot()
    best = (-1.0, 0.0, 0.0)
    for beta in grid(SCALE[0], STEPS[0]):
        for alpha in grid(SCALE[1], STEPS[1]):
            accuracy = plain_point(support, val, classifier, values, beta, alpha)
            if accuracy > best[0]:
                best = (accuracy, beta, alpha)
    return best


def plain_seconds(support, val, classifier, points: int = 40) -> float:
    """The whole loop's time, extrapolated from `points` of the 4,000."""
    values = support.one_hot()
    pairs = [(b, a) for b in grid(SCALE[0], STEPS[0]) for a in grid(SCALE[1], STEPS[1])]
    chosen = pairs[:: len(pairs) // points][:points]
    plain_point(support, val, classifier, values, *chosen[0])
    started = time.perf_counter()
    for beta, alpha in chosen:
        plain_point(support, val, classifier, values, beta, alpha)
    return (time.perf_counter() - started) * len(pairs) / len(chosen)


def ours(support, val, classifier):
    """The published rule among equally accurate points: the first of the grid."""
    adapter = vladapt.build_adapter("tip-adapter", search_scale=SCALE, search_step=STEPS, ties="published")
    return adapter.fit(support, classifier, val=val)


def same_choice(support, val, classifier) -> tuple[bool, float, float]:
    """Whether ours is the choice of the plain loop, and the beta and alpha of this."""
    chosen, (_, beta, alpha) = ours(support, val, classifier).chosen, plain_search(support, val, classifier)
    return abs(chosen["beta"] - beta) < 1e-4 and abs(chosen["alpha"] - alpha) < 1e-4, beta, alpha


def main() -> None:
    same, beta, alpha = same_choice(*problem(n_val=300, classes=20, shots=4, dim=64))
    print(f"same choice as the plain loop (N_val 300, C 20, K 4): {same} (beta {beta:.4f}, alpha {alpha:.4f})")
    large = problem(n_val=5000, classes=100, shots=16, dim=512)
    fast = median_seconds(lambda: ours(*large), repeats=2, warm_up=0)
    slow = plain_seconds(*large)
    print(f"N_val 5000, C 100, K 16, D 512, {torch.get_num_threads()} threads:")
    print(f"  plain loop {slow:8.1f} s (extrapolated from 40 of 4,000 points)")
    print(f"  vladapt    {fast:8.1f} s")
    print(f"  ratio      {slow / fast:8.1f} x")


if __name__ == "__main__":
    print_help(__doc__)
    main()
