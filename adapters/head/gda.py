"""GDA: classes as Gaussians with a shared covariance, added to the zero-shot scores; nothing is trained.

Take it from 4 shots on: an answer in a second, hard to beat with 16. It needs several images per class, or views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import (
    Adapter,
    Backbone,
    Batch,
    ClassWeighting,
    FeatureSet,
    FitReport,
    StoredViews,
    TextClassifier,
    Ties,
    has,
    option,
)
from ...core.data import Selection, selection_split
from ...core.errors import CapabilityError
from ...core.metrics import best_setting
from ...core.prompts import build_classifier
from ._gaussian import class_means, mean_class_precision, mean_excess, new_class_gaussians, shrunk_precision

GRID = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
START = 0.1
REFERENCE_SCALE = 100.0  # published alphas assume CLIP's logit scale
ESTIMATORS = {"shrunk": shrunk_precision, "class-mean": mean_class_precision}


@dataclass(eq=False, kw_only=True)
class GDA(Adapter):
    """A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation (Wang et al., 2024, arXiv 2402.04087).

    logits of class c = s x t_c + alpha s/100 (x P mu_c - mu_c P mu_c / 2 - log C), with s the logit scale (100 where
    alphas were published): the zero-shot score, and that of a Gaussian of mean mu_c and a precision P that all classes
    share, all classes equally likely. mu_c is the mean of the unit features of a class, not normalised again. With S
    the covariance of all n rows around their class means, P = D ((n - 1) S + tr(S) I)^-1.

    Every augmented view of an image is a row of its own. With one view of one shot per class S is 0, and so is P:
    zero-shot is left. Alpha is searched on val, the first best of 1e-4, 1e-3 ... 100; without val, on images held out
    of the support, with P and mu then taken from all of it; with too few shots for that it is 0.1, where the published
    search starts.

    `for_classes` makes a classifier of classes of which no image was seen: mu is the mean of the k rows of the support,
    of any class, that are nearest to the class's text, and of some copies of that text; P is the mean over new classes
    of D ((k - 1) S_c + tr(S_c) I)^-1, with S_c the covariance of those k rows around the text; alpha is kept.

    Where it differs from the released code: the script of base and new classes hard-codes D = 512 and takes, for the
    base classes, the pseudo-inverse of the mean of the class covariances without shrinkage (`estimator="class-mean"`;
    a class of one row has none and is left out). There ImageNet's alpha is chosen on test, which is not offered. A
    class without images gets the mean that a new class gets (the released code fails). The D x D systems are solved in
    float64, the shrunk ones by Cholesky.

    Classes with unequal numbers of images count alike (`class_weight`), and among settings that score alike on val the
    middle one is taken (`ties`); published are "none" and "published". With equal classes only ties differ.

    For unequal classes mu P mu is made unbiased: the mean of few images is too long by trace(P S) / n.

    Resources:
        templates: texts with `{}`, for `for_classes`.

    Raises:
        ConfigError: an option out of range.

    Example:
        >>> adapter = build_adapter("gda", alpha=1.0)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "a class without images has the mean of a new class (released: fails); never searched on test, which the "
        "released ImageNet script does; any width in base-to-new (released: 512). The precision matrix is shrunk "
        "in both settings; that of the released base-to-new is not, and its fixture is reproduced with "
        '`estimator="class-mean"`'
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    optional: ClassVar[frozenset[str]] = frozenset({"text_encoder"})
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})
    text_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = (
        "text", "logit_scale", "logit_bias", "weight", "bias", "alpha_", "rows", "templates",
    )  # fmt: skip

    pool = has(StoredViews, published_crop=(0.5, 1.0))
    weighting = has(ClassWeighting)
    choice = has(Ties)
    alpha: float | None = option(None, "weight of the Gaussian scores; none to search it", low=0)
    estimator: str = option(
        "shrunk", "estimator of the precision; class-mean: that of the released base-to-new script", choices=ESTIMATORS
    )
    neighbors: int = option(64, "rows nearest to the text of a class without images", low=2, high=1_000_000)
    text_copies: int = option(16, "how often that text counts as a row of its class", low=0, high=1_000_000)
    keep_rows: bool = option(True, "keep the rows of the support, which new classes need; no saves space")

    def for_classes(
        self, backbone: Backbone | None, class_names: Sequence[str], classifier: TextClassifier | None = None
    ) -> GDA:
        """A fitted copy for classes of which no image was seen (base-to-new generalisation).

        Args:
            backbone: that of the fit; encodes the names in the templates of the fit.
            class_names: their names.
            classifier: their text weights, instead of those from backbone and templates.

        Raises:
            CapabilityError: not fitted, fitted with `keep_rows=False`, another backbone, or no text to start from.
        """
        self._check_transfer(backbone, classifier)
        if classifier is None:
            classifier = build_classifier(backbone, class_names, self.templates)
        other = self.copied_for(class_names)
        other.text = classifier.weights.to(self.rows.device)
        means, precision = new_class_gaussians(other.text, self.rows, self.neighbors, self.text_copies)
        other._set_scores(means, precision)
        return other

    @torch.no_grad()
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        self.logit_bias = classifier.logit_bias or 0.0
        self.templates = list(resources.get("templates") or ())
        self.alpha_, words, score = self.alpha, "given as options", None
        if self.alpha is None:
            self.alpha_, words, score = self._choose(selection_split(support, val, seed))
        rows, labels = self._estimate(support)
        self.rows = rows if self.keep_rows else rows[:0]
        return FitReport(self.name, {"alpha": self.alpha_}, words, score, notes=self._notes(support, labels))

    def _choose(self, selection: Selection) -> tuple[float, str, float | None]:
        """The first best alpha, on what it was chosen, and its score; the start where none is right once."""
        if selection.val is None:
            return START, selection.words, None
        self._estimate(selection.train)
        unit = selection.val.unit
        zero_shot, gaussian = self._zero_shot(unit), self._gaussian(unit)
        scores = [self.weighting.val_score(zero_shot + alpha * gaussian, selection.val.labels) for alpha in GRID]
        best = best_setting(np.array(scores), self.choice.ties)[0]
        return GRID[best] if scores[best] > 0 else START, selection.words, scores[best]

    def _rows(self, support: FeatureSet) -> tuple[Tensor, Tensor]:
        """(n, D) unit rows, one per view or image, and their (n,) labels."""
        if not self.pool.views or support.views is None:
            return support.unit, support.labels
        views = support.views[:, : self.pool.views].float()  # (N, V, D)
        labels = support.labels.repeat_interleave(views.shape[1])
        return F.normalize(views, dim=-1).flatten(0, 1), labels

    def _estimate(self, support: FeatureSet) -> tuple[Tensor, Tensor]:
        """Set the scores; the rows that they are of, and their labels."""
        rows, labels = self._rows(support)
        means, counts = class_means(rows, labels, len(self.text))  # (C, D), (C,)
        precision = ESTIMATORS[self.estimator](rows, labels, means, counts)  # (D, D)
        absent = counts == 0
        if absent.any():
            means[absent] = new_class_gaussians(self.text[absent], rows, self.neighbors, self.text_copies)[0]
        unequal = self.weighting.class_weights(labels, len(means)) is not None
        images = counts / (len(rows) // len(support))  # views of an image are no further images
        excess = mean_excess(rows, labels, means, images, precision) if unequal else None
        self._set_scores(means, precision, excess)
        return rows, labels

    def _set_scores(self, means: Tensor, precision: Tensor, excess: Tensor | None = None) -> None:
        """(C, D) weights and (C,) biases of the Gaussian scores, from float64 means and precision.

        Args:
            excess: (C,) by how much mu P mu is too large for want of images, see `mean_excess`; None for equal classes.
        """
        weight = means @ precision
        prior = torch.full_like(weight[:, 0], len(means)).log()
        length = (weight * means).sum(dim=1)
        if excess is not None:
            length = length - excess
        self.weight, self.bias = weight.float(), (-length / 2 - prior).float()

    def _zero_shot(self, unit: Tensor) -> Tensor:
        return self.logit_scale * unit @ self.text.T + self.logit_bias

    def _gaussian(self, unit: Tensor) -> Tensor:
        """(B, C) log densities, up to what all classes share."""
        return self.logit_scale / REFERENCE_SCALE * (unit @ self.weight.T + self.bias)

    def _logits(self, batch: Batch) -> Tensor:
        unit = batch.unit
        return self._zero_shot(unit) + self.alpha_ * self._gaussian(unit)

    def _notes(self, support: FeatureSet, labels: Tensor) -> list[str]:
        notes = ["each image is one row: there are no augmented views"]
        if self.pool.views and support.views is not None:
            notes = [f"{len(labels) // len(support)} augmented views of each image are rows of their own"]
        if not self.weight.any():
            notes.append("one row per class has no covariance: this is zero-shot; take more shots or views")
        absent = len(self.text) - len(labels.unique())
        if absent:
            notes.append(f"{absent} classes without images have means made of their text and the rows nearest to it")
        return notes

    def _check_transfer(self, backbone: Backbone | None, classifier: TextClassifier | None) -> None:
        self.check_fitted()
        if not len(self.rows):
            raise CapabilityError("adapter 'gda' kept no rows, which other classes need; fit with keep_rows=True")
        if classifier is not None:
            width = classifier.weights.shape[1]
            if width != self.dim_:
                raise CapabilityError(
                    f"text features are {width} wide, gda's are {self.dim_}; use the backbone of the fit"
                )
            return
        if backbone is None:
            raise CapabilityError("adapter 'gda' needs the text of other classes; give a backbone or their classifier")
        self.check_fitted(backbone)
        if not self.templates:
            raise CapabilityError(
                "adapter 'gda' was fitted without templates, which the text of other classes needs; "
                "fit with resources={'templates': [...]}, or give their classifier"
            )
