"""HYPE: how specific image and caption are, and how well they fit, in hyperbolic space."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..contracts.recipe import check_features_place
from ..errors import DataError
from ._kmeans import finite
from ._ranks import best, count_of

PAIRS_AT_ONCE, REFERENCES_AT_ONCE = 1024, 1024
APERTURE = 0.1
"""K of the entailment cones."""
LONGEST = np.arcsinh(2.0**15)
"""Of tangent vectors, times sqrt(c), as in the released code: what is longer overflows."""
MARGIN = 1e-8
"""How far arguments of arccos, arcsin and arccosh stay within their bounds."""


@dataclass(eq=False, kw_only=True)
class Hype(Curator):
    """HYPE: Hyperbolic Entailment Filtering for Underspecified Images and Texts (2024, arXiv 2404.17507).

    It needs features of a hyperbolic encoder such as MERU (arXiv 2304.09172), which the user brings: the tangent
    vectors at the origin, with their lengths, as columns `image_features` and `caption_features`. A vector v lies in
    the hyperboloid of curvature -c at

        x = sinh(sqrt(c) |v|) v / (sqrt(c) |v|),   time sqrt(1/c + |x|^2).

    The cone of a text holds what the text entails. A text's violation by an image is the exterior angle at the text
    between origin and image, less the half aperture asin(2K / (sqrt(c) |x|)) of the cone. An image is specific when
    texts of a reference set, on average, do not hold it; a text, when it does not hold images of one. The score is the
    sum of both specificities, of the similarity (the Lorentzian distance, negative), and of columns with further
    scores: its authors add the CLIP score and a score of ImageNet's clusters.

    The authors' weights are for non-commercial use and are not included.

    Example:
        >>> hype = build_curator("hype", reference_images="images.npy", reference_texts="texts.npy", curvature=0.1)
        >>> hype.decide_all(pairs).keep.sum()
        200
    """

    stage: ClassVar[str] = "filter"

    reference_images: str = option(help="file of tangent vectors of reference images, (M, D), .npy or .safetensors")
    reference_texts: str = option(help="file of tangent vectors of reference texts, (M, D)")
    curvature: float = option(help="number c of the encoder, whose space has curvature -c", above=0.0)
    keep: float = option(0.2, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    aperture: float = option(APERTURE, "K of the entailment cones, as in the encoder's training", above=0.0)
    add: str = option("", "columns with further scores that are added, with commas between them")

    @property
    def reads(self) -> tuple[str, ...]:
        return (IMAGE_FEATURES, CAPTION_FEATURES, *self._added)

    @property
    def _added(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.add.split(",") if name.strip())

    def check(self, columns: Collection[str]) -> None:
        check_features_place(self.reference_images)
        check_features_place(self.reference_texts)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        images = self._reference(self.reference_images, IMAGE_FEATURES, pairs)
        texts = self._reference(self.reference_texts, CAPTION_FEATURES, pairs)
        rows = {
            name: np.empty(len(pairs), np.float32) for name in ("image_specificity", "text_specificity", "similarity")
        }
        added = [finite(pairs.numbers(name).astype(np.float32), name) for name in self._added]
        for block in pairs.blocks(PAIRS_AT_ONCE):
            image, text = (
                exponential_map(finite(pairs.numbers(kind, block), kind), self.curvature)
                for kind in (IMAGE_FEATURES, CAPTION_FEATURES)
            )
            rows["image_specificity"][block] = self._mean_over(texts, partial(self._violations, images=image))
            rows["text_specificity"][block] = self._mean_over(images, partial(self._violations_by_image, text))
            rows["similarity"][block] = -distances_of_pairs(image, text, self.curvature)
            progress(block.stop, len(pairs))
        total = sum(added, sum(rows.values()))
        rows["hype"] = total
        return Survey(rows={**rows, "chosen": best(total, count_of(len(pairs), self.keep))})

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rule = f"not among the {100 * self.keep:g} % with the highest HYPE score"
        scores = {name: values for name, values in survey.rows.items() if name != "chosen"}
        return Decision.of({rule: ~survey.rows["chosen"]}, scores=scores)

    def _violations(self, texts: np.ndarray, images: np.ndarray) -> np.ndarray:
        return cone_violations(texts, images, self.curvature, self.aperture)

    def _violations_by_image(self, texts: np.ndarray, images: np.ndarray) -> np.ndarray:
        return self._violations(texts, images).T

    def _mean_over(self, references: np.ndarray, violation: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(N,) mean of the violations (M, N) over all references, of which some are compared at a time."""
        parts = range(0, len(references), REFERENCES_AT_ONCE)
        return sum(violation(references[at : at + REFERENCES_AT_ONCE]).sum(axis=0) for at in parts) / len(references)

    def _reference(self, place: str, kind: str, pairs: PairTable) -> np.ndarray:
        from ..features.files import load_rows

        rows, width = load_rows(place, kind)[0], pairs.numbers(kind, slice(0, 1)).shape[1]
        if rows.shape[1] != width:
            raise DataError(f"{place}: {rows.shape[1]} numbers per row, the pairs have {width}; embed with one encoder")
        return exponential_map(rows, self.curvature)


def exponential_map(tangent: np.ndarray, curvature: float) -> np.ndarray:
    """Tangent vectors at the origin (N, D) -> points of the hyperboloid, their part in space (N, D) float64: angles
    near 0 are lost in float32."""
    tangent = tangent.astype(np.float64)
    lengths = np.sqrt(curvature) * np.linalg.norm(tangent, axis=1, keepdims=True)
    safe = np.maximum(lengths, MARGIN)
    return np.sinh(np.minimum(safe, LONGEST)) / safe * tangent


def _times(space: np.ndarray, curvature: float) -> np.ndarray:
    """(N, D) -> (N,): the part of points in time."""
    return np.sqrt(1 / curvature + (space**2).sum(axis=1))


def cone_violations(texts: np.ndarray, images: np.ndarray, curvature: float, aperture: float = APERTURE) -> np.ndarray:
    """How far images lie outside the cones of texts, as angles; negative where a cone holds an image.

    Args:
        texts: (T, D), in space.
        images: (I, D), in space.

    Returns:
        (T, I).
    """
    text_times, lengths = _times(texts, curvature)[:, None], np.linalg.norm(texts, axis=1)[:, None]
    inner = curvature * (texts @ images.T - text_times * _times(images, curvature))  # (T, I), at most -1
    above = _times(images, curvature) + inner * text_times
    below = lengths * np.sqrt(np.maximum(inner**2 - 1, MARGIN**2))
    angles = np.arccos(np.clip(above / np.maximum(below, MARGIN**2), -1 + MARGIN, 1 - MARGIN))
    apertures = np.arcsin(np.clip(2 * aperture / (np.sqrt(curvature) * np.maximum(lengths, MARGIN)), 0, 1 - MARGIN))
    return angles - apertures


def distances_of_pairs(images: np.ndarray, texts: np.ndarray, curvature: float) -> np.ndarray:
    """(N, D) and (N, D) in space -> (N,): the Lorentzian distance of each image and its text."""
    inner = (images * texts).sum(axis=1) - _times(images, curvature) * _times(texts, curvature)
    return np.arccosh(np.maximum(-curvature * inner, 1 + MARGIN)) / np.sqrt(curvature)
