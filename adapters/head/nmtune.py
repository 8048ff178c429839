"""NMTune: a small residual network on frozen features, kept near them and shaped by their singular values.

Take it with hundreds of labelled images, where the tower was trained on noisy data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, TrainingViews, has, option
from ...core.training import LearningRates, epoch_batches, train_epochs, views_of_training


@dataclass(eq=False, kw_only=True)
class NMTune(Adapter):
    """Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks (Chen et al., 2024,
    arXiv 2309.17002).

    z = s MLP(f) + f, with f the frozen feature as the tower gives it, MLP = linear (D to `ratio` D), batch
    normalisation, ReLU, linear (back to D), and s a learned factor per channel that starts at 1; logits = a linear head
    on z, which is not normalised. Each step sees two augmented views of B images, 2 B rows, and minimises

    * the cross-entropy of all rows,
    * `mse_weight` times the mean squared difference of unit z of one view and unit f of the other (mean over B D),
    * `cov_weight` times the sum of squared covariances of different channels of z (unbiased, over 2 B rows) over D,
    * minus `svd_weight` times the mean share of the largest singular values of z, not centred, in the sum of all.

    AdamW with a cosine over all steps; the model of the last step is kept, and nothing is chosen. The text tower is not
    used.

    Where it differs from the released code: there an epoch draws two new crops of each image (scale 0.8 to 1), as with
    `fresh_views`; by default epoch e takes stored views 2e and 2e + 1, modulo their number. Without views an image
    stands for both, and is one row: taking it twice would change no term, except for the 1 that unbiased covariances
    subtract from the number of rows. An image left over alone joins the batch before it. Defaults are those of the
    published commands, which differ from those of the released argument parser. The released code overwrites z with its
    centred rows after the singular values are taken; here each term takes what it names. Only singular values are
    differentiated, so that equal ones do no harm.

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs.

    Resources:
        batch_order: (epochs, N) int64, the order of images in each epoch instead of a seeded shuffle.
        images: `TrainingImages`, with `fresh_views`.

    Raises:
        ConfigError: an option out of range.

    Example:
        >>> adapter = build_adapter("nmtune", epochs=5)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: checked against an explicit training loop with torch's own layers, and each term by hand"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    state: ClassVar[tuple[str, ...]] = ("hidden", "hidden_bias", "out", "out_bias", "head", "head_bias")

    pool = has(TrainingViews, published_crop=(0.8, 1.0))
    weighting = has(ClassWeighting)
    ratio: int = option(4, "width of the hidden layer, as a multiple of the features'", low=1, high=1024)
    mse_weight: float = option(1.0, "weight of the consistency with the frozen features", low=0)
    cov_weight: float = option(0.04, "weight of the covariances of different channels", low=0)
    svd_weight: float = option(0.001, "weight of the share of the largest singular values", low=0)
    singular_values: int = option(5, "how many of the largest singular values count", low=1, high=1_048_576)
    lr: float = option(1e-3, "peak learning rate", above=0)
    weight_decay: float = option(1e-4, "weight decay of AdamW, on all parameters", low=0)
    epochs: int = option(30, "passes over the support", low=1, high=100_000)
    batch_size: int = option(64, "images per step, each with two views", low=1, high=1_048_576)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self._priors = self.weighting.priors_of(support.labels, len(classifier))
        generator = torch.Generator().manual_seed(seed)
        model = _Tuned(support.dim, self.ratio * support.dim, len(classifier), generator, support.features.device)
        views = views_of_training(self.pool, support, backbone, resources, seed, count=2)
        history = self._train(model, support, views, resources.get("batch_order"), seed)
        self._remember(model)
        count = sum(parameter.numel() for parameter in model.parameters.values())
        return FitReport(self.name, history=history, notes=self._notes(support), trained_parameters=count)

    def _train(
        self, model: _Tuned, support: FeatureSet, views, order: Tensor | None, seed: int
    ) -> list[dict[str, float]]:
        parameters = list(model.parameters.values())
        device = support.features.device
        fused = device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        minibatches = epoch_batches(len(support), self.batch_size, seed, order=order, device=device)

        def batches(epoch: int) -> list[Tensor]:
            return without_single(minibatches(epoch), self.batch_size)

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            return self._loss(model, self._pair(support, views, epoch, index), support.labels[index])

        steps = len(batches(0))
        rates = LearningRates.cosine(self.lr, self.epochs * steps).by_epoch(steps)
        return [epoch.row() for epoch in train_epochs(optimizer, rates, batches, loss_of)]

    def _loss(self, model: _Tuned, views: list[Tensor], labels: Tensor) -> Tensor:
        """Of B images, from raw features (B, D) of two views of each, or of one that stands for both."""
        views = views * 2 if len(views) == len(labels) == 1 else views  # a row alone has no variance
        tuned = model.tune(torch.cat(views))  # (R, D)
        logits = model.classify(tuned)
        loss = F.cross_entropy(logits if self._priors is None else logits + self._priors, labels.repeat(len(views)))
        loss = loss + self.mse_weight * consistency(tuned[-len(labels) :], views[0])
        loss = loss + self.cov_weight * off_diagonal_covariance(tuned)
        return loss - self.svd_weight * dominance(tuned, self.singular_values)

    def _pair(self, support: FeatureSet, views, epoch: int, index: Tensor) -> list[Tensor]:
        """(B, D) features of the two views of an epoch, as the tower gives them, or of the images alone."""
        if self.pool.fresh:
            return list(views.of(support, epoch)[index].unbind(dim=1))
        if not views or support.views is None:
            return [support.features[index]]
        number = min(views, support.views.shape[1])
        return [support.views[index, (2 * epoch + i) % number].float() for i in (0, 1)]

    def _remember(self, model: _Tuned) -> None:
        """The tuned network with its batch normalisation and channel factors written into the linear layers."""
        with torch.no_grad():
            p = model.parameters
            gain = p["gain"] * torch.rsqrt(model.variance + _Tuned.EPS)
            self.hidden = gain[:, None] * p["hidden"]
            self.hidden_bias = gain * (p["hidden_bias"] - model.mean) + p["shift"]
            self.out, self.out_bias = p["scale"][:, None] * p["out"], p["scale"] * p["out_bias"]
            self.head, self.head_bias = p["head"].detach(), p["head_bias"].detach()

    def _logits(self, batch: Batch) -> Tensor:
        features = batch.features.float()
        hidden = F.relu(F.linear(features, self.hidden, self.hidden_bias))
        return F.linear(F.linear(hidden, self.out, self.out_bias) + features, self.head, self.head_bias)

    def _notes(self, support: FeatureSet) -> list[str]:
        notes = [self.pool.views_note(support)] if self.pool.fresh else []
        if not self.pool.fresh and (not self.pool.views or support.views is None):
            notes.append("no augmented views: each image stands for both of its views")
        if not support.raw_norms:
            notes.append(
                "the features' norms are gone: this was fitted on unit features, the published method uses raw ones"
            )
        return notes


