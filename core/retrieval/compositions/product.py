"""The product of the cosines with the image and with the words: an image must be like both."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...contracts.composition import Composed, Composition, Gallery, ImagesAndWords


@dataclass(eq=False, kw_only=True)
class Product(Composition):
    """A baseline of "Composed Image Retrieval for Training-Free Domain Conversion" (Efthymiadis et al. 2024, arXiv
    2412.03297), as released: of two negative cosines the product is positive. No single vector stands for such a query,
    so every row of an index is read, whatever its kind.

    Example:
        >>> build_composition("product")
    """

    def compose(self, queries: ImagesAndWords, gallery: Gallery) -> Composed:
        return Composed(torch.stack([queries.unit_image, queries.unit_text], dim=1))  # (Q, 2, D)
