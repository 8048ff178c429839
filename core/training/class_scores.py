"""Scores of all classes from image features: the text weights are made anew where a training step can change them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.features import FeatureSet


class PixelScores(nn.Module, ABC):
    """Base of scores of all classes that a method makes of pixels, where features and class texts are not all there is
    to them.

    Class attributes:
        SCALES: parameters of a backbone that are of neither tower.
    """

    SCALES: ClassVar[tuple[str, ...]] = ("logit_scale", "logit_bias")

    @abstractmethod
    def forward(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S), or (B, T, 3, S, S) -> (B, C) logits, by towers as they are now."""


class ClassScores(nn.Module):
    """logit_scale * cosine to each class, plus the logit bias where the backbone has one.

    A class is the unit mean of its unit prompts. With negative prompts its score is the difference to theirs, so that
    its sigmoid is the probability of the positive one, as in `TextClassifier.logits`.

    Args:
        backbone: what is trained of it is decided already.
        prompts: C lists of texts.
        negative: C lists of texts that say the class is absent, or None.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[Sequence[str]],
        negative: Sequence[Sequence[str]] | None = None,
    ):
        super().__init__()
        self._held = [backbone]  # in a list: no submodule
        self.num_classes, self.has_negatives = len(prompts), negative is not None
        groups = [*prompts, *(negative or ())]
        texts = list(dict.fromkeys(text for group in groups for text in group))
        place = {text: i for i, text in enumerate(texts)}
        shares = torch.zeros(len(groups), len(texts))
        for row, group in enumerate(groups):
            for text in group:
                shares[row, place[text]] += 1 / len(group)
        tokens = backbone.tokenize(texts)
        self.lengths = backbone.token_mask(tokens).sum(dim=1).numpy()  # (P,): known before the tokens are on the device
        self.longest = int(self.lengths.max(initial=1))
        self.register_buffer("tokens", tokens, persistent=False)  # (P, L)
        self.register_buffer("shares", shares, persistent=False)  # (C or 2 C, P)
        with torch.no_grad():
            fixed = self._encoded() if text_stays(backbone) else None
        self.register_buffer("fixed", fixed, persistent=False)

    def weights(self) -> Tensor:
        """(C, D) unit rows, or (2 C, D) with the negatives below, as the text tower now reads them."""
        return self._encoded() if self.fixed is None else self.fixed

    def forward(self, unit: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, D) unit image features -> (B, C). In float32 under autocast too: scaled cosines need its precision.

        Args:
            weights: what `weights()` gives, where that is known already.
        """
        backbone = self._held[0]
        weights = self.weights() if weights is None else weights
        with torch.autocast(unit.device.type, enabled=False):
            scores = backbone.logit_scale.float() * unit.float() @ weights.T
        if self.has_negatives:
            return scores[:, : self.num_classes] - scores[:, self.num_classes :]
        bias = backbone.logit_bias
        return scores if bias is None else scores + bias

    def _encoded(self) -> Tensor:
        lengths = self.longest if torch.compiler.is_compiling() else self.lengths  # an array would break the graph
        encoded = self._held[0].encode_measured(self.tokens, lengths).float()  # (P, D) unit
        with torch.autocast(encoded.device.type, enabled=False):
            return F.normalize(self.shares.to(encoded.device) @ encoded, dim=-1)


class CosineHead(nn.Module):
    """The logit scale times the cosine to the rows of each class, which train; less that to its negative rows.

    Args:
        rows: (C, D).
        negative: (C, D), or None.
        scale: logit scale, which stays.
        bias: added to the logits where there is no negative, or None.
    """

    def __init__(self, rows: Tensor, negative: Tensor | None, scale: float, bias: float | None):
        super().__init__()
        self.rows = nn.Parameter(rows.clone())
        self.negative = None if negative is None else nn.Parameter(negative.clone())
        self.scale, self.bias = scale, 0.0 if bias is None else bias

    @classmethod
    def of_means(cls, support: FeatureSet, classes: int, scale: float) -> CosineHead:
        """It starts as the means of each class's unit features: Low-Shot Learning with Imprinted Weights, Qi, Brown and
        Lowe, 2018, arXiv 1712.07136. With several labels per image its negative rows are the means of those without."""
        several = support.labels.ndim == 2
        marks = support.labels.T if several else F.one_hot(support.labels, classes).T  # (C, N)

        def means(marked: Tensor) -> Tensor:
            return F.normalize(marked.to(support.unit) @ support.unit, dim=-1)  # (C, D)

        return cls(means(marks == 1), means(marks == 0) if several else None, scale, None)

    def forward(self, unit: Tensor) -> Tensor:
        """(B, D) unit image features -> (B, C). In float32 under autocast too."""
        with torch.autocast(unit.device.type, enabled=False):
            scores = self.scale * unit.float() @ F.normalize(self.rows, dim=-1).T
            if self.negative is None:
                return scores + self.bias
            return scores - self.scale * unit.float() @ F.normalize(self.negative, dim=-1).T

    def kept(self) -> tuple[Tensor, Tensor | None]:
        """What predicts: the (C, D) rows as they were trained, and unit negative ones."""
        negative = None if self.negative is None else F.normalize(self.negative.detach(), dim=-1)
        return self.rows.detach().clone(), negative


def text_stays(backbone: Backbone) -> bool:
    """Whether no training step can change what a text is encoded to."""
    prefix = getattr(backbone, "text_prefix", None)
    if prefix is not None and prefix.requires_grad:
        return False
    return not any(
        parameter.requires_grad and backbone.tower_of(name) != "image"
        for name, parameter in backbone.model.named_parameters()
        if name not in PixelScores.SCALES
    )
