"""How often `eval --holistic` names a column that answers follow, where they do and where they do not.

    python benchmarks/followed_columns.py         # prints the table; a few minutes

A linear probe is fitted on drawn feature sets of two classes, with 100 images per class to learn from and 100 to test.
Besides the column that matters each has three that mean nothing, and p values are adjusted for all four (Holm).

* cheat: the background shows in the features, more than the class does, and goes with the class in 95 % of the support;
  in the test set it does in half.
* honest: the same support and test columns, but the features do not show the background.
* wrong labels: the features show a finding; a fifth of the labels, of support and test, are wrong about it, and the
  column goes with the finding in 90 % of both. Nothing reads the column, and answers follow it beyond the label all the
  same, as the sentence says: "the model reads it, or something that goes with it".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from usage import print_help

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.metrics.followed_columns import Column, Following, followed
from vladapt.core.metrics.significance import holm

SETS, DIMS, EACH = 200, 16, 100
ALIGNED, WITH_FINDING, WRONG = 0.95, 0.9, 0.2
CLASS, BACKGROUND = 0.75, 1.5
"""How far from the middle the features of a class and of a background lie, in standard deviations of an image."""
NOTHING = 3
"""Columns that mean nothing."""
LEVEL = 0.05


@dataclass
class Part:
    """Images of a drawn set.

    Attributes:
        features: (N, D).
        labels: (N,) as they are written down.
        column: (N,) values of the column that matters, 0 or 1.
    """

    features: Tensor
    labels: Tensor
    column: Tensor


def main() -> None:
    print("| drawn sets | column named | other columns named |")
    print("|---|---|---|")
    for title, draw in (("cheat", cheat), ("honest", honest), ("wrong labels", wrong_labels)):
        own = other = 0
        for seed in range(SETS):
            named = judged(draw, seed)
            own, other = own + named[0], other + any(named[1:])
        print(f"| {title} | {own} of {SETS} | {other} of {SETS} |", flush=True)


def judged(draw: Callable[[bool, torch.Generator], Part], seed: int) -> list[bool]:
    """Whether each column is named, the one that matters first."""
    generator = torch.Generator().manual_seed(seed)
    support, test = draw(True, generator), draw(False, generator)
    answers = fitted(support)(test.features)
    columns = [Column(support.column, test.column, 2)]
    columns += [
        Column(*(coins(len(part.labels), 0.5, generator) for part in (support, test)), 2) for _ in range(NOTHING)
    ]
    made = followed(columns, support.labels, test.labels, answers, 2, seed=seed)
    p_values = iter(holm([each.p_value for each in made if isinstance(each, Following)]))
    return [isinstance(each, Following) and next(p_values) < LEVEL for each in made]


def fitted(support: Part) -> Callable[[Tensor], Tensor]:
    """What a linear probe answers."""
    names = ("one", "other")
    classifier = TextClassifier(torch.eye(2, DIMS), torch.eye(2, DIMS), class_names=names)
    adapter = build_adapter("linear-probe", C=1.0)
    adapter.fit(FeatureSet(support.features, labels=support.labels, class_names=names), classifier)
    return lambda features: adapter.logits(features).argmax(dim=1)


def cheat(taught: bool, generator: torch.Generator) -> Part:
    part = honest(taught, generator)
    part.features[:, 1] += BACKGROUND * (2 * part.column - 1)
    return part


def honest(taught: bool, generator: torch.Generator) -> Part:
    labels = torch.arange(2 * EACH) % 2
    column = labels ^ coins(len(labels), 1 - ALIGNED if taught else 0.5, generator)
    return Part(features_of(labels, generator), labels, column)


def wrong_labels(taught: bool, generator: torch.Generator) -> Part:
    finding = torch.arange(2 * EACH) % 2
    labels = finding ^ coins(len(finding), WRONG, generator)
    return Part(features_of(finding, generator), labels, finding ^ coins(len(finding), 1 - WITH_FINDING, generator))


def features_of(classes: Tensor, generator: torch.Generator) -> Tensor:
    features = torch.randn(len(classes), DIMS, generator=generator)
    features[:, 0] += CLASS * (2 * classes - 1)
    return features


def coins(count: int, share: float, generator: torch.Generator) -> Tensor:
    """(count,) 1 with a probability, else 0."""
    return (torch.rand(count, generator=generator) < share).long()


if __name__ == "__main__":
    print_help(__doc__)
    main()
