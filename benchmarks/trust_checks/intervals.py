"""How often 95 % intervals hold the truth, and how wide they are, on drawn test sets of which the truth is known.

Answers are right by chance. Images of one group share a chance, drawn from a beta distribution in which the correlation
of two answers is that of the cell. Scores of the two values of a label are normal, a distance apart that gives the
AUROC; those of one group share half of their variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from vladapt.core.metrics.classification import average_precision
from vladapt.core.metrics.intervals import (
    balanced_interval,
    class_intervals,
    paired_shares,
    share_interval,
)
from vladapt.core.metrics.score_intervals import Aurocs, answer_intervals, auroc_difference, precision_interval

DRAWS, DRAWS_OF_BOOTSTRAP = 2000, 400
SHARED = 0.5
"""Part of the variance of scores that images of a group, or two models, have in common."""
Interval = Sequence[float]


@dataclass
class Cell:
    """A test set of a size, and truths.

    Attributes:
        quantity, images: the first columns of the row.
        truths: what is to be held.
        draw: generator, place among the truths -> an interval.
        draws: test sets.
    """

    quantity: str
    images: str
    truths: Sequence[float]
    draw: Callable[[np.random.Generator, int], Interval]
    draws: int = DRAWS

    def measured(self, seed: int) -> list[tuple[float, float]]:
        """Coverage and mean width for each truth."""
        found = []
        for place, truth in enumerate(self.truths):
            generator = np.random.default_rng((seed, place))
            low, high = np.array([self.draw(generator, place) for _ in range(self.draws)]).T
            found.append((float(((low <= truth + 1e-12) & (truth <= high + 1e-12)).mean()), float((high - low).mean())))
        return found


def lines(data: Path) -> Iterator[str]:
    """A row per quantity and size of the test set."""
    yield "| score | test images | truth | coverage | mean width |"
    yield "|---|---|---|---|---|"
    for number, cell in enumerate(cells()):
        found = cell.measured(number)
        truths = " · ".join(f"{truth:.2f}" for truth in cell.truths)
        held, width = (" · ".join(f"{each[k]:.3f}" for each in found) for k in (0, 1))
        yield f"| {cell.quantity} | {cell.images} | {truths} | {held} | {width} |"


def cells() -> Iterator[Cell]:
    yield from _of_images()
    yield from _of_groups()
    for counts in ((3, 297), (10, 90), (30, 70), (150, 150)):
        yield _average_precision(counts, (0.6, 0.8, 0.9, 0.97))
    for groups in ((12, 10), (40, 5)):
        yield _average_precision_of_groups(groups, (0.6, 0.8, 0.9))


def _of_images() -> Iterator[Cell]:
    for count in (30, 100, 300):
        yield _accuracy(count, (0.7, 0.9, 0.97))
    for counts in ((3, 297), (5, 95), (10, 90), (200, 40, 20), (3, 3, 3, 3, 3)):
        yield _balanced(counts, (0.6, 0.8, 0.95, 0.99))
    yield _recall(5, (0.6, 0.8, 0.95, 0.99))
    for counts in ((10, 90), (30, 30, 30), (200, 40, 20)):
        yield _macro_f1(counts, (0.7, 0.9))
    for counts in ((3, 297), (5, 95), (12, 288), (30, 70), (150, 150)):
        yield _auroc(counts, (0.6, 0.8, 0.9, 0.97))
    for positives in ((3, 30, 100), (5, 5, 5, 5), (10, 20, 40, 80)):
        yield _macro_auroc(positives, (0.6, 0.8, 0.97))
    for count in (30, 100, 300):
        yield _gain((count,), ((0.02, 0.02), (0.2, 0.05), (0.1, 0.1)))
    for counts in ((3, 297), (10, 90), (200, 40, 20)):
        yield _gain(counts, ((0.02, 0.02), (0.2, 0.05), (0.1, 0.1)))
    for counts in ((3, 297), (12, 288), (30, 70), (150, 150)):
        yield _auroc_gain(counts, ((0.6, 0.6), (0.8, 0.9), (0.95, 0.95), (0.9, 0.99)))


def _of_groups() -> Iterator[Cell]:
    for groups in ((8, 12), (8, 25), (30, 10)):
        for alike in (0.1, 0.5):
            yield _accuracy_of_groups(groups, alike, (0.6, 0.8, 0.9, 0.95))
    for whole in (True, False):
        for groups in ((15, 10), (30, 10)):
            yield _balanced_of_groups(groups, whole, (0.6, 0.8, 0.95))
    for groups in ((8, 12), (15, 10), (30, 10)):
        yield _gain_of_groups(groups, ((0.05, 0.05), (0.3, 0.02), (0.1, 0.1)))
    for groups in ((15, 10), (30, 10)):
        yield _gain_of_groups(groups, ((0.05, 0.05), (0.3, 0.02), (0.1, 0.1)), balanced=True)
    for whole in (True, False):
        for groups in ((12, 10), (40, 5)):
            yield _auroc_of_groups(groups, whole, (0.6, 0.8, 0.95))
    yield _auroc_gain_of_groups((40, 5), ((0.6, 0.6), (0.8, 0.9), (0.95, 0.95)))


# independent images ------------------------------------------------------------------------------------------------


def _accuracy(count: int, truths: Sequence[float]) -> Cell:
    def draw(generator: np.random.Generator, place: int) -> Interval:
        return share_interval(_right(generator, np.full(count, truths[place])))

    return Cell("accuracy", f"{count}", truths, draw)


def _balanced(counts: Sequence[int], truths: Sequence[float]) -> Cell:
    labels = _labels(counts)

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return balanced_interval(_right(generator, np.full(len(labels), truths[place])), labels)

    return Cell("balanced accuracy", _listed(counts), truths, draw)


def _recall(count: int, truths: Sequence[float]) -> Cell:
    labels = torch.zeros(count, dtype=torch.int64)

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return class_intervals(_right(generator, np.full(count, truths[place])), labels, 1)[0] or ()

    return Cell("recall of a class", f"{count}", truths, draw)


def _macro_f1(counts: Sequence[int], recalls: Sequence[float]) -> Cell:
    """Wrong answers are spread evenly over the other classes."""
    labels, sizes, classes = _labels(counts), np.array(counts, dtype=np.float64), len(counts)

    def truth(recall: float) -> float:
        called = recall * sizes + (1 - recall) * (sizes.sum() - sizes) / (classes - 1)
        return float((2 * recall * sizes / (sizes + called)).mean())

    def draw(generator: np.random.Generator, place: int) -> Interval:
        right = _right(generator, np.full(len(labels), recalls[place]))
        other = (labels + torch.from_numpy(generator.integers(1, classes, len(labels)))) % classes
        answers = torch.where(right, labels, other)
        called = answers.bincount(minlength=classes) + labels.bincount()
        value = float((2 * labels[right].bincount(minlength=classes) / called).mean())
        return answer_intervals(answers, labels, {"macro_f1": value})["macro_f1"]

    return Cell("macro F1", _listed(counts), [truth(recall) for recall in recalls], draw, DRAWS_OF_BOOTSTRAP)


def _auroc(counts: Sequence[int], truths: Sequence[float]) -> Cell:
    truth = _labels(counts)[:, None].lt(1).double()

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return Aurocs.of(_scores(generator, truth, truths[place]), truth).interval()

    return Cell("AUROC", _listed(counts), truths, draw)


def _average_precision(counts: Sequence[int], aurocs: Sequence[float]) -> Cell:
    truth = _labels(counts)[:, None].lt(1).double()

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return _precision_interval(_scores(generator, truth, aurocs[place]), truth)

    truths = [_true_precision(auroc, counts[0] / sum(counts)) for auroc in aurocs]
    return Cell("average precision", _listed(counts), truths, draw)


def _precision_interval(scores: Tensor, truth: Tensor, unit: Tensor | None = None) -> Interval:
    scores, present = scores[:, 0], truth[:, 0] == 1
    return precision_interval(average_precision(scores, present), present, unit) or ()


def _true_precision(auroc: float, share: float) -> float:
    """Of all images, of which a share is positive: the integral of precision over recall."""
    cuts = np.linspace(6, -6, 20_001)
    recall, alarms = (torch.special.ndtr(torch.from_numpy(x - cuts)).numpy() for x in (_distance(auroc), 0.0))
    precision = share * recall / (share * recall + (1 - share) * alarms)
    return float(torch.trapezoid(torch.from_numpy(precision), torch.from_numpy(recall)))


def _macro_auroc(positives: Sequence[int], truths: Sequence[float], count: int = 300) -> Cell:
    def draw(generator: np.random.Generator, place: int) -> Interval:
        rank = np.stack([generator.permutation(count) for _ in positives], axis=1)
        truth = torch.from_numpy(rank < np.array(positives)).double()
        common = SHARED**0.5 * torch.from_numpy(generator.normal(size=(count, 1)))
        scores = common + (1 - SHARED) ** 0.5 * torch.from_numpy(generator.normal(size=truth.shape))
        return Aurocs.of(scores + _distance(truths[place]) * truth, truth).interval()

    return Cell("macro AUROC", f"{count}, of which {_listed(positives)} have a label", truths, draw)


def _gain(counts: Sequence[int], chances: Sequence[tuple[float, float]]) -> Cell:
    """Chances that only the second model is right, and only the first."""
    labels = _labels(counts)

    def draw(generator: np.random.Generator, place: int) -> Interval:
        before, after = _answers(generator, np.tile(chances[place], (len(labels), 1)))
        return paired_shares(before, after, labels=labels if len(counts) > 1 else None).bounds or ()

    name = "difference of balanced accuracies" if len(counts) > 1 else "difference of accuracies"
    return Cell(name, _listed(counts), [gained - lost for gained, lost in chances], draw)


def _auroc_gain(counts: Sequence[int], values: Sequence[tuple[float, float]]) -> Cell:
    truth = _labels(counts)[:, None].lt(1).double()

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return _gain_of_scores(generator, truth, values[place])

    return Cell("difference of AUROCs", _listed(counts), [after - before for before, after in values], draw)


# groups ------------------------------------------------------------------------------------------------------------


def _accuracy_of_groups(groups: tuple[int, int], alike: float, truths: Sequence[float]) -> Cell:
    unit = _units(groups)

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return share_interval(_right(generator, _chances(generator, groups, truths[place], alike)), unit)

    return Cell("accuracy", f"{_grouped(groups)}, correlation {alike}", truths, draw)


def _balanced_of_groups(groups: tuple[int, int], whole: bool, truths: Sequence[float]) -> Cell:
    unit, labels = _units(groups), _labels_of_groups(groups, whole)

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return balanced_interval(_right(generator, _chances(generator, groups, truths[place], 0.3)), labels, unit)

    return Cell("balanced accuracy", f"{_grouped(groups)}, {_class_of(whole)}", truths, draw)


def _gain_of_groups(groups: tuple[int, int], chances: Sequence[tuple[float, float]], balanced: bool = False) -> Cell:
    unit, labels = _units(groups), _labels_of_groups(groups, whole=True)

    def draw(generator: np.random.Generator, place: int) -> Interval:
        gained, lost = chances[place]
        own = generator.dirichlet(3 * np.array([gained, lost, 1 - gained - lost]), groups[0])[:, :2]
        before, after = _answers(generator, np.repeat(own, groups[1], axis=0))
        return paired_shares(before, after, unit, labels if balanced else None).bounds or ()

    name = "difference of balanced accuracies" if balanced else "difference of accuracies"
    return Cell(name, _grouped(groups), [gained - lost for gained, lost in chances], draw)


def _auroc_of_groups(groups: tuple[int, int], whole: bool, truths: Sequence[float]) -> Cell:
    unit, truth = _units(groups), _labels_of_groups(groups, whole)[:, None].lt(1).double()

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return Aurocs.of(_scores(generator, truth, truths[place], groups), truth, unit).interval()

    return Cell("AUROC", f"{_grouped(groups)}, {_class_of(whole)}", truths, draw)


def _average_precision_of_groups(groups: tuple[int, int], aurocs: Sequence[float]) -> Cell:
    unit, truth = _units(groups), _labels_of_groups(groups, True)[:, None].lt(1).double()

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return _precision_interval(_scores(generator, truth, aurocs[place], groups), truth, unit)

    truths = [_true_precision(auroc, float(truth.mean())) for auroc in aurocs]
    return Cell("average precision", f"{_grouped(groups)}, {_class_of(True)}", truths, draw)


def _auroc_gain_of_groups(groups: tuple[int, int], values: Sequence[tuple[float, float]]) -> Cell:
    unit, truth = _units(groups), _labels_of_groups(groups, whole=True)[:, None].lt(1).double()

    def draw(generator: np.random.Generator, place: int) -> Interval:
        return _gain_of_scores(generator, truth, values[place], groups, unit)

    return Cell("difference of AUROCs", _grouped(groups), [after - before for before, after in values], draw)


# draws -------------------------------------------------------------------------------------------------------------


def _right(generator: np.random.Generator, chances: np.ndarray) -> Tensor:
    return torch.from_numpy(generator.random(len(chances)) < chances)


def _chances(generator: np.random.Generator, groups: tuple[int, int], mean: float, alike: float) -> np.ndarray:
    """(N,) the chance of each image's group."""
    weight = (1 - alike) / alike
    return np.repeat(generator.beta(mean * weight, (1 - mean) * weight, groups[0]), groups[1])


