"""Methods on bags where one tile of 200 decides, from drawn tile features: what attention finds and a mean does not.

    python benchmarks/bags.py proof [NAME[:option=value,...] ...]
    python benchmarks/bags.py shots [NAME[:option=value,...] ...]

A slide is 200 tiles of 64 standard normal numbers. In a slide of the class "tumour" one tile, any, is moved by 8 along
a direction that is drawn with the set. That was fixed before anything was fitted: who knows the direction is right more
than 99.9 % of the time; who knows it and has the means of the tiles alone, Phi(8 / sqrt(200) / 2) = 61.1 %, the most
that any method on means can reach.

"proof": 400 slides to learn from, 100 for val and 300 to test, half of each class, in three draws; each method with its
defaults but for what its name says. The epoch is the one with the least loss on val. "deciding tile": of the tumour
slides of test those whose moved tile is among the three that weigh most (`Adapter.attention`).

"shots": 1, 4 and 16 slides per class to learn from and as many for val, 300 to test, in five draws; mean, and the worst
and the best draw, since some draws end at chance and others near 100 %.

Texts, for the methods that compare tiles with them: that of "tumour" has a cosine of 0.7 to the direction, that of
"normal" is any. There is no text tower, so that `vila-mil` learns no context, and one magnification.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from math import sqrt

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.contracts.adapter import Adapter

TILES, WIDTH, SHIFT = 200, 64, 8.0
SLIDES = {"train": 400, "val": 100, "test": 300}
CLASSES = ("normal", "tumour")
COSINE = 0.7
MOST_ATTENDED = 3
DRAWS, SHOTS, DRAWS_OF_SHOTS = 3, (1, 4, 16), 5
REGRESSION = "logistic regression"
"""Of scikit-learn on the means, its C chosen on val."""
STRENGTHS = tuple(10.0**power for power in range(-4, 3))
TABLE = (
    REGRESSION, "linear-probe", "top-k:k=1", "abmil", "clam:epochs=20", "clam:epochs=20,branches=true",
    "vila-mil:epochs=20", "trans-mil:epochs=20,width=64",
)  # fmt: skip
"""trans-mil at its own width of 512 takes minutes per epoch on a CPU."""


class Drawn:
    """Slides of one draw.

    Attributes:
        sets: "train", "val" and "test". texts: of the classes.
        moved: (N,) int64, which tile of each slide of test is the moved one, if it is a tumour slide.
    """

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        direction, other, normal = F.normalize(torch.randn(3, WIDTH, generator=generator), dim=1)
        across = F.normalize(other - (other @ direction) * direction, dim=0)
        tumour = COSINE * direction + sqrt(1 - COSINE**2) * across
        self.texts = TextClassifier(torch.stack([normal, tumour]), class_names=CLASSES)
        self.sets: dict[str, FeatureSet] = {}
        for name, count in SLIDES.items():
            tiles = torch.randn(count, TILES, WIDTH, generator=generator)
            labels = torch.arange(count) % 2
            self.moved = torch.randint(TILES, (count,), generator=generator)
            rows = labels.nonzero().flatten()
            tiles[rows, self.moved[rows]] += SHIFT * direction
            self.sets[name] = FeatureSet.of_parts(tiles, labels=labels, class_names=CLASSES)

    def few(self, split: str, shots: int) -> FeatureSet:
        return self.sets[split].select(list(range(2 * shots)))  # classes alternate


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("proof", "shots"))
    parser.add_argument("names", nargs="*", help="methods")
    given = parser.parse_args()
    {"proof": proof, "shots": few_shots}[given.what](given.names or TABLE)


# proof ----------------------------------------------------------------------------------------------------------------


def proof(names: Iterable[str]) -> None:
    draws = " | ".join(f"draw {seed}" for seed in range(1, DRAWS + 1))
    print(f"| method | accuracy, median | {draws} | deciding tile | epoch | seconds to fit |")
    print("|---|---:|" + "---:|" * (DRAWS + 3))
    for name in names:
        print(f"| {name} | {' | '.join(_proof_cells(name))} |", flush=True)


def _proof_cells(name: str) -> Iterator[str]:
    right, found, epochs, seconds = [], [], [], []
    for seed in range(1, DRAWS + 1):
        drawn, started = Drawn(seed), time.perf_counter()
        answers, adapter, epoch = fitted(name, drawn, drawn.sets["train"], drawn.sets["val"], seed)
        seconds.append(time.perf_counter() - started)
        right.append(float((answers == drawn.sets["test"].labels).double().mean()))
        found.append(None if adapter is None else deciding_tiles_found(adapter, drawn))
        epochs.append(epoch)
    yield f"{torch.tensor(right).median():.1%}"
    yield from (f"{share:.1%}" for share in right)
    yield ", ".join("-" if share is None else f"{share:.0%}" for share in found) if any(found) else "-"
    yield ", ".join(map(str, epochs)) if any(epochs) else "-"
    yield f"{sum(seconds) / len(seconds):.0f}"


def deciding_tiles_found(adapter: Adapter, drawn: Drawn) -> float | None:
    """Share of tumour slides of test whose moved tile is among the most attended; None where there is no attention."""
    test, hits = drawn.sets["test"], []
    for row in test.labels.nonzero().flatten().tolist():
        if adapter.needs.isdisjoint({"parts"}) or (weights := adapter.deciding(test.bags[row])) is None:
            return None
        hits.append(int(drawn.moved[row]) in weights[-1].topk(MOST_ATTENDED).indices)  # of all classes, or of "tumour"
    return sum(hits) / len(hits)


def fitted(
    name: str, drawn: Drawn, support: FeatureSet, val: FeatureSet, seed: int
) -> tuple[Tensor, Adapter | None, int | None]:
    """Answers to the slides of test (N,), the method, and the epoch that is kept."""
    test = drawn.sets["test"]
    if name == REGRESSION:
        return regression(support, val, test), None, None
    adapter = method(name)
    if adapter.needs.isdisjoint({"parts"}):
        support, val, test = (each.without_parts() for each in (support, val, test))
    report = adapter.fit(support, drawn.texts, val=val, seed=seed)
    return adapter.predict(test), adapter, report.chosen.get("epoch")


def regression(support: FeatureSet, val: FeatureSet, test: FeatureSet) -> Tensor:
    """Answers by the means of the tiles, (N,)."""
    models = [LogisticRegression(C=c, max_iter=5000).fit(support.features, support.labels) for c in STRENGTHS]
    best = max(models, key=lambda model: model.score(val.features, val.labels))
    return torch.from_numpy(best.predict(test.features))


def method(told: str) -> Adapter:
    name, _, rest = told.partition(":")
    return build_adapter(name, **dict(part.split("=", 1) for part in rest.split(",") if part))


# few shots ------------------------------------------------------------------------------------------------------------


def few_shots(names: Iterable[str]) -> None:
    print("| method | " + " | ".join(f"{shots} per class" for shots in SHOTS) + " |")
    print("|---|" + "---:|" * len(SHOTS))
    draws = [Drawn(seed) for seed in range(1, DRAWS_OF_SHOTS + 1)]
    for name in names:
        cells = []
        for shots in SHOTS:
            right = []
            for seed, drawn in enumerate(draws, start=1):
                answers, _, _ = fitted(name, drawn, drawn.few("train", shots), drawn.few("val", shots), seed)
                right.append(float((answers == drawn.sets["test"].labels).double().mean()))
            cells.append(f"{sum(right) / len(right):.1%} ({min(right):.0%} to {max(right):.0%})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
