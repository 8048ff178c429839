"""Text on its way into a head trained on features: rows with their lengths, and what logits are relative to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import FeatureSet, TextClassifier

REFERENCE_LENGTH = 10.0
"""Published rates move text features as CLIP's text tower gives them; their lengths are of this order."""
REFERENCE_SCALE = 100.0
UNIT = 1 + 1e-4


@dataclass(frozen=True)
class Frame:
    """What turns cosines of images and text rows into logits.

    Args:
        logit_scale: what cosines are multiplied by.
        offset: (C,) added to the scaled cosines.
        negative: (C, D) unit rows of the "without" prompts that logits are relative to, or None.
    """

    logit_scale: float
    offset: Tensor
    negative: Tensor | None

    def logits(self, unit: Tensor, rows: Tensor) -> Tensor:
        """(..., B, D) unit image features and (C, D) unit rows -> (..., B, C)."""
        scores = self.logit_scale * unit @ rows.T + self.offset
        return scores if self.negative is None else scores - self.logit_scale * unit @ self.negative.T


def frame_of(classifier: TextClassifier, support: FeatureSet) -> Frame:
    """With one label per image, the backbone's scale and bias.

    With several, a cosine times the scale is not a calibrated logit, so each label's is relative to its negative
    prompts; without them to the backbone's bias, or else to the label's mean zero-shot score over the support.
    """
    negative = classifier.negative if support.multilabel else None
    offset = classifier.weights.new_full((len(classifier),), classifier.logit_bias or 0.0)
    if support.multilabel and negative is None and classifier.logit_bias is None:
        offset = -classifier.logits(support.unit).mean(dim=0)
    return Frame(classifier.logit_scale, offset, negative)


def has_lengths(classifier: TextClassifier) -> bool:
    """Whether text features come as long as the tower makes them: not from a tower or file of unit ones."""
    raw = classifier.unnormalized
    return raw is not None and bool(raw.norm(dim=-1).max() > UNIT)


def text_base(classifier: TextClassifier, length: float = REFERENCE_LENGTH) -> tuple[Tensor, list[str]]:
    """(C, D) text features that a training starts from, and what to say of them.

    Where their lengths are gone, the unit rows are brought to `length`: with unit rows a step of the published rates
    would turn them a hundred times as far as it turns CLIP's, and a few shots end below zero-shot.
    """
    if has_lengths(classifier):
        return classifier.unnormalized.float().clone(), []
    note = f"text features come without their lengths; each was scaled to length {length:.3g}, about that of CLIP's"
    return length * classifier.weights, [note]


def relative_scale(classifier: TextClassifier) -> float:
    """The backbone's logit scale in units of CLIP's."""
    return classifier.logit_scale / REFERENCE_SCALE


def normalised_rows(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)