def _answers(generator: np.random.Generator, chances: np.ndarray) -> tuple[Tensor, Tensor]:
    """Which images two models have right, of (N, 2) chances that only one has."""
    drawn = generator.random(len(chances))
    gained, lost = drawn < chances[:, 0], (drawn >= chances[:, 0]) & (drawn < chances.sum(axis=1))
    return torch.from_numpy(~gained), torch.from_numpy(~lost)


def _scores(
    generator: np.random.Generator, truth: Tensor, auroc: float, groups: tuple[int, int] | None = None
) -> Tensor:
    noise = generator.normal(size=len(truth))
    if groups is not None:
        noise = SHARED**0.5 * np.repeat(generator.normal(size=groups[0]), groups[1]) + (1 - SHARED) ** 0.5 * noise
    return torch.from_numpy(noise)[:, None] + _distance(auroc) * truth


def _gain_of_scores(
    generator: np.random.Generator,
    truth: Tensor,
    values: tuple[float, float],
    groups: tuple[int, int] | None = None,
    unit: Tensor | None = None,
) -> Interval:
    common, *own = (_scores(generator, 0 * truth, 0.5, groups) for _ in range(3))
    before, after = (
        Aurocs.of(SHARED**0.5 * common + (1 - SHARED) ** 0.5 * noise + _distance(value) * truth, truth, unit)
        for noise, value in zip(own, values)
    )
    return auroc_difference(before, after).bounds or ()


def _distance(auroc: float) -> float:
    return 2**0.5 * NormalDist().inv_cdf(auroc)


def _labels(counts: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def _labels_of_groups(groups: tuple[int, int], whole: bool) -> Tensor:
    """A third of the groups is of class 0, or a third of the images of each."""
    number = torch.arange(groups[0] * groups[1])
    return ((number // groups[1] if whole else number) % 3 > 0).long()


def _units(groups: tuple[int, int]) -> Tensor:
    return torch.arange(groups[0]).repeat_interleave(groups[1])


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def _grouped(groups: tuple[int, int]) -> str:
    return f"{groups[0]} groups of {groups[1]}"


def _class_of(whole: bool) -> str:
    return "one class per group" if whole else "both classes in each group"
