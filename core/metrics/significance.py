"""How sure an accuracy is, and whether a gain is more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..contracts.errors import DataError

SIGNIFICANT = 0.05
"""p values below it are called more than chance."""


@dataclass(frozen=True)
class McNemar:
    """A paired comparison of two classifiers on the same images.

    Attributes:
        gained: images only the second has right.
        lost: images only the first has right.
        p_value: chance of a split at least as uneven if both were equally good; two-sided, exact.
    """

    gained: int
    lost: int
    p_value: float


def wilson_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of an accuracy ("Probable inference, the law of succession, and statistical inference",
    Wilson 1927); it stays in 0..1 and holds for few images and for accuracies near 0 and 1.

    Args:
        correct: images that are right.
        total: images in all.
        level: how often such intervals hold the true accuracy.

    Returns:
        (low, high) in 0..1.

    Raises:
        DataError: no images, or more right than there are.
    """
    from scipy.stats import binomtest

    if not 0 <= correct <= total or total == 0:
        raise DataError(f"{correct} of {total} images right: no accuracy can be told from that")
    interval = binomtest(correct, total).proportion_ci(confidence_level=level, method="wilson")
    return max(0.0, float(interval.low)), min(1.0, float(interval.high))


def mcnemar(correct_a: Tensor, correct_b: Tensor) -> McNemar:
    """McNemar's exact test: a sign test on the images where only one of the two is right ("Note on the sampling error
    of the difference between correlated proportions or percentages", McNemar 1947).

    Args:
        correct_a: (N,) bool, which images the first classifier has right.
        correct_b: (N,) bool, the second.

    Raises:
        DataError: sizes disagree.
    """
    from scipy.stats import binomtest

    a, b = torch.as_tensor(correct_a).bool().cpu(), torch.as_tensor(correct_b).bool().cpu()
    if a.shape != b.shape:
        raise DataError(f"a paired test needs the same images: {tuple(a.shape)} and {tuple(b.shape)}")
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
    p_value = 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, 0.5).pvalue)
    return McNemar(gained, lost, p_value)


def p_words(p: float) -> str:
    """p = 0.032, or p < 0.0001."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"