def consistency(tuned: Tensor, features: Tensor) -> Tensor:
    """Mean squared difference of (B, D) tuned and original features, rows of both made unit."""
    return F.mse_loss(F.normalize(tuned, dim=-1), F.normalize(features, dim=-1))


def off_diagonal_covariance(tuned: Tensor) -> Tensor:
    """Sum of squared unbiased covariances of different channels of (R, D) rows, over D."""
    centered = tuned - tuned.mean(dim=0)
    rows, width = tuned.shape
    gram = centered @ centered.T if rows < width else centered.T @ centered  # both have the squares of the covariances
    variances = centered.square().sum(dim=0)
    return (gram.square().sum() - variances.square().sum()) / (rows - 1) ** 2 / width


def dominance(tuned: Tensor, count: int) -> Tensor:
    """Mean of the `count` largest singular values of (R, D) rows, each as its share of the sum of all."""
    values = torch.linalg.svdvals(tuned)
    return (values / values.sum())[:count].mean()


class _Tuned:
    """The residual network and its head, with running statistics for the batch normalisation.

    Args:
        width: D.
        hidden: of the inner layer.
        num_classes: C.
        generator: of the first weights, on the CPU.
    """

    EPS = 1e-5
    MOMENTUM = 0.1

    def __init__(self, width: int, hidden: int, num_classes: int, generator: torch.Generator, device):
        def uniform(bound: float, *shape: int) -> Tensor:
            return bound * (2 * torch.rand(*shape, generator=generator) - 1)

        first = {
            "hidden": uniform(width**-0.5, hidden, width),
            "hidden_bias": uniform(width**-0.5, hidden),
            "gain": torch.ones(hidden),
            "shift": torch.zeros(hidden),
            "out": uniform(hidden**-0.5, width, hidden),
            "out_bias": uniform(hidden**-0.5, width),
            "scale": torch.ones(width),
            "head": uniform((6 / width) ** 0.5, num_classes, width),  # kaiming_uniform
            "head_bias": torch.zeros(num_classes),
        }
        self.parameters = {name: value.to(device).requires_grad_() for name, value in first.items()}
        self.mean, self.variance = torch.zeros(hidden, device=device), torch.ones(hidden, device=device)

    def tune(self, features: Tensor) -> Tensor:
        """(R, D) -> (R, D), R at least 2; the running statistics move."""
        p = self.parameters
        inner = F.linear(features, p["hidden"], p["hidden_bias"])  # (R, hidden)
        inner = F.batch_norm(inner, self.mean, self.variance, p["gain"], p["shift"], True, self.MOMENTUM, self.EPS)
        return p["scale"] * F.linear(F.relu(inner), p["out"], p["out_bias"]) + features

    def classify(self, tuned: Tensor) -> Tensor:
        """(R, D) -> (R, C) logits."""
        return F.linear(tuned, self.parameters["head"], self.parameters["head_bias"])


def without_single(batches: list[Tensor], batch_size: int) -> list[Tensor]:
    """An image left over alone joins the batch before, for its own rows would have no variance."""
    if len(batches) > 1 and len(batches[-1]) == 1 < batch_size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
