"""What towers give: features of a set of images, with all that is known of each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import DataError

PROJECTED = "projected"
PRE_PROJECTION = "pre_projection"


@dataclass(frozen=True)
class FeatureSet:
    """Features of N images.

    Args:
        features: (N, D) float32, as the tower gives them, not normalised.
        labels: (N,) int64 class indices, or (N, C) float 0/1 with NaN where a label is unknown; None if unlabelled.
        class_names: the C names that labels index.
        views: (N, V, D) float32 features of V augmented views of each image, or None.
        tap: where in the tower they were taken, "projected" (shared space) or "pre_projection".
        groups: N group keys (patient, identity, video) or None.
        ids: N identifiers or None.
        backbone: fingerprint of the backbone that made them, or "".
        raw_norms: False where the norms are gone (a file of normalised features).

    Raises:
        DataError: sizes disagree, or a feature is not finite.
    """

    features: Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    views: Tensor | None = None
    tap: str = PROJECTED
    groups: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None
    backbone: str = ""
    raw_norms: bool = field(default=True, compare=False)

    def __post_init__(self):
        if self.features.ndim != 2:
            raise DataError(f"features have shape {tuple(self.features.shape)}; (N, D) is needed")
        object.__setattr__(self, "features", self.features.float())
        object.__setattr__(self, "class_names", tuple(self.class_names))
        for name in ("labels", "views", "groups", "ids"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.features):
                raise DataError(f"{name} has {len(value)} rows for {len(self.features)} features")
        if self.labels is not None and not self.labels.is_floating_point():
            object.__setattr__(self, "labels", self.labels.long())
        if not torch.isfinite(self.features).all():
            raise DataError("features hold NaN or infinity; extract them again")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def unit(self) -> Tensor:
        """(N, D), rows of unit length."""
        return F.normalize(self.features, dim=-1)

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def multilabel(self) -> bool:
        """True where labels are (N, C) indicators."""
        return self.labels is not None and self.labels.ndim == 2

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
        counts = self.one_hot().sum(dim=0) if self.multilabel else self.labels.bincount(minlength=1)
        return max(1, int(counts.max()))

    def one_hot(self) -> Tensor:
        """(N, C) float32 indicators; an unknown label (NaN) counts as 0."""
        if self.multilabel:
            return torch.nan_to_num(self.labels.float(), nan=0.0)
        return F.one_hot(self.labels, self.num_classes).float()

    def select(self, index) -> FeatureSet:
        """The rows of `index`: an integer or boolean tensor, or a list of positions."""
        index = torch.as_tensor(index, device=self.features.device)
        rows = index.nonzero().flatten() if index.dtype == torch.bool else index.long()
        picked = rows.tolist()
        return replace(
            self,
            features=self.features[rows],
            labels=None if self.labels is None else self.labels[rows],
            views=None if self.views is None else self.views[rows],
            groups=None if self.groups is None else tuple(self.groups[i] for i in picked),
            ids=None if self.ids is None else tuple(self.ids[i] for i in picked),
        )

    def to(self, device) -> FeatureSet:
        """The same set with its tensors on `device`."""

        def moved(t):
            return None if t is None else t.to(device)

        return replace(self, features=moved(self.features), labels=moved(self.labels), views=moved(self.views))

    def without_labels(self) -> FeatureSet:
        """The same images with labels removed: what a transductive method may see."""
        return replace(self, labels=None)
