"""How many labels each method of selecting images needs to reach what random selection reaches with half the pool.

    python benchmarks/label_selection.py                           # measures all sets and prints the tables
    python benchmarks/label_selection.py "WHU-RS19 features" wbc   # some of them
    python benchmarks/label_selection.py --methods default         # random and what `vladapt select` takes alone

For each seed the pool has a limited number of images per class (`SETS`), and all other images are for testing. In each
round a sixteenth of the pool is selected (one image per class where the pool has 16 of each); then linear-probe
(`JUDGE_OPTIONS`) is fitted on all labelled images. Its predictions select the next round, zero-shot's the first. The
images that `vladapt select` draws at random to estimate accuracy are not included: they cost a quarter more labels,
whatever the method.

The score is balanced accuracy over the classes with two or more test images, averaged over seeds. A mean curve still
rises and falls by chance, so the point where it first reaches a level says little: a curve that never falls is fitted
to it (`Rising`). The goal is the value of the curve of random selection at half the pool, so random selection needs
exactly half; a method needs as many labels as its curve takes to reach the goal. The 95 % interval is from 1,000
bootstrap samples of the seeds, the same for both methods. It shows how much depends on which images are in the pool,
not how much on the data set.

Results are kept in --out, by set, method and seed, and not measured again unless deleted there. The public data are in
the folder that VLADAPT_DATA names; a set that is missing there is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from methods_on_images import SETS as IMAGE_SETS
from sklearn.isotonic import isotonic_regression
from sklearn.metrics import recall_score
from torch import Tensor

from vladapt import FeatureSet, TextClassifier, build_adapter, load_features
from vladapt.core.contracts.selector import Pool, Selector
from vladapt.core.engine.select import METHOD, METHOD_OPTIONS
from vladapt.core.errors import CapabilityError
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.registry import build_selector
from vladapt.core.runtime.progress import Reporter

DATA = Path(os.environ.get("VLADAPT_DATA", "../shared/data"))
SEEDS = 5
ROUNDS, FOLLOWED = 16, 10
"""Into how many rounds the whole pool falls, and how many are followed."""
JUDGE, JUDGE_OPTIONS = "linear-probe", {"C": 100.0, "class_weight": "none"}
"""One fit per round: to search C, and to learn offsets of unequal classes, takes some sixty."""
SAMPLES = 1000
RANDOM, DEFAULT, TRUE = "random", "default", "true classes"
METHODS = {
    RANDOM: (RANDOM, {}),
    "entropy": ("entropy", {}),
    "margin": ("margin", {}),
    "coreset": ("coreset", {}),
    "badge": ("badge", {}),
    **{f"pcb, {base}": ("pcb", {"base": base}) for base in ("random", "entropy", "coreset", "badge")},
    DEFAULT: (METHOD, METHOD_OPTIONS),
    TRUE: ("", {}),
}
"""The last is no method: it knows the labels (`ByTurns`). What it needs is what even classes alone can save."""
FEATURES = "WHU-RS19 features"
SETS = {FEATURES: 16, "clothing": 16, "wbc": 16, "pneumoniamnist": 16, "grocery": 4, "whu_rs19": 4}
"""Name -> images per class in the pool, at most."""
HALF = 0.5
"""Of half the pool: the goal of the default."""


@dataclass(frozen=True)
class Curves:
    """One method on one set.

    Args:
        pool: images in the pool.
        labels: (R,) labels after each round.
        scores: (seeds, R) balanced accuracy.
    """

    pool: int
    labels: np.ndarray
    scores: np.ndarray

    def rising(self, seeds: Sequence[int] | None = None) -> Rising:
        return Rising.of(self.labels, (self.scores if seeds is None else self.scores[seeds]).mean(axis=0))


@dataclass(frozen=True)
class Rising:
    """A curve that never falls: isotonic regression, each of its level stretches drawn together in its centre, lines in
    between (centred isotonic regression, Oron and Flournoy, 2017, doi 10.1080/19466315.2017.1286256).

    Args:
        labels, scores: (P,) the points, both strictly rising.
    """

    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> Rising:
        levels = isotonic_regression(scores)
        distinct, stretch = np.unique(levels, return_inverse=True)
        centres = np.bincount(stretch, weights=labels) / np.bincount(stretch)
        return cls(centres, distinct)

    def at(self, labels: float) -> float:
        """The score with so many labels."""
        return float(np.interp(labels, self.labels, self.scores))

    def needed(self, goal: float) -> float:
        """The labels with which it has the goal; those of its start where that is above it, infinite where its end is
        below."""
        return float(np.interp(goal, self.scores, self.labels)) if goal <= self.scores[-1] else float("inf")


@dataclass(eq=False, kw_only=True)
class ByTurns(Selector):
    """Images at random, each of a class that has the fewest labelled ones by the labels that nobody knows yet."""

    by_predictions: ClassVar[bool] = False

    @classmethod
    def of(cls, labels: Tensor) -> ByTurns:
        made = cls()
        made.labels = labels
        return made

    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        rest = pool.candidates[torch.randperm(len(pool.candidates), generator=torch.Generator().manual_seed(seed))]
        place = {row: order for order, row in enumerate(rest.tolist())}
        counts, chosen = pool.counts.clone(), []
        for _ in range(count):
            row = min(place.keys() - set(chosen), key=lambda row: (counts[self.labels[row]], place[row]))
            counts[self.labels[row]] += 1
            chosen.append(row)
        return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"sets, of {', '.join(SETS)}; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data")
    parser.add_argument("--methods", default="", help=f"besides random, separated by semicolons: {'; '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how often each set is divided")
    parser.add_argument("--out", type=Path, default=Path("runs/label_selection"), help="folder of the results")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in SETS]:
        parser.error(f"there is no set {unknown[0]}; there are {', '.join(SETS)}")
    methods = list(dict.fromkeys([RANDOM, *(name.strip() for name in (given.methods or ";".join(METHODS)).split(";"))]))
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"there is no method {unknown[0]}; there are {'; '.join(METHODS)}")
    found = {}
    for name in given.names or SETS:
        if (read := features_of(name, given.data)) is None:
            print(f"skipped: {name} is not in {given.data}", file=sys.stderr)
            continue
        started = time.process_time()
        found[name] = curves(*read, SETS[name], given.seeds, methods, given.out / name.replace(" ", "_"))
        print(f"{name}: {time.process_time() - started:.0f} s of CPU time", file=sys.stderr, flush=True)
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
    prepared = task_of(recipe).prepared(recipe, Reporter(quiet=True))
    return prepared.features(prepared.data.items, "images"), prepared.classifier


def curves(
    features: FeatureSet, classifier: TextClassifier, most: int, seeds: int, methods: Sequence[str], out: Path
) -> dict[str, Curves]:
    """Of each method, measured or read; a file per method below `out`, written after each seed."""
    made = {}
    for name in methods:
        selector, options = METHODS[name]
        words = [selector or TRUE.replace(" ", "-"), *(f"{key}-{value}" for key, value in options.items())]
        file = out / f"{'-'.join(words)}.json"
        scores = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for seed in range(1, seeds + 1):
            pool, test = divided(features.labels, most, seed)
            if str(seed) not in scores:
                parts = features.select(pool), features.select(test)
                chooses = build_selector(selector, **options) if selector else ByTurns.of(parts[0].labels)
                scores[str(seed)] = list(run(chooses, *parts, classifier, seed))
                out.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(scores), encoding="utf-8")
        chosen = [scores[str(seed)] for seed in range(1, seeds + 1)]
        labels = np.array([count for count, _ in chosen[0]])
        made[name] = Curves(len(pool), labels, np.array([[score for _, score in rounds] for rounds in chosen]))
    return made


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
    """(labels, balanced accuracy) after each round."""
    classes, labelled = len(classifier), torch.zeros(0, dtype=torch.int64)
    probabilities = classifier.logits(pool.unit).softmax(dim=1)
    for _ in range(FOLLOWED):
        rest = torch.ones(len(pool), dtype=torch.bool)
        rest[labelled] = False
        counts = torch.bincount(pool.labels[labelled], minlength=classes).float()
        seen = Pool(pool.unit, rest.nonzero().flatten(), labelled, counts, probabilities)
        count = min(max(1, round(len(pool) / ROUNDS)), int(rest.sum()))
        rows = selector.select(seen, count, seed * 1000 + len(labelled))
        labelled = torch.cat([labelled, torch.tensor(rows, dtype=torch.int64)])
        logits = fitted(pool.select(labelled), classifier, seed)
        probabilities = logits(pool).softmax(dim=1)
        yield len(labelled), score(test.labels.numpy(), logits(test).argmax(dim=1).numpy())


def fitted(support: FeatureSet, classifier: TextClassifier, seed: int):
    """Rows -> logits by linear-probe; of one class alone, that class."""
    probe = build_adapter(JUDGE, **JUDGE_OPTIONS)
    try:
        probe.fit(support, classifier, seed=seed)
    except CapabilityError:
        one = F.one_hot(support.labels[:1], len(classifier)).float()
        return lambda rows: one.expand(len(rows), -1)
    return probe.logits


def score(truth: np.ndarray, answers: np.ndarray) -> float:
    """The mean recall of the classes with two images or more: one image says too little of its class."""
    scored = np.flatnonzero(np.bincount(truth) > 1)
    return float(recall_score(truth, answers, labels=scored, average="macro", zero_division=0))


def share(method: Curves, chance: Curves, seeds: Sequence[int] | None = None) -> float:
    """Labels needed, as a share of half the pool."""
    half = chance.pool / 2
    return method.rising(seeds).needed(chance.rising(seeds).at(half)) / half


def interval(method: Curves, chance: Curves) -> tuple[float, float]:
    """Of the share, over bootstrap samples of the seeds; how often each was drawn decides, so many give the same."""
    draws, count = np.random.RandomState(0), len(method.scores)
    samples = [tuple(sorted(draws.randint(0, count, count))) for _ in range(SAMPLES)]
    shares = {sample: share(method, chance, list(sample)) for sample in set(samples)}
    return tuple(np.quantile([shares[sample] for sample in samples], (0.025, 0.975), method="inverted_cdf"))


def table(found: Mapping[str, Mapping[str, Curves]]) -> Iterator[str]:
    """Markdown: for each method and set the labels needed, as a share of half the pool; then what of it is settled."""
    yield f"| selection | {' | '.join(found)} | mean | half reached on |"
    yield f"| --- |{' ---: |' * (len(found) + 2)}"
    methods = [name for name in METHODS if name in next(iter(found.values()))]
    shares = {method: {name: share(made[method], made[RANDOM]) for name, made in found.items()} for method in methods}
    for method in methods:
        cells = [_cell(shares[method][name], made[method], made[RANDOM]) for name, made in found.items()]
        reached = sum(each <= HALF for each in shares[method].values())
        total = f"{100 * mean(shares[method].values()):.0f} | {reached} of {len(found)}"
        yield f"| {method} | {' | '.join(cells)} | {total} |"
    options = "".join(f" with {name} {value}" for name, value in METHOD_OPTIONS.items())
    yield f"\nThe default is {METHOD}{options}.\n"
    for name, made in found.items():
        half = made[RANDOM].pool / 2
        yield (
            f"* {name}: a pool of {made[RANDOM].pool} images, {made[RANDOM].labels[0]} per round; with half of it "
            f"random selection reaches a balanced accuracy of {100 * made[RANDOM].rising().at(half):.1f} %."
        )
    if len(found) > 1 and len(methods) > 1:
        known = {method: of for method, of in shares.items() if method != TRUE}
        yield from ("", *chosen_elsewhere(known, list(found)))


def _cell(needed: float, method: Curves, chance: Curves) -> str:
    if method is chance:
        return "100"
    low, high = (_percent(each, method) for each in interval(method, chance))
    return f"{_percent(needed, method)} ({low} to {high})"


def _percent(needed: float, method: Curves) -> str:
    """In percent of half the pool, with the sign of a bound where the curve starts above the goal or ends below it."""
    if not np.isfinite(needed):
        return f"> {200 * method.labels[-1] / method.pool:.0f}"
    at_start = needed * method.pool / 2 <= method.labels[0]
    return f"{'≤ ' if at_start else ''}{100 * needed:.0f}"


def mean(shares) -> float:
    """Geometric; a share that is not known counts as that of all labels that were followed."""
    return statistics.geometric_mean(min(each, 2 * FOLLOWED / ROUNDS) for each in shares)


def chosen_elsewhere(shares: Mapping[str, Mapping[str, float]], sets: Sequence[str]) -> Iterator[str]:
    """What comes of the method that is best on all other sets, set by set."""
    yield "Each set by the method with the least mean on all others:\n"
    yield "| set | method | labels, % of half the pool | default |"
    yield "| --- | --- | ---: | ---: |"
    taken = {}
    for name in sets:
        others = {method: mean(each[other] for other in sets if other != name) for method, each in shares.items()}
        best = min(others, key=others.get)
        taken[name] = shares[best][name]
        default = shares.get(DEFAULT, {}).get(name)
        yield f"| {name} | {best} | {_known(taken[name])} | {'' if default is None else _known(default)} |"
    default = "" if DEFAULT not in shares else f"{100 * mean(shares[DEFAULT].values()):.0f}"
    yield f"| mean | | {100 * mean(taken.values()):.0f} | {default} |"


def _known(share: float) -> str:
    return f"{100 * share:.0f}" if np.isfinite(share) else "not reached"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
