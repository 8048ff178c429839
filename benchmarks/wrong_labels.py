"""How well `vladapt select --wrong-labels` finds flipped labels.

    python benchmarks/wrong_labels.py                    # all sets
    python benchmarks/wrong_labels.py wbc --seeds 2      # some of them

One label in twenty, drawn at random, is changed to another class. Labels are doubted as by the command: from
linear-probe's held-out probabilities, ranked by cleanlab. The area under the precision-recall curve would be .05 for a
random order.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from label_selection import DATA, SEEDS, SETS, features_of
from sklearn.metrics import average_precision_score
from torch import Tensor

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.labelling.wrong_labels import doubt, held_out_probabilities, suspects

SHARE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"sets, of {', '.join(SETS)}; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how often labels are flipped")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in SETS]:
        parser.error(f"there is no set {unknown[0]}; there are {', '.join(SETS)}")
    print("| set | images | area under the precision-recall curve | suspects | of these flipped |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in given.names or SETS:
        if (read := features_of(name, given.data)) is None:
            print(f"skipped: {name} is not in {given.data}", file=sys.stderr)
            continue
        areas, counts, hits = zip(*(judged(*read, seed) for seed in range(1, given.seeds + 1)))
        area = f"{np.mean(areas):.2f} ± {np.std(areas):.2f}"
        right = sum(hits) / max(1, sum(counts))
        print(f"| {name} | {len(read[0])} | {area} | {np.mean(counts):.0f} | {100 * right:.0f} % |", flush=True)


def judged(features: FeatureSet, classifier: TextClassifier, seed: int) -> tuple[float, int, int]:
    """The area, the number of suspects, and how many of these were flipped."""
    labels, wrong = flipped(features.labels, len(classifier), seed)
    data = replace(features, labels=labels, class_names=classifier.class_names)

    def fit(support: FeatureSet):
        probe = build_adapter("linear-probe")
        probe.fit(support, classifier, seed=seed)
        return probe.logits

    probabilities = held_out_probabilities(data, fit, seed)
    found = suspects(labels, probabilities)
    return average_precision_score(wrong, doubt(labels, probabilities)), len(found), int(wrong[found].sum())


def flipped(labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels of which a share became another class, and (N,) bool which."""
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=draw)[: round(SHARE * len(labels))]] = True
    others = (labels + torch.randint(1, classes, labels.shape, generator=draw)) % classes
    return torch.where(wrong, others, labels), wrong


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
