"""Conformal prediction: sets that hold the true classes or labels as often as asked.

Sets of classes hold the right one in a share of cases (split conformal prediction). Scores: LAC ("Least Ambiguous
Set-Valued Classifiers with Bounded Error Levels", Sadinle et al. 2019, arXiv 1609.00451), APS ("Classification with
Valid and Adaptive Coverage", Romano et al. 2020, arXiv 2006.02544), RAPS ("Uncertainty Sets for Image Classifiers using
Conformal Prediction", Angelopoulos et al. 2021, arXiv 2009.14193). Rows in which classes are not as frequent as where
the sets are used: "Distribution-free Uncertainty Quantification for Classification under Label Shift" (Podkopaev and
Ramdas 2021, arXiv 2103.03323). A coverage of each class alone takes a threshold from the rows of that class
("Conditional Validity of Inductive Conformal Predictors", Vovk 2012, arXiv 1209.2673).

Images of one patient are no independent observations. Where rows belong to groups, each group counts as one, whatever
its number of rows: the coverage is that of an image of a further group ("Distribution-Free Inference with Hierarchical
Data", Lee, Barber and Willett 2023, arXiv 2306.06342).

Sets of labels hold on average a share of an image's true labels: conformal risk control of the false negative rate
("Conformal Risk Control", Angelopoulos, Bates, Fisch, Lei and Schuster 2022, arXiv 2208.02814). Rows in which labels
are not as frequent as where the sets are used get weights by raking ("On a Least Squares Adjustment of a Sampled
Frequency Table", Deming and Stephan 1940).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..metrics.intervals import share_interval, units_of

SET_METHODS = ("lac", "aps", "raps")
PENALTY, FREE_RANKS = 0.001, 1
"""Of RAPS, as "Conformal Prediction for Zero-Shot Models" (Silva-Rodríguez et al. 2025, arXiv 2505.24693) sets them."""
ROUNDS = 20
"""Of raking; three or four are enough where labels depend little on each other."""
ALL_LABELS = 0.0
"""The threshold at which each set is of all labels."""
COUNTED = "(patients, for instance), each counted once"


def conformal_scores(
    probs: Tensor,
    method: str = "lac",
    uniform: Tensor | None = None,
    penalty: float = PENALTY,
    free_ranks: int = FREE_RANKS,
) -> Tensor:
    """How badly each class would fit an image; sets hold the classes whose score is at most the threshold.

    Args:
        probs: (N, C), rows summing to 1.
        method: "lac": 1 - p. "aps": the mass of the classes ranked above, and a share of the class's own. "raps": that,
            and a penalty for each rank beyond the free ones.
        uniform: numbers in 0..1 that say which share, (N, 1), or (N, C) by rank; by default those of `own_uniform`.
        penalty, free_ranks: of RAPS.

    Returns:
        (N, C) of the dtype of `probs`.
    """
    if method not in SET_METHODS:
        raise ConfigError(f"--set-method {method}: give one of {', '.join(SET_METHODS)}")
    if method == "lac":
        return 1 - probs
    uniform = own_uniform(probs) if uniform is None else uniform
    ordered, order = probs.sort(dim=1, descending=True, stable=True)  # (N, C) by rank
    scores = ordered.cumsum(dim=1) - ordered + uniform.to(probs.dtype) * ordered
    if method == "raps":
        rank = torch.arange(1, probs.shape[1] + 1, dtype=probs.dtype, device=probs.device)
        scores = scores + penalty * (rank - free_ranks).clamp(min=0)
    return torch.empty_like(scores).scatter_(1, order, scores)


def _answered(probs: Tensor) -> Tensor:
    """(N, C) bool: the most probable class of each row, or several that are alike."""
    return probs == probs.amax(dim=1, keepdim=True)


def _scores_of_sets(probs: Tensor, method: str) -> Tensor:
    """(N, C) scores by which sets that hold the most probable class are made. APS and RAPS leave it out by chance, sure
    as it may be: it then has the score 0 among the rows as well, or sets would hold more than was asked for."""
    scores = conformal_scores(probs, method)
    return scores if method == "lac" else scores.masked_fill(_answered(probs), 0.0)


def own_uniform(probs: Tensor) -> Tensor:
    """(N, 1) numbers in 0..1 that depend on the row alone, so that an image has the same set in any company."""
    rows = probs.detach().float().cpu().contiguous().numpy()
    drawn = [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:6], "big") / 2**48 for row in rows]
    return torch.tensor(drawn, dtype=torch.float64)[:, None]


def threshold(scores: Tensor, coverage: float, groups: Tensor | None = None) -> float:
    """The ceil((n + 1) coverage)-th smallest of n scores of true classes; infinite where that exceeds n.

    Args:
        scores: (n,).
        coverage: 1 - alpha, between 0 and 1.
        groups: (n,) number of the group of each row: the smallest score that (K + 1) coverage of K groups reach, a row
            being its share of its group. None: each row stands alone.
    """
    if groups is not None and len(scores):
        alike = torch.zeros(len(scores), dtype=torch.int64)
        return float(_weighted_thresholds(scores, alike, torch.ones(len(scores)).double(), coverage, 1, groups))
    place = _place(len(scores), coverage)
    return math.inf if place > len(scores) else float(scores.sort().values[place - 1])


def fewest_rows(coverage: float) -> int:
    """Calibration rows, or groups of them, below which only the set of all classes can promise the coverage:
    ceil(1 / alpha) - 1."""
    return math.ceil(1 / (1 - Fraction(str(coverage)))) - 1


def coverage_range(count: int, coverage: float) -> tuple[float, float]:
    """Between which shares the coverage of sets lies in 19 of 20 draws of `count` independent calibration rows, or
    groups: Beta(k, count + 1 - k) with k = ceil((count + 1) coverage). It is exact for groups whose images are all
    alike, and narrower for others."""
    from scipy.special import betaincinv

    place = _place(count, coverage)
    if place > count:
        return 1.0, 1.0
    low, high = (float(betaincinv(place, count + 1 - place, tail)) for tail in (0.025, 0.975))
    return low, high


def _place(count: int, coverage: float) -> int:
    return math.ceil((count + 1) * Fraction(str(coverage)))


def number_of(groups: Tensor | None) -> int | None:
    """How many groups rows are of; None where each row stands alone."""
    return None if groups is None else len(groups.unique())


def _each_group_alike(weights: Tensor, groups: Tensor | None) -> Tensor:
    """(n,) weights of rows, divided among the rows of their group."""
    return weights if groups is None else weights / groups.bincount()[groups]


def check_coverage(coverage: float, method: str = "lac") -> None:
    """Raise the ConfigError of a coverage or a method that there is not."""
    if not 0 < coverage < 1:
        raise ConfigError(f"--coverage {coverage}: give a share between 0 and 1, for instance 0.9")
    if method not in SET_METHODS:
        raise ConfigError(f"--set-method {method}: give one of {', '.join(SET_METHODS)}")


def _few_rows(rows: int, groups: int | None, coverage: float, what: str = "calibration rows") -> str:
    """Whether they can promise the coverage, and how many could."""
    have = f"{rows} {what} are" if groups is None else f"{rows} {what} of {groups} groups (patients, for instance) are"
    if (rows if groups is None else groups) >= fewest_rows(coverage):
        return f"{have} too few, because some stand for many images"
    return f"{have} too few, at least {fewest_rows(coverage)}{'' if groups is None else ' groups'} are needed"


@dataclass(frozen=True)
class Conformal:
    """Thresholds made from calibration rows.

    Attributes:
        coverage: what is asked for.
        method: of `SET_METHODS`.
        thresholds: (C,) float64, one per class; they differ where rows have weights, and where each class has its own.
        rows: how many rows they are made from.
        groups: how many groups these are of; None where each row stands alone.
        per_class: whether each class is held as often as asked.
    """

    coverage: float
    method: str
    thresholds: Tensor
    rows: int
    groups: int | None = None
    per_class: bool = False

    @classmethod
    def of_rows(
        cls,
        probs: Tensor,
        labels: Tensor,
        coverage: float,
        method: str = "lac",
        weights: Tensor | None = None,
        groups: Tensor | None = None,
        per_class: bool = False,
    ) -> Conformal:
        """Thresholds of rows that chose nothing.

        Args:
            probs: (n, C).
            labels: (n,) true classes.
            weights: (n,) how many images of those that sets are made for a row stands for, the same for all rows of a
                class; None: one.
            groups: (n,) number of the group of each row; None: each stands alone.
            per_class: whether the coverage is that of each class alone; a class that has too few rows is in every set.
        """
        check_coverage(coverage, method)
        scores = _scores_of_sets(probs.double(), method).gather(1, labels[:, None]).squeeze(1)
        classes = probs.shape[1]
        if per_class:
            of_class = (labels == c for c in range(classes))
            each = [threshold(scores[own], coverage, None if groups is None else groups[own]) for own in of_class]
            every = torch.tensor(each, dtype=torch.float64)
        elif weights is None:
            every = torch.full((classes,), threshold(scores, coverage, groups), dtype=torch.float64)
        else:
            every = _weighted_thresholds(scores, labels, weights.double(), coverage, classes, groups)
        return cls(coverage, method, every, len(labels), number_of(groups), per_class)

    def sets(self, probs: Tensor) -> Tensor:
        """(N, C) bool: which classes are in the set of each row; the most probable one always is."""
        return (_scores_of_sets(probs.double(), self.method) <= self.thresholds) | _answered(probs)

    @property
    def of_all_classes(self) -> bool:
        """Whether there are too few rows, so that each set is of all classes."""
        return bool(self.thresholds.isinf().all())

    @property
    def note(self) -> str:
        """What a user must know of the sets; "" where there is nothing."""
        share = f"{self.coverage:.0%} coverage{' per class' * self.per_class}"
        if self.of_all_classes:
            few = _few_rows(self.rows, self.groups, self.coverage)
            if self.per_class:
                needed = "calibration rows" if self.groups is None else "groups of calibration rows"
                few = f"no class has the {fewest_rows(self.coverage)} {needed} that are needed"
            return f"sets of {share} hold all classes: {few}; give more --shots, or a lower --coverage"
        if self.thresholds.isinf().any():
            some = int(self.thresholds.isinf().sum())
            return f"{some} rare classes are in every set: too few calibration rows for {share}"
        if self.groups is None or self.per_class:
            return ""
        low, high = coverage_range(self.groups, self.coverage)
        return (
            f"calibrated on images of {self.groups} groups {COUNTED}: sets of {share} then hold the right class for "
            f"{low:.0%} to {high:.0%} of the images of further groups (in 19 of 20 calibrations)"
        )

    def scores(self, probs: Tensor, labels: Tensor, groups: Sequence[str] | None = None) -> dict[str, Any]:
        """Coverage with its interval, and the mean set size, on labelled rows; see `set_metrics`."""
        facts = {"asked": self.coverage, "method": self.method, "rows": self.rows}
        facts |= {"per": "class"} if self.per_class else {}
        return {**facts, **set_metrics(self.sets(probs), labels, groups)}


def set_metrics(sets: Tensor, labels: Tensor, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """Coverage in 0..1 with its interval, mean set size, and the share of empty sets.

    Args:
        sets: (N, C) bool.
        labels: (N,).
        groups: N keys of images that belong together: the coverage is the mean over groups of that of their images, and
            "groups" their number. None: each image stands alone.
    """
    held = sets.gather(1, labels.long()[:, None]).squeeze(1)
    return {**held_share(held, units_of(groups, len(held))[0]), **_sizes(sets)}


def _sizes(sets: Tensor) -> dict[str, float]:
    sizes = sets.sum(dim=1)
    return {"mean_set_size": float(sizes.double().mean()), "empty": float((sizes == 0).double().mean())}


def unit_means(values: Tensor, unit: Tensor) -> Tensor:
    """(U,) float64 means of the values (N,) of each unit, of which `unit` (N,) is the number; N where all differ."""
    unit = unit.unique(return_inverse=True)[1]
    return unit.bincount(values.double()) / unit.bincount()


def held_share(held: Tensor, unit: Tensor) -> dict[str, Any]:
    """Which share is held, (N,) in 0..1, on average over units, with its interval."""
    means = unit_means(held, unit)
    groups = {"groups": len(means)} if len(means) < len(held) else {}
    return {"coverage": float(means.mean()), "interval": share_interval(means), **groups}


def held_by_class(
    sets: Tensor, labels: Tensor, class_names: Sequence[str], groups: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Of each class that has images: the coverage of their sets, its interval, and "images", their number.

    Args:
        sets: (N, C) bool.
        labels: (N,) class indices, or (N, C) of 0, 1 and NaN.
        class_names: C names.
        groups: as `set_metrics` takes them.
    """
    unit, found = units_of(groups, len(labels))[0], {}
    for c, name in enumerate(class_names):
        own = labels == c if labels.ndim == 1 else labels[:, c] == 1
        if own.any():
            found[name] = {**held_share(sets[own, c], unit[own]), "images": int(own.sum())}
    return found


