"""Labels that each way to select images needs for what random selection reaches with half the pool.

    python benchmarks/label_selection.py                           # measures all sets and prints the table
    python benchmarks/label_selection.py "WHU-RS19 features" wbc   # some of them
    python benchmarks/label_selection.py --methods default         # random and what `vladapt select` takes alone

For each seed the pool has up to so many images per class (`SETS`), and all other images test. In each round as many
images are selected as there are classes; then linear-probe is fitted on all that are labelled. Its predictions select
the next round, zero-shot's the first. Balanced accuracy is averaged over seeds, and the number of labels at which the
curve first reaches the goal is interpolated between rounds. The images that `vladapt select` draws at random to tell
accuracy by are not part of this: they cost a quarter more labels, whatever selects.

The public data lie in the folder that VLADAPT_DATA names; a set that is absent there is passed over.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from methods_on_images import SETS as IMAGE_SETS
from methods_on_images import balanced_accuracy
from torch import Tensor

from vladapt import FeatureSet, TextClassifier, build_adapter, load_domain, load_features
from vladapt.core.contracts.selector import Pool, Selector
from vladapt.core.engine.select import METHOD, METHOD_OPTIONS
from vladapt.core.errors import CapabilityError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import build_selector
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.feature_rows import prepared_of

DATA = Path(os.environ.get("VLADAPT_DATA", "../shared/data"))
SEEDS = 5
FURTHEST = 0.6
"""Share of the pool up to which labels are followed."""
RANDOM, DEFAULT = "random", "default"
METHODS = {
    RANDOM: (RANDOM, {}),
    "entropy": ("entropy", {}),
    "margin": ("margin", {}),
    "coreset": ("coreset", {}),
    "badge": ("badge", {}),
    "pcb": ("pcb", {}),
    DEFAULT: (METHOD, METHOD_OPTIONS),
}
FEATURES = "WHU-RS19 features"
SETS = {FEATURES: 16, "clothing": 16, "wbc": 16, "pneumoniamnist": 16, "grocery": 4, "whu_rs19": 4}
"""Name -> images per class in the pool, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"sets, of {', '.join(SETS)}; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)}; random always")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how often each set is divided")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in SETS]:
        parser.error(f"there is no set {unknown[0]}; there are {', '.join(SETS)}")
    methods = list(dict.fromkeys([RANDOM, *given.methods.split(",")]))
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"there is no method {unknown[0]}; there are {', '.join(METHODS)}")
    found = {}
    for name in given.names or SETS:
        if (read := features_of(name, given.data)) is None:
            print(f"skipped: {name} is not in {given.data}", file=sys.stderr)
            continue
        started = time.process_time()
        found[name] = curves(*read, SETS[name], given.seeds, methods)
        print(f"{name}: {time.process_time() - started:.0f} s of CPU time", file=sys.stderr)
    if not found:
        raise SystemExit(f"{given.data} has none of these sets; name the folder of the public data in VLADAPT_DATA")
    print("\n".join(table(found)))


def features_of(name: str, data: Path) -> tuple[FeatureSet, TextClassifier] | None:
    """All images of a set with their labels, and the texts of its classes; None where it is absent."""
    if name == FEATURES:
        file = data / "features" / "whurs19_clip" / "whurs19_CLIP_ViTB32.npz"
        read = load_features(file) if file.is_file() else None
        return None if read is None else (read.features, read.classifier)
    domain, place = IMAGE_SETS[name]
    if not (data / place).exists():
        return None
    recipe = resolve(flags={"domain": domain, "data.path": str(data / place)})
    prepared = prepared_of(recipe, Reporter(quiet=True), load_domain(domain), "classification")
    return prepared.features(prepared.data.items, "images"), prepared.classifier


def curves(
    features: FeatureSet, classifier: TextClassifier, most: int, seeds: int, methods: Sequence[str]
) -> dict[str, np.ndarray]:
    """Method -> (seeds, rounds) balanced accuracy; "labels" -> (rounds,) numbers of labels, "pool" its size."""
    every: dict[str, list[list[float]]] = {name: [] for name in methods}
    numbers: list[list[int]] = []
    for seed in range(1, seeds + 1):
        pool, test = divided(features.labels, most, seed)
        for name in methods:
            selector, options = METHODS[name]
            parts = features.select(pool), features.select(test)
            made = list(run(build_selector(selector, **options), *parts, classifier, seed))
            every[name].append([score for _, score in made])
            numbers.append([labels for labels, _ in made])
    return {
        "pool": np.array(len(pool)),
        "labels": np.array(numbers[0]),
        **{name: np.array(scores) for name, scores in every.items()},
    }


