"""Several backbones together: zero-shot logits of each, at a temperature that is fixed or depends on the image.

Take it where several backbones name your classes and each is right on other images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, TextClassifier, has, option
from ...core.errors import CapabilityError, DataError
from ...core.training import LearningRates, epoch_batches, label_loss, train_epochs

COMBINE = ("mean", "static", "input")
THIS_BACKBONE = "own"  # what the backbone of the fit is called in reports
STATIC_ITERATIONS = 50


@dataclass(eq=False, kw_only=True)
class MultiBackbone(Adapter):
    """Unveiling Backbone Effects in CLIP: Exploring Representational Synergies and Variances (Rodriguez-Opazo et al.,
    2023, arXiv 2312.14400) and Synergy and Diversity in CLIP: Enhancing Performance Through Adaptive Backbone
    Ensembling (the same, 2024, arXiv 2405.17139: the Neural Logit Controller).

    logits = mean over backbones b of z_b / T_b, with z_b = s_b x_b W_b^T the zero-shot logits of unit features. The
    temperatures are 1 ("mean"), one number per backbone ("static"), or given by a small network that sees the unit
    features of all backbones ("input"):

        log 1/T = t + W2 relu(W1 (x - mean x) sqrt(D) + b1),

    where x is all features side by side and D their width. They are learned by cross-entropy on the labelled images.

    Experimental: only the abstracts and public reviews were read, which say what the controller sees (all features),
    what it gives (one temperature per backbone) and by which loss it learns. The formula, the network's size, the
    penalty that holds temperatures near 1 and the training are ours: t by L-BFGS first, then everything by AdamW.

    The penalty is the mean square of log T over images, summed over backbones. Its weight cannot be 0: where all shots
    are classified right, the cross-entropy alone has no minimum.

    Classes with unequal numbers of images count alike (`class_weight`), by log shares that are added to the logits in
    training; with equal classes nothing differs.

    Resources:
        further_backbones: tuple of `FurtherBackbone`, of the same images in the same order.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no further backbone, or a batch without their features.
        DataError: a further backbone's images, labels or classes are not those of the fit.

    Example:
        >>> adapter = build_adapter("multi-backbone", combine="static")
        >>> report = adapter.fit(support, classifier, resources={"further_backbones": further})
        >>> adapter.logits(Batch(features=test.features, further=further_features)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture, experimental: checked against the mean of logits, for stationary temperatures, and against its "
        "formula, computed directly"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "further_backbones"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"features", "further_backbones"})
    state: ClassVar[tuple[str, ...]] = (
        "specs", "widths", "texts", "scales", "biases", "log_weights", "centre", "inner", "inner_bias", "outer",
    )  # fmt: skip
    experimental: ClassVar[str] = "the formula of the temperatures, the controller's size and how both are trained"

    weighting = has(ClassWeighting)
    combine: str = option("input", "what the temperatures depend on", choices=COMBINE)
    prior: float = option(0.01, "weight of the penalty that holds temperatures near 1", above=0)
    hidden: int = option(32, "width of the controller's hidden layer", low=1, high=1_048_576)
    steps: int = option(300, "steps of the controller's training", low=1, high=10_000_000)
    lr: float = option(1e-3, "learning rate of AdamW", above=0)
    weight_decay: float = option(0.01, "weight decay of AdamW", low=0)
    batch_size: int = option(256, "images per step", low=1, high=1_048_576)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        further = resources["further_backbones"]
        _check(further, support, val, classifier)
        device = support.features.device
        self._set_texts([classifier, *(other.classifier.to(device) for other in further)])
        self.specs = [THIS_BACKBONE, *(other.spec for other in further)]
        unit = _side_by_side([support.features, *(other.support.features for other in further)])  # (N, D)
        logits = self._each(unit)  # (B, N, C)
        criterion = label_loss(False, self.weighting.priors_of(support.labels, len(classifier)))

        def loss_of(log_weights: Tensor, index: Tensor | slice) -> Tensor:
            """Of (B, n) log 1/T of the images in `index`: cross-entropy, and the pull of temperatures towards 1."""
            mixed = criterion(_mixed(log_weights, logits[:, index]), support.labels[index])
            return mixed + self.prior * log_weights.square().sum(dim=0).mean()

        self.log_weights = torch.zeros(len(self.specs), device=device)
        self.centre = self.inner = self.inner_bias = self.outer = None
        history, trained = [], 0
        if self.combine != "mean":
            self._fit_static(loss_of, len(support))
            trained = len(self.specs)
        if self.combine == "input":
            history = self._fit_controller(loss_of, unit, seed)
            trained += self.inner.numel() + self.inner_bias.numel() + self.outer.numel()
        chosen = {f"temperature {spec}": float(t) for spec, t in zip(self.specs, self._mean_temperatures(unit))}
        words = f"cross-entropy on the {len(support)} shots" if trained else "nothing to choose"
        notes = _val_notes(self, val, further)
        return FitReport(self.name, chosen, words, history=history, notes=notes, trained_parameters=trained)

    def _set_texts(self, classifiers: list[TextClassifier]) -> None:
        """Text weights of all backbones side by side, as their features will be."""
        self.texts = torch.cat([one.weights for one in classifiers], dim=-1)  # (C, D)
        self.widths = [one.weights.shape[1] for one in classifiers]
        self.scales = [one.logit_scale for one in classifiers]
        self.biases = [one.logit_bias or 0.0 for one in classifiers]

    def _each(self, unit: Tensor) -> Tensor:
        """(B, N, C) zero-shot logits of every backbone."""
        parts = zip(unit.split(self.widths, dim=-1), self.texts.split(self.widths, dim=-1), self.scales, self.biases)
        return torch.stack([scale * images @ texts.T + bias for images, texts, scale, bias in parts])

    def _fit_static(self, loss_of: Callable[..., Tensor], images: int) -> None:
        """One temperature per backbone, by L-BFGS on all shots at once."""
        weights = self.log_weights.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([weights], max_iter=STATIC_ITERATIONS, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = loss_of(weights[:, None].expand(-1, images), slice(None))
            loss.backward()
            return loss

        optimizer.step(closure)
        self.log_weights = weights.detach()

    def _fit_controller(self, loss_of: Callable[..., Tensor], unit: Tensor, seed: int) -> list[dict[str, float]]:
        """The network, begun so that it gives the static temperatures; the history in passes over the shots."""
        width, device = unit.shape[1], unit.device
        first = torch.randn(width, self.hidden, generator=torch.Generator().manual_seed(seed)) / width**0.5
        self.centre = unit.mean(dim=0)
        self.inner = first.to(device).requires_grad_()
        self.inner_bias = torch.zeros(self.hidden, device=device, requires_grad=True)
        self.outer = torch.zeros(self.hidden, len(self.specs), device=device, requires_grad=True)
        self.log_weights = self.log_weights.clone().requires_grad_()
        parameters = [self.log_weights, self.inner, self.inner_bias, self.outer]
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        batches = epoch_batches(len(unit), self.batch_size, seed, device=device)

        def loss_of_step(epoch: int, index: Tensor) -> Tensor:
            return loss_of(self._log_weights_of(unit[index]), index)

        rates = LearningRates([self.lr] * self.steps).by_epoch(len(batches(0)))
        history = [epoch.row(first=0) for epoch in train_epochs(optimizer, rates, batches, loss_of_step)]
        self.log_weights, self.inner, self.inner_bias, self.outer = (p.detach() for p in parameters)
        return history

    def _log_weights_of(self, unit: Tensor) -> Tensor:
        """(B, N) log 1/T of each backbone and image."""
        if self.inner is None:
            return self.log_weights[:, None].expand(-1, len(unit))
        seen = (unit - self.centre) * unit.shape[1] ** 0.5
        changes = F.relu(seen @ self.inner + self.inner_bias) @ self.outer  # (N, B)
        return (self.log_weights + changes).T

    def _mean_temperatures(self, unit: Tensor) -> Tensor:
        """(B,) over the images, as a geometric mean."""
        return self._log_weights_of(unit).mean(dim=1).neg().exp()

    def _logits(self, batch: Batch) -> Tensor:
        if batch.further is None or len(batch.further) != len(self.specs) - 1:
            raise CapabilityError(
                "adapter 'multi-backbone' needs features of the further backbones of the fit as well: "
                f"Batch(features=..., further=(one of {', one of '.join(self.specs[1:])}))"
            )
        unit = _side_by_side([batch.features, *batch.further])
        if unit.shape[1] != sum(self.widths):
            raise CapabilityError(
                f"the backbones' features are {unit.shape[1]} wide together, those of the fit {sum(self.widths)}; "
                f"give {', '.join(self.specs[1:])}, in that order"
            )
        return _mixed(self._log_weights_of(unit), self._each(unit))


def _mixed(log_weights: Tensor, logits: Tensor) -> Tensor:
    """(N, C): mean over backbones of (B, N, C) logits at (B, N) log 1/T."""
    return (log_weights.exp()[..., None] * logits).mean(dim=0)


def _side_by_side(features: list[Tensor]) -> Tensor:
    """(N, D) unit rows of each backbone, one beside the other, on the device of the first."""
    return torch.cat([F.normalize(part.to(features[0].device).float(), dim=-1) for part in features], dim=-1)


def _check(further, support: FeatureSet, val: FeatureSet | None, classifier: TextClassifier) -> None:
    if not further:
        raise CapabilityError("adapter 'multi-backbone' combines several backbones; name at least one further one")
    for other in further:
        _check_rows(other.spec, "shots", other.support, support)
        if val is not None and other.val is not None:
            _check_rows(other.spec, "val images", other.val, val)
        names, theirs = classifier.class_names, other.classifier.class_names
        if len(other.classifier) != len(classifier) or (names and theirs and names != theirs):
            raise DataError(
                f"further backbone '{other.spec}': its text classifier has other classes, or another order; make "
                "both from the same names"
            )


def _check_rows(spec: str, what: str, theirs: FeatureSet, ours: FeatureSet) -> None:
    """Rows must be the same images: as far as ids and labels tell."""
    if len(theirs) != len(ours):
        raise DataError(f"further backbone '{spec}': {len(theirs)} {what} for {len(ours)}; give the same images")
    same_ids = theirs.ids is None or ours.ids is None or theirs.ids == ours.ids
    same_labels = theirs.labels is None or ours.labels is None or torch.equal(theirs.labels.cpu(), ours.labels.cpu())
    if not (same_ids and same_labels):
        raise DataError(
            f"further backbone '{spec}': its {what} are others, or in another order; give the same images in the "
            "same order"
        )


def _val_notes(adapter: MultiBackbone, val: FeatureSet | None, further) -> list[str]:
    """Each backbone alone and all together on val, where all have it."""
    if val is None or val.labels is None or not len(val) or any(other.val is None for other in further):
        return []
    unit = _side_by_side([val.features, *(other.val.features for other in further)])
    each = adapter._each(unit)
    both = [*each, _mixed(adapter._log_weights_of(unit), each)]
    right = [100 * float((logits.argmax(dim=-1) == val.labels).double().mean()) for logits in both]
    alone = ", ".join(f"{spec} {score:.1f}" for spec, score in zip(adapter.specs, right))
    return [f"accuracy on val: {alone}, together {right[-1]:.1f}"]
