"""Linear probe: logistic regression on image features, without the text.

Take it as the baseline, with 16 shots and more, or where there is no text tower.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, Ties, has, option
from ...core.data import selection_split
from ...core.errors import CapabilityError
from ...core.metrics import ALIKE, best_setting

COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
DEFAULT_C = 1.0
SEARCH_FOLDS = 2  # for offsets while C is searched: a fit each, and five only for the C that is taken
NEVER = -1e4  # bias of a class without support images: probability 0, and still a finite logit


@dataclass(eq=False, kw_only=True)
class LinearProbe(Adapter):
    """The linear probe of CLIP (Radford et al., 2021, arXiv 2103.00020), searched as in CoOp (Zhou et al., 2021,
    Learning to Prompt for Vision-Language Models, arXiv 2109.01134).

    L2-regularised logistic regression (lbfgs) on features as the tower gives them, not normalised; where only unit
    features are available it uses those and says so. C is the best of 1e6, 1e4, ... 1e-6 on val, then bisected in log10
    between a tenth of it and ten times it, keeping the better end. Without val the search is on floor(K/4) images per
    class held out of the support, and the probe is refitted on all; with fewer than 4 shots C is 1. With several labels
    per image, one-vs-rest: each label on the images where it is known, one C for all, chosen by macro AUROC.

    A class without support images is never predicted; a label that is always or never present in the support gets a
    constant logit.

    Classes with unequal numbers of images count alike (`class_weight`), and among settings that score alike on val the
    middle one is taken (`ties`); published are "none" and "published". With equal classes only ties differ. Unequal
    ones get offsets (`ClassWeighting.cross_fitted_offsets`).

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: the support has only one class.

    Example:
        >>> adapter = build_adapter("linear-probe", C=10.0)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: checked in the tests against scikit-learn's own fit and an explicit bisection. Without val, C is "
        "chosen on held-out support images"
    )
    multilabel: ClassVar[bool] = True
    text_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("weight", "bias")
    trained: ClassVar[tuple[str, ...]] = ("weight", "bias")

    weighting = has(ClassWeighting)
    choice = has(Ties)
    C: float | None = option(None, "inverse strength of the regularisation; none to search it", above=0)
    steps: int = option(8, "bisection steps of the search; 0 keeps the best of the coarse list", low=0, high=1000)
    max_iter: int = option(1000, "iterations of lbfgs per fit", low=1, high=1_000_000)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        num_classes = len(classifier)
        chosen, words, score = self.C, "given as options", None
        if self.C is None:
            selection = selection_split(support, val, seed)
            chosen, words = DEFAULT_C, selection.words
            if selection.val is not None:
                chosen, score = search_c(
                    lambda c: self._score(selection, num_classes, c, seed), self.steps, self.choice.ties
                )
        self.weight, self.bias = learned = self._balanced_regress(support, num_classes, chosen, seed)
        if score is not None and self.weighting.counts_unequal(selection.train, num_classes):
            if selection.held_out:
                learned = self._balanced_regress(selection.train, num_classes, chosen, seed)
            score = self._score_of(*learned, selection.val)
        return FitReport(self.name, {"C": chosen}, words, score, notes=_notes(support, self.class_names_, num_classes))

    def _score(self, selection, num_classes: int, c: float, seed: int) -> float:
        learned = self._balanced_regress(selection.train, num_classes, c, seed, SEARCH_FOLDS)
        return self._score_of(*learned, selection.val)

    def _score_of(self, weight: Tensor, bias: Tensor, val: FeatureSet) -> float:
        return self.weighting.val_score(val.features @ weight.T + bias, val.labels)

    def _balanced_regress(
        self, support, num_classes: int, c: float, seed: int, count: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `_regress`, with the offsets of classes that have unequal numbers of images in the bias."""

        def logits_of(rest, held) -> Tensor:
            weight, bias = self._regress(rest, num_classes, c)
            return held.features.float() @ weight.T + bias

        weight, bias = self._regress(support, num_classes, c)
        offsets = self.weighting.cross_fitted_offsets(support, num_classes, seed, logits_of, count)
        return weight, bias if offsets is None else bias + offsets

    def _regress(self, support, num_classes: int, c: float) -> tuple[Tensor, Tensor]:
        """(C, D) and (C,) on the support's device."""
        features, basis = _span(support.features.cpu().numpy().astype(np.float64))
        labels = support.labels.cpu().numpy()
        if support.multilabel:
            weight, bias = _one_vs_rest(features, labels, num_classes, c, self.max_iter)
        else:
            unequal = self.weighting.counts_unequal(support, num_classes)
            weight, bias = _multinomial(features, labels, num_classes, c, self.max_iter, balanced=unequal)
        weight = weight if basis is None else weight @ basis
        device = support.features.device
        return torch.from_numpy(weight).float().to(device), torch.from_numpy(bias).float().to(device)

    def _logits(self, batch: Batch) -> Tensor:
        return batch.features.float() @ self.weight.T + self.bias


def search_c(score: Callable[[float], float], steps: int, ties: str = "published") -> tuple[float, float]:
    """The C that CoOp's search ends with, and its score.

    Args:
        score: C -> val score; called once per value.
        steps: bisection steps.
        ties: as for `best_setting`. The middle of a plateau is searched no further, and a bisection whose ends score
            alike stays in its middle.
    """
    scores: dict[float, float] = {}

    def scored(c: float) -> float:
        if c not in scores:
            scores[c] = score(c)
        return scores[c]

    coarse = [scored(c) for c in COARSE]
    best = COARSE[best_setting(np.array(coarse), ties)[0]]  # published: the first, largest C of a tie
    plateau = ties == "plateau" and sum(abs(one - max(coarse)) <= ALIKE for one in coarse) > 1
    low, high = math.log10(best) - 1, math.log10(best) + 1
    for _ in range(0 if plateau else steps):
        middle = (low + high) / 2
        if ties == "plateau" and max(scored(10**low), scored(10**high)) <= scored(best):
            low, high = (low + middle) / 2, (high + middle) / 2
        elif scored(10**low) < scored(10**high):
            best, low = 10**high, middle
        else:
            best, high = 10**low, middle
    return best, scored(best)


def _span(features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates (N, N) in an orthonormal basis (N, D) of the rows, where there are fewer rows than columns.

    L2 keeps the weights in the span of the rows, and a rotation changes neither them nor lbfgs' path: the same result,
    sooner.
    """
    if features.shape[0] >= features.shape[1]:
        return features, None
    basis, coordinates = np.linalg.qr(features.T)
    return coordinates.T, basis.T


def _multinomial(
    features, labels, num_classes: int, c: float, max_iter: int, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    seen, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(seen) < 2:
        raise CapabilityError("adapter 'linear-probe' needs support images of at least two classes; there is one")
    # As scikit-learn's class_weight="balanced", whose checks take a quarter of a small fit.
    weights = (len(labels) / (len(seen) * counts))[places] if balanced else None
    model = _solve(features, labels, c, max_iter, weights)
    weight, bias = model.coef_, model.intercept_
    if len(seen) == 2:  # one row for the second class: halves of it give the same probabilities
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    whole, offsets = np.zeros((num_classes, features.shape[1])), np.full(num_classes, NEVER)
    whole[seen], offsets[seen] = weight, bias
    return whole, offsets


def _one_vs_rest(features, labels, num_classes: int, c: float, max_iter: int) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = np.zeros((num_classes, features.shape[1])), np.zeros(num_classes)
    for label in range(labels.shape[1]):
        known = ~np.isnan(labels[:, label])
        target = labels[known, label] > 0.5
        positives, negatives = target.sum(), (~target).sum()
        if positives and negatives:
            model = _solve(features[known], target, c, max_iter)
            weight[label], bias[label] = model.coef_[0], model.intercept_[0]
        else:
            bias[label] = math.log((positives + 0.5) / (negatives + 0.5))
    return weight, bias


def _solve(features, target, c: float, max_iter: int, weights: np.ndarray | None = None):
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Options and features were checked before; scikit-learn's own checks take a tenth of a small fit.
    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        # At the search's largest C separable shots have no finite optimum; the last iterate is scored, as published.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # one shot is meant
        return LogisticRegression(C=c, solver="lbfgs", max_iter=max_iter).fit(features, target, weights)


def _notes(support, class_names, num_classes: int) -> list[str]:
    notes = []
    if not support.raw_norms:
        notes.append(
            "the features' norms are gone: this was fitted on unit features, the published probe uses raw ones"
        )
    return notes + never_predicted(support, class_names, num_classes)


def never_predicted(support, class_names, num_classes: int) -> list[str]:
    """A sentence that names the classes without support images, where there are any."""
    if support.multilabel:
        return []
    seen = set(support.labels.unique().tolist())
    absent = [class_names[i] if class_names else str(i) for i in range(num_classes) if i not in seen]
    return [f"never predicted, for want of support images: {', '.join(absent)}"] if absent else []
