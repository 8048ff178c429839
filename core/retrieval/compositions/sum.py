"""The mean direction of image and words."""

from __future__ import annotations

from dataclasses import dataclass

from ...contracts.composition import Composed, Composition, Gallery, ImagesAndWords
from ...contracts.options import option
from ..index import mixed


@dataclass(eq=False, kw_only=True)
class Sum(Composition):
    """The unit features of both are added by weight; with equal weights images rank by the sum of both cosines.

    Example:
        >>> build_composition("sum", weight=0.7)
    """

    weight: float = option(0.5, "share of the words", low=0, high=1)

    def compose(self, queries: ImagesAndWords, gallery: Gallery) -> Composed:
        return Composed(mixed(queries.text, queries.image, self.weight)[:, None])  # (Q, 1, D)