def least_held(by_class: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]] | None:
    """The class with the lowest coverage, of several that have the one with most images; None where there is but one
    class."""
    if len(by_class) < 2:
        return None
    return min(by_class.items(), key=lambda item: (item[1]["coverage"], -item[1]["images"]))


def least_words(by_class: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence on that class; "" where there is none."""
    if (least := least_held(by_class)) is None:
        return ""
    name, scores = least
    (low, high), images = scores["interval"], scores["images"]
    return (
        f"Least often they hold “{name}”: for {scores['coverage']:.1%} of its {images} image{'s' * (images != 1)} "
        f"({of_groups(scores)}95 % interval {low:.1%} to {high:.1%})."
    )


def of_groups(scores: Mapping[str, Any]) -> str:
    """ "each of 25 groups counted once, ", or ""."""
    return f"each of {scores['groups']} groups counted once, " if "groups" in scores else ""


def coverage_sentence(scores: Mapping[str, Any]) -> str:
    """Coverage and size in a sentence."""
    (low, high), per = scores["interval"], " of each class" if scores.get("per") == "class" else ""
    return (
        f"Sets ({scores['method'].upper()}, {scores['asked']:.0%} asked{per}) hold the right class for "
        f"{scores['coverage']:.1%} of the images ({of_groups(scores)}95 % interval {low:.1%} to {high:.1%}), with "
        f"{scores['mean_set_size']:.2f} classes on average."
    )


def _weighted_thresholds(scores, labels, weights, coverage: float, classes: int, groups: Tensor | None) -> Tensor:
    """(C,) the smallest score that rows of `coverage` of all weight reach, the image's own weight counted as infinite.

    A class without rows has the largest weight of all. The rows of a group share what one of them would weigh.
    """
    order = scores.argsort()
    reached = _each_group_alike(weights, groups)[order].cumsum(dim=0)  # (n,)
    own = torch.full((classes,), float(weights.max()), dtype=torch.float64)
    own[labels] = weights
    wanted = coverage * (reached[-1] + own) * (1 - 1e-12)  # (C,)
    place = torch.searchsorted(reached, wanted)
    ends = torch.cat([scores[order], torch.tensor([math.inf], dtype=torch.float64)])
    return ends[place]


@dataclass(frozen=True)
class LabelSets:
    """A threshold made from calibration rows: a set holds the labels that are at least as probable.

    Attributes:
        coverage: what share of an image's true labels is asked for, on average over images that have any.
        threshold: probability; 0 where each set is of all labels.
        rows: calibration rows with at least one true label.
        groups: how many groups these are of; None where each row stands alone.
        named: of each label, from which probability on an image is said to have it; such labels are in its set too.
    """

    coverage: float
    threshold: float
    rows: int
    groups: int | None = None
    named: tuple[float, ...] = ()

    @classmethod
    def of_rows(
        cls,
        probs: Tensor,
        labels: Tensor,
        coverage: float,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
        named: Sequence[float] = (),
    ) -> LabelSets:
        """The highest threshold whose risk is bounded by alpha = 1 - coverage: of n rows, the mean share of missed true
        labels times n / (n + 1), and 1 / (n + 1) for the image itself; of groups of rows, the same with their means.

        Args:
            probs: (n, L) of rows that chose nothing.
                labels: (n, L) 0, 1 or NaN where unknown. Rows without a true label tell nothing and are left out.
            coverage: between 0 and 1.
            weights: (n,) of how many ordinary images a row stands; None: one.
            groups: (n,) number of the group of each row; None: each stands alone.
            named: as the attribute.

        Raises:
            ConfigError: no such coverage.
        """
        check_coverage(coverage)
        rows = (labels == 1).any(dim=1)
        weights = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
        own = None if groups is None else groups[rows]
        least = _risk_controlled(probs.double()[rows], (labels == 1)[rows], weights[rows], coverage, own)
        return cls(coverage, least, int(rows.sum()), number_of(own), tuple(named))

    def sets(self, probs: Tensor) -> Tensor:
        """(N, L) bool: which labels are in the set of each row."""
        least = torch.tensor(self.named or self.threshold, dtype=torch.float64)
        return probs.double() >= least.clamp(max=self.threshold)

    @property
    def of_all_classes(self) -> bool:
        """Whether the rows can promise nothing less than all labels."""
        return self.threshold == ALL_LABELS

    @property
    def note(self) -> str:
        """What a user must know of the sets; "" where there is nothing."""
        if not self.of_all_classes:
            return "" if self.groups is None else f"calibrated on images of {self.groups} groups {COUNTED}"
        few = _few_rows(self.rows, self.groups, self.coverage, "calibration rows with a label")
        return f"sets of {self.coverage:.0%} coverage hold all labels: {few}; give more --shots, or a lower --coverage"

    def scores(self, probs: Tensor, labels: Tensor, groups: Sequence[str] | None = None) -> dict[str, Any]:
        """The mean share of an image's true labels that its set holds, with its interval, and the mean set size.

        Args:
            probs, labels: (N, L).
            groups: N keys of images that belong together, or None; the interval then draws groups.
        """
        sets = self.sets(probs)
        facts = {"asked": self.coverage, "method": "crc", "rows": self.rows}
        return {**facts, **label_set_metrics(sets, labels, groups)}


def label_set_metrics(sets: Tensor, labels: Tensor, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """Coverage in 0..1, over images that have a true label, with its interval; None where no image has one. Mean set
    size and the share of empty sets, over all images.

    Args:
        sets: (N, L) bool.
        labels: (N, L) 0, 1 or NaN.
        groups: as `set_metrics` takes them.
    """
    truth = labels == 1
    rows = truth.any(dim=1)
    held = (sets & truth)[rows].sum(dim=1).double() / truth[rows].sum(dim=1)  # (R,)
    none = {"coverage": None, "interval": None}
    known = held_share(held, units_of(groups, len(labels))[0][rows]) if len(held) else none
    return {**known, "images_with_labels": len(held), **_sizes(sets)}


def words_of_labels(scores: Mapping[str, Any]) -> str:
    """Coverage and size in a sentence."""
    size = f"{scores['mean_set_size']:.2f} labels per image on average"
    if scores["coverage"] is None:
        return f"No image has a label, so the coverage of the sets is not known; they have {size}."
    low, high = scores["interval"]
    return (
        f"Sets ({scores['asked']:.0%} asked) hold {scores['coverage']:.1%} of an image’s true labels on average "
        f"({of_groups(scores)}95 % interval {low:.1%} to {high:.1%}), with {size}."
    )


def raked(labels: Tensor, shares: Tensor) -> Tensor:
    """(n,) weights of mean 1 under which each label has its share of the rows; a label that all rows have, or none, is
    left as it is.

    Args:
        labels: (n, L) 0, 1 or NaN.
        shares: (L,) in 0..1.
    """
    known, present = ~labels.isnan(), labels == 1
    weights = torch.ones(len(labels), dtype=torch.float64)
    for _ in range(ROUNDS):
        for label, share in enumerate(shares.tolist()):
            weights = _as_frequent(weights, present[:, label], known[:, label], share)
    return weights / weights.mean()


def _as_frequent(weights: Tensor, present: Tensor, known: Tensor, share: float) -> Tensor:
    own = float(weights[present].sum() / weights[known].sum()) if bool(known.any()) else 0.0
    if not (0 < own < 1 and 0 < share < 1):
        return weights
    factor = torch.where(present, share / own, (1 - share) / (1 - own))
    return torch.where(known, weights * factor, weights)


def _risk_controlled(probs: Tensor, truth: Tensor, weights: Tensor, coverage: float, groups: Tensor | None) -> float:
    """The highest probability of a true label that may still be the threshold. An image that is asked about may count
    as much as the heaviest row does, before the rows of a group share what one of them would weigh."""
    if not len(probs):
        return ALL_LABELS
    own, weights = float(weights.max()), _each_group_alike(weights, groups)
    most = float(1 - Fraction(str(coverage))) * (float(weights.sum()) + own) - own  # of weighted missed shares
    each = (weights / truth.sum(dim=1))[:, None].expand_as(probs)[truth]  # (P,) what missing a true label costs
    values, order = probs[truth].sort()
    first_of_tie = torch.cat([torch.ones(1, dtype=torch.bool), values[1:] > values[:-1]])
    missed = each[order].cumsum(dim=0) - each[order]  # (P,) where the threshold is this value
    good = (missed <= most + 1e-9) & first_of_tie
    return float(values[good][-1]) if bool(good.any()) else ALL_LABELS
