"""The text side of a classifier: one weight vector a class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError


@dataclass(frozen=True)
class TextClassifier:
    """Class weights made from text.

    Args:
        weights: (C, D) unit rows: prompts encoded, normalised, averaged, normalised again.
        raw: (C, D) means before the last normalisation; by default `weights`.
        prototypes: C tensors (T_c, D), one unit row a template or description; by default the weights themselves.
        texts: C tuples of the texts behind the prototypes.
        class_names: C names.
        logit_scale: what cosines are multiplied by (100 for a trained CLIP), already exponentiated.
        logit_bias: added to the scaled cosines (SigLIP), or None.
        negative: (C, D) unit rows of the "without" prompts for sets with several labels an image, or None.
        unnormalized: (C, D) means over a class's texts of features as the tower gives them, their norms kept; None
            where those are gone (a file of unit text features).

    Raises:
        DataError: weights are not (C, D), or sizes disagree.
    """

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

    def __len__(self) -> int:
        return len(self.weights)

    def logits(self, unit_features: Tensor) -> Tensor:
        """Zero-shot logits (B, C) of unit image features (B, D).

        With negative prompts it is the logit of the pair, so that its sigmoid is the probability of the positive.
        """
        scores = self.logit_scale * unit_features @ self.weights.T  # (B, C)
        if self.negative is not None:
            return scores - self.logit_scale * unit_features @ self.negative.T
        return scores if self.logit_bias is None else scores + self.logit_bias

    def select(self, index) -> TextClassifier:
        """The classifier of the classes in `index`, in that order."""
        rows = torch.as_tensor(index, device=self.weights.device).long()
        picked = rows.tolist()
        return replace(
            self,
            weights=self.weights[rows],
            raw=self.raw[rows],
            prototypes=tuple(self.prototypes[i] for i in picked),
            texts=None if self.texts is None else tuple(self.texts[i] for i in picked),
            class_names=tuple(self.class_names[i] for i in picked) if self.class_names else (),
            negative=None if self.negative is None else self.negative[rows],
            unnormalized=None if self.unnormalized is None else self.unnormalized[rows],
        )

    def to(self, device) -> TextClassifier:
        """The same classifier with its tensors on `device`."""
        return replace(
            self,
            weights=self.weights.to(device),
            raw=self.raw.to(device),
            prototypes=tuple(p.to(device) for p in self.prototypes),
            negative=None if self.negative is None else self.negative.to(device),
            unnormalized=None if self.unnormalized is None else self.unnormalized.to(device),
        )
