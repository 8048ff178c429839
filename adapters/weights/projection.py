"""Fine-tuning of the image tower's last projection, on features that are taken before it.

Take it with few shots, where a head on the features is not enough and the towers need not be trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...core.contracts import Adapter, Backbone, Batch, ClassWeighting, FeatureSet, FitReport, StoredViews, has, option
from ...core.data import Selection, selection_split
from ...core.errors import CapabilityError, DataError
from ...core.training import copy_of
from ._projections import ProjectedTexts, ProjectionTraining, train_runs

RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.0)
DEFAULT_RATE = 1e-5
BY_SHOTS: dict[str, Callable[[int], float]] = {"1/K": lambda shots: 1 / shots, "1/K^2": lambda shots: 1 / shots**2}


@dataclass(eq=False, kw_only=True)
class Projection(Adapter):
    """ProLIP, the fine-tuned visual projection.

    Fahes, Vu, Bursuc, Perez, de Charette: CLIP's Visual Embedding Projector is a Few-shot Cornucopia, 2024,
    arXiv 2410.05270. (Not the probabilistic ProLIP, which is the loss `prolip`.)

    logits = s norm(h P + b) W^T with h (B, W) the pooled image features before the projection. Only P is trained, from
    the tower's own P0, by cross-entropy + lambda ||P - P0||^2 (a sum over entries): Adam with epsilon 1e-4, 300 epochs
    of one full batch, a cosine to 0. An epoch sees one augmented view of every image, epoch e view e mod V, where
    `FitReport.chosen` gives V. With several labels per image: binary cross-entropy.

    With val the learning rate is one of 1e-2, 1e-3, ... 1e-8 and lambda one of 10, 1, ... 1e-4, 0: all 49 pairs are
    trained, together, and the first of the best is kept, with high rates and penalties first. Without val nothing is
    held out of the support: then lr is 1e-5 and lambda 1/K as published, K the images of the largest class.

    Where it differs from the released code: its first view is the second of the list; the change P - P0 is learned,
    which is equivalent; losses use the backbone's own logit scale. A tower without a projection matrix (the embedded
    backbone's has a closed form, SigLIP has none) gets a linear map beside its own projection: norm(p(h) + h C), C from
    0, which is ProLIP where p(h) = h P0 + b. Columns that no class text reads stay as they are; CLIP has none.

    Classes with unequal numbers of images count alike (`class_weight`), in the loss by log shares that are added to the
    logits, and on val; published is "none". With equal classes nothing differs.

    The towers are not needed again to score: `logits` takes `Batch(pre_projection=...)`. `tuned` returns them with the
    new projection in place.

    Resources:
        pre_projection: `PreProjection`, its `support.views` where views are asked for.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no backbone to fit, or no features before the projection.
        DataError: these are of other images.

    Example:
        >>> adapter = build_adapter("projection", lr=1e-3, penalty=0.1, epochs=10)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"pre_projection": hidden})
        >>> adapter.logits(Batch(pre_projection=test_hidden)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "the method is ProLIP; training begins with the first view of the list (released: with the second); the change "
        "P - P0 is learned, which is equivalent; losses use the backbone's own logit scale. The comparison lists the "
        "views in the released order"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "pre_projection", "views"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"pre_projection"})
    multilabel: ClassVar[bool] = True
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"hidden"})
    state: ClassVar[tuple[str, ...]] = (
        *("change", "columns", "weight", "bias"),  # of the projection; `weight` as it was, None if it is not a matrix
        *("text", "logit_scale", "logit_bias"),
    )
    trained: ClassVar[tuple[str, ...]] = ("change",)

    pool = has(StoredViews, published_crop=(0.5, 1.0))
    weighting = has(ClassWeighting)
    views: int = 300
    lr: float | None = option(None, "peak learning rate; none: chosen on val, or 1e-5", above=0)
    penalty: float | Literal["1/K", "1/K^2"] | None = option(
        None, "weight of the squared change, K the shots; none: chosen on val, or 1/K", low=0
    )
    epochs: int = option(300, "length of the cosine", low=1, high=100_000)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        given = resources["pre_projection"]
        _check(backbone, given.support, support)
        side = ProjectedTexts.of(classifier)
        self._note_what_stays(backbone, side)
        hidden = given.support.to(support.features.device)
        views = min(self.pool.views, 0 if hidden.views is None else hidden.views.shape[1])

        def images(epoch: int) -> tuple[Tensor, Tensor]:
            seen = hidden.views[:, epoch % views].float() if views else hidden.features
            return seen, self._projected(seen)

        selection = selection_split(support, None if given.val is None else val, seed)
        runs, words = self._runs(support, selection)
        score = self._score_on(given.val, selection, side) if len(runs) > 1 else None
        best, reached = None, None
        priors = self.weighting.priors_of(support.labels, len(classifier))
        for run in train_runs(images, support.targets, side, runs, self.epochs, priors):
            value = None if score is None else score(run)
            if best is None or value > reached:
                best, reached = run, value
        self.change = best.change.T.contiguous()  # (W, R)
        chosen = {"lr": best.lr, "lambda": best.penalty, "views": views}
        history = [
            {"epoch": epoch + 1, "loss": loss, "lr": best.rate(epoch, self.epochs)}
            for epoch, loss in enumerate(best.losses.tolist())
        ]
        notes = self._notes(backbone, views)
        return FitReport(self.name, chosen, words, reached, history, notes, self.change.numel())

    def _note_what_stays(self, backbone: Backbone, side: ProjectedTexts) -> None:
        """The texts, and the projection as it was."""
        matrix, device = backbone.image_projection(), side.rows.device
        self.weight = None if matrix is None else matrix.weight.to(device)  # (W, D)
        self.bias = None if matrix is None or matrix.bias is None else matrix.bias.to(device)
        self.text, self.columns = side.rows, side.columns
        self.logit_scale, self.logit_bias = side.scale, side.bias
        self.backbone_ = backbone.fingerprint

    def _runs(self, support: FeatureSet, selection: Selection) -> tuple[list[ProjectionTraining], str]:
        """Pairs to train, and on what one of them is chosen."""
        on_val = selection.val is not None and not selection.held_out
        rates = (self.lr,) if self.lr is not None else RATES if on_val else (DEFAULT_RATE,)
        penalty = self.penalty if self.penalty is not None or on_val else "1/K"
        penalty = BY_SHOTS[penalty](support.shots) if penalty in BY_SHOTS else penalty
        penalties = PENALTIES if penalty is None else (float(penalty),)
        runs = [ProjectionTraining(rate, value) for rate in rates for value in penalties]
        if len(runs) > 1:
            return runs, selection.words
        given = self.lr is not None and self.penalty is not None
        return runs, "given as options" if given else "published choice without val"

    def _score_on(
        self, val: FeatureSet, selection: Selection, side: ProjectedTexts
    ) -> Callable[[ProjectionTraining], float]:
        _check_rows(val, selection.val, "val")
        hidden = val.features.to(side.rows.device)
        projected = self._projected(hidden)

        def score(run: ProjectionTraining) -> float:
            logits = side.logits(projected, (hidden @ run.change.T).unsqueeze(1))[:, 0]
            return self.weighting.val_score(logits, selection.val.labels)

        return score

    def _notes(self, backbone: Backbone, views: int) -> list[str]:
        notes = [] if views else ["trained on features of the images as they are, without augmented views"]
        if self.weight is None:
            notes.append(
                f"backbone '{backbone.spec}' has no projection matrix: a linear map beside its projection is learned"
            )
        return notes

    # what was learned

    @torch.no_grad()
    def _projected(self, hidden: Tensor) -> Tensor:
        """(N, W) -> (N, D), by the projection as it was."""
        if self.weight is None:
            return self.towers.project(hidden, normalize=False).to(hidden.device)
        projected = hidden @ self.weight
        return projected if self.bias is None else projected + self.bias

    def _logits(self, batch: Batch) -> Tensor:
        if batch.pre_projection is None:
            raise CapabilityError(
                f"adapter '{self.name}' scores image features before the projection; pass Batch(pre_projection=...)"
            )
        hidden = batch.pre_projection.float()
        if hidden.shape[-1] != len(self.change):
            raise CapabilityError(
                f"adapter '{self.name}' was fitted on features of width {len(self.change)} before the projection, "
                f"these have {hidden.shape[-1]}; use the backbone of the fit"
            )
        side = ProjectedTexts(self.text, self.columns, self.logit_scale, self.logit_bias, self.dim_)
        return side.logits(self._projected(hidden), (hidden @ self.change).unsqueeze(1))[:, 0]

    def tuned(self, backbone: Backbone) -> Backbone:
        """A copy of the backbone with the learned projection in place, under a fingerprint of its own.

        Args:
            backbone: that of the fit. It stays as it is.

        Raises:
            CapabilityError: not fitted, another backbone, or one whose towers have no place for it (SigLIP).
        """
        self.check_fitted(backbone)
        made = copy_of(backbone)
        change = self.change.new_zeros(len(self.change), self.dim_)
        change[:, self.columns] = self.change
        made.add_to_projection(change)
        made.mark_learned({"change": change})
        return made


def _check(backbone: Backbone | None, hidden: FeatureSet, support: FeatureSet) -> None:
    if backbone is None:
        raise CapabilityError("adapter 'projection' starts from a backbone's projection; pass fit(backbone=...)")
    backbone.need("hidden")
    backbone.image_projection()
    _check_rows(hidden, support, "support")


def _check_rows(hidden: FeatureSet, shared: FeatureSet, which: str) -> None:
    same_ids = hidden.ids is None or shared.ids is None or hidden.ids == shared.ids
    if len(hidden) != len(shared) or not same_ids:
        raise DataError(
            f"resource pre_projection: its {which} has {len(hidden)} rows, which are not the {len(shared)} images of "
            "the fit; give both for the same images, in the same order"
        )
