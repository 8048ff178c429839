"""The image put into words of a vocabulary, each asked together with the query's words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...contracts.composition import Composed, Composition, Gallery, ImagesAndWords
from ...contracts.options import option

SAME = 0.98
"""Cosine below which the nearest image is another one than the query's, as released."""
COSINES_AT_ONCE = 1 << 24


@dataclass(eq=False, kw_only=True)
class Freedom(Composition):
    """ "Composed Image Retrieval for Training-Free Domain Conversion" (Efthymiadis et al. 2024, arXiv 2412.03297).

    1. The k nearest images of the gallery; an image that is not in it takes the first place, and the last is dropped.
    2. Of each the n nearest words of the vocabulary.
    3. The m words that are among them most often, of equal ones that met first, weighted by count / largest count.
    4. The query is the weighted sum of the unit features of "WORD TEXT", not brought to unit length again, so that its
       score is no cosine.

    Whether the image is in the gallery is decided for each query; the released code decides it for all queries of a
    call together.

    Example:
        >>> build_composition("freedom", neighbours=20, words=7)
    """

    by_vocabulary: ClassVar[bool] = True

    neighbours: int = option(20, "images like the query's that are put into words, the paper's k", low=1)
    words_each: int = option(7, "words of each of them, the paper's n", low=1)
    words: int = option(7, "words that the query is asked with, the paper's m", low=1)

    def compose(self, queries: ImagesAndWords, gallery: Gallery) -> Composed:
        names, features = gallery.vocabulary()
        counted = self.words_of(queries.unit_image, *gallery.nearest(queries.unit_image, self.neighbours), features)
        weights = [[(word, count / counts[0][1]) for word, count in counts] for counts in counted]
        texts = [
            f"{names[word]} {text}"
            for each, words in zip(weights, queries.words, strict=True)
            for word, _ in each
            for text in words
        ]
        rows, fused, start = gallery.encode(texts), [], 0
        for each, words in zip(weights, queries.words):
            some = rows[start : start + len(each) * len(words)].view(len(each), len(words), -1).mean(dim=1)  # (m, D)
            fused.append(torch.tensor([weight for _, weight in each]) @ some)
            start += len(each) * len(words)
        inverted = [tuple((names[word], weight) for word, weight in each) for each in weights]
        return Composed(torch.stack(fused)[:, None], inverted)  # (Q, 1, D)

    def is_absent(self, cosines: Tensor) -> Tensor:
        """(Q,) bool: which images are not in the gallery, by the cosines (Q, K) of their nearest."""
        return cosines[:, 0] < SAME

    def words_of(
        self, image: Tensor, cosines: Tensor, nearest: Tensor, vocabulary: Tensor
    ) -> list[list[tuple[int, int]]]:
        """Of each query the words that fit it most often, with their counts.

        Args:
            image: (Q, D) unit. cosines: (Q, K) of its nearest images. nearest: (Q, K, D) unit, these.
            vocabulary: (W, D) unit.
        """
        absent, there = self.is_absent(cosines), cosines.isfinite()  # (Q,), (Q, K)
        own = torch.cat([image[:, None], nearest[:, :-1]], dim=1)
        first = torch.ones_like(there[:, :1])
        nearest = torch.where(absent[:, None, None], own, nearest)
        there = torch.where(absent[:, None], torch.cat([first, there[:, :-1]], dim=1), there)
        each, rows = (
            min(self.words_each, len(vocabulary)),
            max(1, COSINES_AT_ONCE // nearest.shape[1] // len(vocabulary)),
        )
        counted = []
        for some, present in zip(nearest.split(rows), there.split(rows)):
            best = (some @ vocabulary.T).topk(each, dim=-1).indices  # (q, K, n)
            counted += [
                Counter(words[mask].flatten().tolist()).most_common(self.words) for words, mask in zip(best, present)
            ]
        return counted
