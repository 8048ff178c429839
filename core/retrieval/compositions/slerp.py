"""A point on the arc between image and words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...contracts.composition import Composed, Composition, Gallery, ImagesAndWords
from ...contracts.options import option

PARALLEL = 0.9995
"""Cosine from which the arc is as good as its chord, as released."""


@dataclass(eq=False, kw_only=True)
class Slerp(Composition):
    """ "Spherical Linear Interpolation and Text-Anchoring for Zero-shot Composed Image Retrieval" (Jang et al. 2024,
    arXiv 2405.00571), the interpolation without its tuning of the towers.

    With unit features v of the image and w of the words, theta the angle between them, and the share a of the words,
    the query is (sin((1 - a) theta) v + sin(a theta) w) / sin(theta). The paper's a is 0.8 for CIRCO and FashionIQ, 0.9
    for CIRR.

    Example:
        >>> build_composition("slerp", weight=0.9)
    """

    weight: float = option(0.8, "share of the words, the paper's alpha", low=0, high=1)

    def compose(self, queries: ImagesAndWords, gallery: Gallery) -> Composed:
        return Composed(slerp(queries.unit_image, queries.unit_text, self.weight)[:, None])  # (Q, 1, D)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Points (..., D) on the arcs between unit rows: `start` at share 0, `end` at 1."""
    cosine = (start * end).sum(-1, keepdim=True)  # (..., 1)
    chord = cosine.abs() > PARALLEL
    angle = cosine.masked_fill(chord, 0.0).acos()
    arc = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()
    return F.normalize(torch.where(chord, start + share * (end - start), arc), dim=-1)
