"""FPL, IFPL and GRIP: which images get pseudo-labels, and how many in each round."""

from __future__ import annotations

from collections.abc import Iterator

from vladapt.adapters.selftraining._leaderboards import growing_counts, top_k_per_class

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

QUANTILE = 100
"""The reference's step is a share of the images in percent."""


@compares("fpl", "fpl_grip")
def few(ref: Reference, f: Fixtures) -> Iterator[Check]:
    probabilities = f.text.logits(f.test_set.features).softmax(dim=1)
    for _, count in ref.keys(r"k(\d+)_indices"):
        rows, labels = top_k_per_class(probabilities, int(count))
        yield ref.check(rows, f"k{count}_indices", f"images of {count} pseudo-labels per class")
        yield ref.check(labels, f"k{count}_labels", f"{count} pseudo-labels per class")


@compares("grip", "fpl_grip")
def growing(ref: Reference, f: Fixtures) -> Iterator[Check]:
    rounds = QUANTILE // int(ref.setting("step_quantile"))
    for key, images, classes in ref.keys(r"grip_schedule_n(\d+)_c(\d+)"):
        counts = growing_counts(int(images), int(classes), rounds)
        yield ref.check(counts, key, f"pseudo-labels per class, {images} images of {classes} classes")


GROUPS = (few, growing)
