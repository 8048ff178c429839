"""What towers give: features of a set of samples, and of the parts they have, with all that is known of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CapabilityError, DataError
from .bags import Bags, HeldBag
from .part_views import IMAGES, PartViews
from .shown import in_short

PROJECTED = "projected"
PRE_PROJECTION = "pre_projection"
PATCH_TOKENS = "patch_tokens"
VALUE_TOKENS = "value_tokens"
TAPS = {PROJECTED: None, PRE_PROJECTION: "hidden", PATCH_TOKENS: "image_tokens", VALUE_TOKENS: "image_blocks"}
"""Where in the image tower features are taken -> what the tower must be capable of."""
MEAN_TOLERANCE = 1e-3
"""How far features may lie from the mean of their parts, in units of the largest number among the parts."""
OF_PARTS = ("parts", "parts_mask", "parts_order", "stored_bags")
PER_ROW = ("features", "labels", "soft_labels", "views", "groups", "ids", *OF_PARTS)
PER_CLASS = ("weights", "raw", "prototypes", "texts", "class_names", "negative", "unnormalized")
"""Fields of a set, and of a text classifier, that have one entry per row, and per class."""
TENSORS = ("features", "labels", "soft_labels", "views", "parts", "parts_mask", "parts_order")
OF_BATCHES = ("features", "pixels", "pre_projection", "keys", "base", "parts", "parts_mask", "patch_tokens")
OF_CLASSES = ("weights", "raw", "negative", "unnormalized")
"""Fields of a set, of a batch and of a text classifier that are tensors, which arrays and lists become."""
TensorLike: TypeAlias = Tensor | np.ndarray | Sequence[Any]
"""What becomes a tensor."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of N images.

    Class attributes:
        chooses: whether settings may be chosen, on these as the val of a fit or on images held out of its support.

    Tensors may be given as numpy arrays and lists, too.

    Args:
        features: (N, D) float32, as the tower gives them, not normalised.
        labels: (N,) int64 class indices, or (N, C) float 0/1 with NaN where a label is unknown; None if unlabelled.
        class_names: the C names that labels index.
        views: (N, V, D) float32 features of V augmented views of each image, or None.
        tap: one of `TAPS`: "projected" (shared space), "pre_projection", or of all patches in one row "patch_tokens" or
            "value_tokens".
        groups: N group keys (patient, identity, video) or None.
        ids: N identifiers or None.
        backbone: fingerprint of the backbone that made them, or "".
        raw_norms: False where the norms are gone (a file of normalised features).
        parts: (N, T, D) float32 features of the parts of each sample, in their order (frames of a clip, slices of a
            volume, windows of a raster, crops of an image), or None. `features` is then their mean; see `of_parts`.
        parts_mask: (N, T) bool, True where there is a part; by default all are there. Parts that are not are zero.
        parts_order: (N, T) int64, which part of the sample as it was read stands where; by default each in its place.
        part_views: how the parts divide into views whose predictions are averaged; None where they are all of one.
        stored_bags: N bags of parts in place of `parts`, read one at a time (tiles of a slide), or None. `features` are
            then their means; see `of_bags`.
        soft_labels: (N, C) in 0..1 with NaN where a label is unknown, which losses take in place of labels: smoothed
            ones, unknown to everything else. None where they are the labels.

    Raises:
        DataError: sizes disagree, a feature is not finite, a sample has no part, or the features are not the mean of
            the parts.
    """

    chooses: ClassVar[bool] = True

    features: Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    views: Tensor | None = None
    tap: str = PROJECTED
    groups: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None
    backbone: str = ""
    raw_norms: bool = field(default=True, compare=False)
    parts: Tensor | None = None
    parts_mask: Tensor | None = None
    parts_order: Tensor | None = None
    part_views: PartViews | None = None
    soft_labels: Tensor | None = None
    stored_bags: Bags | None = None

    def __init__(
        self,
        features: TensorLike,
        labels: TensorLike | None = None,
        class_names: Sequence[str] = (),
        views: TensorLike | None = None,
        tap: str = PROJECTED,
        groups: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        backbone: str = "",
        raw_norms: bool = True,
        parts: TensorLike | None = None,
        parts_mask: TensorLike | None = None,
        parts_order: TensorLike | None = None,
        part_views: PartViews | None = None,
        soft_labels: TensorLike | None = None,
        stored_bags: Bags | None = None,
    ):
        for name, value in list(locals().items())[1:]:
            object.__setattr__(self, name, value)
        _take_arrays(self, TENSORS)
        self._check()

    def _check(self) -> None:
        """Bring fields into form, or say what is wrong with them."""
        if self.features.ndim != 2:
            raise DataError(f"features have shape {tuple(self.features.shape)}; (N, D) is needed")
        object.__setattr__(self, "features", self.features.float())
        object.__setattr__(self, "class_names", tuple(self.class_names))
        for name in ("labels", "soft_labels", "views", "groups", "ids", "stored_bags"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.features):
                raise DataError(f"{name} has {len(value)} rows for {len(self.features)} features")
        if self.labels is not None and not self.labels.is_floating_point():
            object.__setattr__(self, "labels", self.labels.long())
        if not torch.isfinite(self.features).all():
            raise DataError("features hold NaN or infinity; extract them again")
        if self.stored_bags is not None:
            self._check_bags(self.stored_bags)
        elif self.parts is not None:
            self._check_parts()
        elif self.parts_mask is not None:
            raise DataError("parts_mask without parts; give parts (N, T, D) too")

    @classmethod
    def of_parts(cls, parts: TensorLike, parts_mask: TensorLike | None = None, **others: Any) -> FeatureSet:
        """A set of samples with parts, whose features are the means of the parts.

        Args:
            parts: (N, T, D).
            parts_mask: (N, T), True where there is a part; by default all are there.
            others: further fields of the set.
        """
        parts = _tensor("parts", parts)
        mask = all_there(parts) if parts_mask is None else _tensor("parts_mask", parts_mask).bool()
        return cls(mean_of_parts(parts, mask), parts=parts, parts_mask=mask, **others)

    @classmethod
    def of_bags(cls, bags: Bags, **others: Any) -> FeatureSet:
        """A set of samples whose parts are read one sample at a time, and whose features are the means of the parts.

        Args:
            bags: N bags, each of which is read once, for its mean.
            others: further fields of the set.
        """
        return cls(bags.means(), stored_bags=bags, **others)

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        rows, width = self.features.shape
        labels = "no labels" if self.labels is None else f"labels {tuple(self.labels.shape)}"
        parts = "" if self.parts is None else f", parts {tuple(self.parts.shape)}"
        parts = parts if self.stored_bags is None else f", {self.stored_bags}"
        of = f" of {len(self.class_names)} classes" if self.class_names else ""
        return f"<{type(self).__name__}: {rows} images, {width} features, {labels}{of}{parts}>"

    @property
    def unit(self) -> Tensor:
        """(N, D), rows of unit length."""
        return F.normalize(self.features, dim=-1)

    @property
    def bags(self) -> Bags:
        """N tensors (T, D), the parts of each sample that are there; where they are stored, read when asked for.

        Raises:
            CapabilityError: there are no parts.
        """
        return bags_of(self.parts, self.parts_mask) if self.stored_bags is None else self.stored_bags

    @property
    def has_parts(self) -> bool:
        """Whether the parts of the samples are known, in memory or as stored bags."""
        return self.parts is not None or self.stored_bags is not None

    @property
    def unit_parts(self) -> Tensor | None:
        """(N, T, D), the parts with rows of unit length, zero where there is no part; None without parts."""
        return None if self.parts is None else F.normalize(self.parts, dim=-1)

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def multilabel(self) -> bool:
        """True where labels are (N, C) indicators."""
        return self.labels is not None and self.labels.ndim == 2

    @property
    def targets(self) -> Tensor | None:
        """What a loss compares outputs with: `labels`, or what stands in their place."""
        return self.labels if self.soft_labels is None else self.soft_labels

    @property
    def num_classes(self) -> int:
        if self.class_names:
            return len(self.class_names)
        if self.labels is None or not len(self.labels):
            return 0
        return self.labels.shape[1] if self.multilabel else int(self.labels.max()) + 1

    @property
    def shots(self) -> int:
        """Images of the largest class; 1 at least."""
        assert self.labels is not None
        counts = self.one_hot().sum(dim=0) if self.multilabel else self.labels.bincount(minlength=1)
        return max(1, int(counts.max()))

    def one_hot(self) -> Tensor:
        """(N, C) float32 indicators; an unknown label (NaN) counts as 0."""
        assert self.labels is not None
        if self.multilabel:
            return torch.nan_to_num(self.labels.float(), nan=0.0)
        return F.one_hot(self.labels, self.num_classes).float()

    def memberships(self) -> np.ndarray:
        """(N, C) int64 of 0 and 1; with several labels per image, a last column marks images without a positive."""
        member = (self.one_hot() > 0.5).cpu().numpy().astype(np.int64)
        if self.multilabel:
            member = np.concatenate([member, member.sum(axis=1, keepdims=True) == 0], axis=1)
        return member

    def units(self) -> list[list[int]]:
        """Rows that must stay together; an image without a group is a unit of its own."""
        rows_of: dict[object, list[int]] = {}
        for row, group in enumerate(self.groups or [""] * len(self)):
            rows_of.setdefault(group or row, []).append(row)
        return list(rows_of.values())

    def folds(self, count: int, seed: int) -> list[Tensor]:
        """Rows to hold out in turn: each fold has its share of every class, and none has all images of a class.

        Groups (patient, identity, video) go to one fold whole. A group that holds all images of a class is in no fold,
        nor is the only image of a class.

        Args:
            count: folds; fewer where classes have fewer images on average.
            seed: fixes which images go together.

        Returns:
            Row indices of each fold, rising; [] where most classes have a single image or group.
        """
        member, units = self.memberships(), self.units()  # (N, C)
        per_unit = np.stack([(member[rows] > 0).any(axis=0) for rows in units])  # (U, C)
        totals = member.sum(axis=0)
        units_of_class = per_unit.sum(axis=0)
        count = min(count, int(np.median(units_of_class[units_of_class > 0])))
        if count < 2:
            return []
        shuffled = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed)).tolist()
        shuffled.sort(key=lambda u: units_of_class[per_unit[u]].min(initial=len(units)))  # those of rare classes first
        held, sizes = np.zeros((count, member.shape[1])), np.zeros(count)
        rows_of: list[list[int]] = [[] for _ in range(count)]
        for u in shuffled:
            classes = per_unit[u]
            if (units_of_class[classes] < 2).any():
                continue
            crowding = (held[:, classes] / totals[classes]).sum(axis=1)
            fold = min(range(count), key=lambda k: (crowding[k], sizes[k], k))
            if ((held[fold] + member[units[u]].sum(axis=0) >= totals) & classes).any():
                continue
            rows_of[fold] += units[u]
            held[fold] += member[units[u]].sum(axis=0)
            sizes[fold] += len(units[u])
        return [torch.tensor(sorted(rows)) for rows in rows_of if rows]

    def select(self, index) -> FeatureSet:
        """The rows of `index`: an integer or boolean tensor, or a list of positions."""
        index = torch.as_tensor(index, device=self.features.device)
        rows = index.nonzero().flatten() if index.dtype == torch.bool else index.long()
        return replace(self, **{name: _picked(getattr(self, name), rows) for name in PER_ROW})

    def to(self, device) -> FeatureSet:
        """The same set with its tensors on `device`."""
        return replace(self, **{name: _moved(getattr(self, name), device) for name in PER_ROW})

    def without_labels(self) -> FeatureSet:
        """The same images with labels removed: what a transductive method may see."""
        return replace(self, labels=None, soft_labels=None)

    def without_parts(self) -> FeatureSet:
        """The same samples, each as the mean of its parts and nothing more."""
        if not self.has_parts:
            return self
        return replace(self, parts=None, parts_mask=None, parts_order=None, stored_bags=None)

    def one_view(self) -> FeatureSet:
        """The same samples, each by the view that methods are fitted on; without parts by the mean of all."""
        if self.part_views is None or self.parts is None:
            return self if self.part_views is None else replace(self, part_views=None)
        parts, mask = (each[:, self.part_views.middle] for each in self.part_views.divided(self.parts, self.parts_mask))
        features = mean_of_parts(parts, mask)
        return replace(self.without_parts(), features=features, parts=parts, parts_mask=mask, part_views=None)

    def with_parts(self) -> FeatureSet:
        """The same samples with parts: where there are none, each image is the only part of its sample."""
        if self.has_parts:
            return self
        parts = self.features[:, None]  # (N, 1, D)
        return replace(self, parts=parts, parts_mask=all_there(parts))

    def _check_bags(self, bags: Bags) -> None:
        """Say what does not fit stored bags, none of which is read."""
        if self.parts is not None or self.part_views is not None:
            raise DataError("stored_bags beside parts or part_views; give one of them")
        if len(self) and bags.dim != self.dim:
            raise DataError(f"bags of parts {bags.dim} wide for features {self.dim} wide; give their means")

    def _check_parts(self) -> None:
        """Bring parts and mask into form, or say what is wrong with them."""
        assert self.parts is not None
        count, width = self.features.shape
        parts = self.parts.float()
        if parts.ndim != 3 or (parts.shape[0], parts.shape[2]) != (count, width):
            raise DataError(f"parts have shape {tuple(parts.shape)}; (N, T, D) with N = {count}, D = {width} is needed")
        mask = all_there(parts) if self.parts_mask is None else self.parts_mask.bool()
        if mask.shape != parts.shape[:2]:
            raise DataError(f"parts_mask has shape {tuple(mask.shape)}; (N, T) = {tuple(parts.shape[:2])} is needed")
        if len(empty := (~mask.any(dim=1)).nonzero().flatten()):
            raise DataError(f"row {int(empty[0])} has no part; give each sample at least one part, or leave it out")
        if bool((parts[~mask] != 0).any()):
            parts = parts.masked_fill(~mask[..., None], 0)
        largest = torch.linalg.vector_norm(parts, torch.inf) if parts.numel() else torch.zeros(())
        if not torch.isfinite(largest):
            raise DataError("parts hold NaN or infinity; extract them again")
        apart = (mean_of_parts(parts, mask) - self.features).abs()
        if bool((apart > MEAN_TOLERANCE * largest).any()):
            raise DataError("features are not the mean of the parts; build the set with FeatureSet.of_parts")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "parts_mask", mask)


def mean_of_parts(parts: Tensor, mask: Tensor) -> Tensor:
    """The mean of the parts that are there, summed in float64, part by part.

    Args:
        parts: (N, T, D).
        mask: (N, T) bool, True where there is a part.

    Returns:
        (N, D) float32.
    """
    total = torch.zeros(parts.shape[0], parts.shape[2], dtype=torch.float64, device=parts.device)  # (N, D)
    for part, there in zip(parts.unbind(dim=1), mask.unbind(dim=1)):  # no second (N, T, D) is made
        total += part.masked_fill(~there[:, None], 0)
    return (total / mask.sum(dim=1, keepdim=True)).float()


def bags_of(parts: Tensor | None, mask: Tensor | None) -> Bags:
    """N views (T, D) of the parts that are there; where these are the first ones, nothing is copied."""
    if parts is None or mask is None:
        raise CapabilityError("these samples have no parts; pass parts and parts_mask")
    counts = mask.sum(dim=1).tolist()
    in_front = (mask.cumsum(dim=1) == torch.arange(1, mask.shape[1] + 1, device=mask.device)) == mask
    rows = zip(parts, mask, counts, in_front.all(dim=1).tolist())
    return Bags([HeldBag(own[:count] if front else own[there]) for own, there, count, front in rows])


def all_there(parts: Tensor) -> Tensor:
    """(N, T) True: the mask of parts (N, T, D) that are all there."""
    return torch.ones(parts.shape[:2], dtype=torch.bool, device=parts.device)


@dataclass(frozen=True)
class Detection:
    """One box that a detector found.

    Args:
        box: x0, y0, x1, y1 in pixels of the image at native size.
        score: the detector's confidence, 0 to 1.
        label: the name of what was found, or "" where the detector does not say.
    """

    box: tuple[float, float, float, float]
    score: float = 1.0
    label: str = ""


@dataclass(frozen=True)
class Batch:
    """What an adapter may see of B images. Only what it declared in `needs` and `at_predict` is filled.

    Args:
        features: (B, D) float32, not normalised.
        pixels: (B, 3, H, W) float32, preprocessed for the backbone.
        images: B decoded images at native size, (H, W, 3) uint8, or float32 in 0..1.
        ids: B identifiers.
        pre_projection: (B, W) float32, image features before the tower's projection.
        further: (B, D_i) features of the same images by each further backbone, in the order of the fit.
        keys: (B, D_k) float32, not normalised: features of the same images by the backbone of the cache's keys.
        boxes: B lists of what a detector found in each image.
        base: (B, C) logits of the fitted adapter that the method started from.
        transform: decoded image or a part of it -> pixels (3, S, S), as `features` were made; by default the
            backbone's own preprocessing.
        parts: (B, T, D) float32, not normalised: features of the parts of each sample, in their order, zero where there
            is none. `features` is their mean.
        parts_mask: (B, T) bool, True where there is a part; by default all are there.
        patch_tokens: (B, T, h, w, D) float32, not normalised: features of the h x w patches of each part, in the order
            of `parts`, zero where there is none.
        part_views, stored_bags: as of a FeatureSet.
    """

    __repr__ = in_short

    features: Tensor | None = None
    pixels: Tensor | None = None
    images: Sequence[Any] | None = None
    ids: tuple[str, ...] | None = None
    pre_projection: Tensor | None = None
    further: tuple[Tensor, ...] | None = None
    keys: Tensor | None = None
    boxes: Sequence[Sequence[Detection]] | None = None
    base: Tensor | None = None
    transform: Callable[[Any], Tensor] | None = None
    parts: Tensor | None = None
    parts_mask: Tensor | None = None
    patch_tokens: Tensor | None = None
    part_views: PartViews | None = None
    stored_bags: Bags | None = None

    def __post_init__(self):
        _take_arrays(self, OF_BATCHES)
        if self.parts is not None and self.parts_mask is None:
            object.__setattr__(self, "parts_mask", all_there(self.parts))

    @property
    def unit(self) -> Tensor:
        """(B, D), rows of unit length."""
        if self.features is None:
            raise CapabilityError("this batch carries no features; pass Batch(features=...)")
        return torch.nn.functional.normalize(self.features.float(), dim=-1)

    @property
    def bags(self) -> Bags:
        """B tensors (T, D), the parts of each sample that are there; where they are stored, read when asked for.

        Raises:
            CapabilityError: there are no parts.
        """
        return bags_of(self.parts, self.parts_mask) if self.stored_bags is None else self.stored_bags

    @property
    def unit_parts(self) -> Tensor:
        """(B, T, D), the parts with rows of unit length, zero where there is no part."""
        if self.parts is None:
            raise CapabilityError("this batch carries no parts; pass Batch(parts=..., parts_mask=...)")
        return torch.nn.functional.normalize(self.parts.float(), dim=-1)

    def by_view(self) -> list[Batch]:
        """A batch per view of `part_views`; the batch itself where it has no views.

        Raises:
            CapabilityError: it holds whole images, which do not divide into views.
        """
        if self.part_views is None or self.parts is None:
            return [self]
        if self.images is not None or self.pixels is not None:
            raise CapabilityError(f"the method {IMAGES}")
        parts, there = self.part_views.divided(self.parts, self.parts_mask)
        return [
            replace(self, features=mean_of_parts(*own), parts=own[0], parts_mask=own[1], part_views=None)
            for own in zip(parts.unbind(dim=1), there.unbind(dim=1))
        ]

    @classmethod
    def of(cls, value: Batch | FeatureSet | TensorLike) -> Batch:
        """A bare (B, D) tensor or array, or a FeatureSet counts as a batch of features."""
        if isinstance(value, Batch):
            return value
        if isinstance(value, FeatureSet):
            names = ("features", "ids", "parts", "parts_mask", "part_views", "stored_bags")
            return cls(**{name: getattr(value, name) for name in names})
        return cls(features=value)


@dataclass(frozen=True)
class TextClassifier:
    """Class weights made from text.

    Args:
        weights: (C, D) unit rows: prompts encoded, normalised, averaged, normalised again.
        raw: (C, D) means before the last normalisation; by default `weights`.
        prototypes: C tensors (T_c, D), one unit row per template or description; by default the weights themselves.
        texts: C tuples of the texts behind the prototypes.
        class_names: C names.
        logit_scale: what cosines are multiplied by (100 for a trained CLIP), already exponentiated.
        logit_bias: added to the scaled cosines (SigLIP), or None.
        negative: (C, D) unit rows of the "without" prompts for sets with several labels per image, or None.
        unnormalized: (C, D) means over a class's texts of features as the tower gives them, their norms kept; None
            where those are gone (a file of unit text features).

    Raises:
        DataError: weights are not (C, D), or sizes disagree.
    """

    __repr__ = in_short

    weights: Tensor
    raw: Tensor | None = None
    prototypes: tuple[Tensor, ...] | None = None
    texts: tuple[tuple[str, ...], ...] | None = None
    class_names: tuple[str, ...] = ()
    logit_scale: float = 100.0
    logit_bias: float | None = None
    negative: Tensor | None = None
    unnormalized: Tensor | None = None

    def __post_init__(self):
        _take_arrays(self, OF_CLASSES)
        if self.weights.ndim != 2:
            raise DataError(f"text weights have shape {tuple(self.weights.shape)}; (C, D) is needed")
        weights = F.normalize(self.weights.float(), dim=-1)
        object.__setattr__(self, "weights", weights)
        if self.raw is None:
            object.__setattr__(self, "raw", weights)
        if self.prototypes is None:
            object.__setattr__(self, "prototypes", tuple(row[None] for row in weights))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "logit_scale", float(self.logit_scale))
        for name in ("raw", "prototypes", "texts", "negative", "unnormalized"):
            value = getattr(self, name)
            if value is not None and len(value) != len(weights):
                raise DataError(f"{name} has {len(value)} rows for {len(weights)} classes")
        if self.class_names and len(self.class_names) != len(weights):
            raise DataError(f"{len(self.class_names)} class names for {len(weights)} text weights")

    @classmethod
    def without_texts(cls, class_names: Sequence[str], dim: int, device: Any = "cpu") -> TextClassifier:
        """The classifier of a backbone without a text tower: it says nothing, every logit is 0.

        Args:
            dim: width of the image features.
        """
        return cls(torch.zeros(len(class_names), dim, device=device), class_names=tuple(class_names))

    @property
    def has_texts(self) -> bool:
        """Whether it says anything."""
        return bool(self.weights.any())

    def __len__(self) -> int:
        return len(self.weights)

    def logits(self, unit_features: TensorLike) -> Tensor:
        """Zero-shot logits (B, C) of unit image features (B, D).

        With negative prompts it is the logit of the pair, so that its sigmoid is the probability of the positive.
        """
        unit_features = _tensor("unit_features", unit_features)
        scores = self.logit_scale * unit_features @ self.weights.T  # (B, C)
        if self.negative is not None:
            return scores - self.logit_scale * unit_features @ self.negative.T
        return scores if self.logit_bias is None else scores + self.logit_bias

    def select(self, index) -> TextClassifier:
        """The classifier of the classes in `index`, in that order."""
        rows = torch.as_tensor(index, device=self.weights.device).long()
        return replace(self, **{name: _picked(getattr(self, name), rows) for name in PER_CLASS})

    def to(self, device) -> TextClassifier:
        """The same classifier with its tensors on `device`."""
        return replace(self, **{name: _moved(getattr(self, name), device) for name in PER_CLASS})


def _picked(value: Any, rows: Tensor) -> Any:
    """Rows of a tensor, of bags or of a tuple; None, and a tuple that is empty since nothing is known, stay so."""
    if isinstance(value, Bags):
        return value.select(rows)
    if value is None or isinstance(value, Tensor):
        return value if value is None else value[rows]
    return tuple(value[i] for i in rows.tolist()) if value else value


def _moved(value: Any, device: Any) -> Any:
    """A tensor, bags, or each of a tuple, on a device; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_moved(each, device) for each in value)
    return value.to(device) if isinstance(value, (Tensor, Bags)) else value


def _take_arrays(instance: Any, names: Sequence[str]) -> None:
    """Turn arrays and lists in fields of an instance into tensors, in place, those of 64 bits into 32.

    Raises:
        DataError: one holds something else.
    """
    for name in names:
        value = getattr(instance, name)
        if isinstance(value, (np.ndarray, list, tuple)):
            object.__setattr__(instance, name, _tensor(name, value))


def _tensor(name: str, value: TensorLike) -> Tensor:
    """A tensor as it is; an array or lists as one, errors as of `_take_arrays`."""
    if isinstance(value, Tensor):
        return value
    try:
        made = torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: not an array of numbers ({error}); give a tensor, an array or lists") from error
    return made.float() if made.dtype == torch.float64 else made