def divided(labels: Tensor, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the pool, up to so many per class, and of the test images; each class with an image to test."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    pool = []
    for label in labels.unique():
        of_class = shuffled[labels[shuffled] == label]
        pool.append(of_class[: min(most, len(of_class) - 1)])
    chosen = torch.cat(pool)[torch.randperm(sum(map(len, pool)), generator=torch.Generator().manual_seed(seed))]
    return chosen, shuffled[~torch.isin(shuffled, chosen)]


def run(
    selector: Selector, pool: FeatureSet, test: FeatureSet, classifier: TextClassifier, seed: int
) -> Iterator[tuple[int, float]]:
    """(labels, balanced accuracy) after each round, until so much of the pool is labelled as `FURTHEST` says."""
    classes, labelled = len(classifier), torch.zeros(0, dtype=torch.int64)
    probabilities = classifier.logits(pool.unit).softmax(dim=1)
    while len(labelled) < FURTHEST * len(pool):
        rest = torch.ones(len(pool), dtype=torch.bool)
        rest[labelled] = False
        counts = torch.bincount(pool.labels[labelled], minlength=classes).float()
        seen = Pool(pool.unit, rest.nonzero().flatten(), labelled, counts, probabilities)
        rows = selector.select(seen, min(classes, int(rest.sum())), seed * 1000 + len(labelled))
        labelled = torch.cat([labelled, torch.tensor(rows, dtype=torch.int64)])
        logits = fitted(pool.select(labelled), classifier, seed)
        probabilities = logits(pool).softmax(dim=1)
        yield len(labelled), balanced_accuracy(test.labels.numpy(), logits(test).argmax(dim=1).numpy())


def fitted(support: FeatureSet, classifier: TextClassifier, seed: int):
    """Rows -> logits by linear-probe; of one class alone, that class."""
    probe = build_adapter("linear-probe")
    try:
        probe.fit(support, classifier, seed=seed)
    except CapabilityError:
        one = F.one_hot(support.labels[:1], len(classifier)).float()
        return lambda rows: one.expand(len(rows), -1)
    return probe.logits


def needed(labels: Sequence[int], scores: np.ndarray, goal: float) -> float:
    """The number of labels at which a curve first reaches the goal, interpolated; infinite where it does not."""
    reached = np.flatnonzero(scores >= goal)
    if not len(reached):
        return float("inf")
    place = int(reached[0])
    if place == 0:
        return float(labels[0])
    share = (goal - scores[place - 1]) / (scores[place] - scores[place - 1])
    return float(labels[place - 1] + share * (labels[place] - labels[place - 1]))


def table(found: dict[str, dict[str, np.ndarray]]) -> Iterator[str]:
    """Markdown: for each method and set the labels needed, and their share of what random needed."""
    yield f"| selection | {' | '.join(found)} |"
    yield f"| --- |{' ---: |' * len(found)}"
    goals = {name: goal_of(made) for name, made in found.items()}
    for method in (name for name in METHODS if name in next(iter(found.values()))):
        cells = []
        for name, made in found.items():
            half, goal = goals[name]
            count = needed(made["labels"], made[method].mean(axis=0), goal)
            last = made["labels"][-1]
            cells.append(f"{count:.0f} ({100 * count / half:.0f} %)" if np.isfinite(count) else f"over {last}")
        yield f"| {method} | {' | '.join(cells)} |"
    options = "".join(f" with {name} {value}" for name, value in METHOD_OPTIONS.items())
    yield f"\nThe default is {METHOD}{options}.\n"
    for name, (half, goal) in goals.items():
        made = found[name]
        spread = made[RANDOM][:, list(made["labels"]).index(half)].std()
        seeds = len(made[RANDOM])
        yield (
            f"* {name}: a pool of {int(made['pool'])} images; with {half} of them random selection reaches a balanced "
            f"accuracy of {100 * goal:.1f} % (± {100 * spread:.1f} over {seeds} seeds)."
        )


def goal_of(made: dict[str, np.ndarray]) -> tuple[int, float]:
    """The labels of the first round with half the pool, and what random selection reaches with them."""
    place = int(np.flatnonzero(made["labels"] >= made["pool"] / 2)[0])
    return int(made["labels"][place]), float(made[RANDOM][:, place].mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
