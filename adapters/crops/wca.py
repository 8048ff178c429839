"""WCA: random crops of an image are compared with sentences about each class, weighted by how typical both are.

Take it without labels, where sentences describe parts of things and 60 crops of each image do not matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Batch, FitReport, option, require
from ...core.errors import ConfigError
from ...core.prompts import build_classifier, check_templates
from ..text_pools import encode_sentences
from ._crops import Box, CropAdapter, cut


@dataclass(eq=False, kw_only=True)
class Wca(CropAdapter):
    """Weighted visual-text cross alignment.

    Li et al., Visual-Text Cross Alignment: Refining the Similarity Score in Vision-Language Models, 2024,
    arXiv 2406.02915.

    An image x is cut into N random squares x_i with sides U(alpha, beta) min(H, W); a class has sentences y_j.

        w = softmax_i(a cos(x, x_i)),  v = softmax_j(b cos("a photo of a {c}.", y_j))
        image = unit(sum_i w_i x_i),  class = unit(sum_j v_j y_j),  logit = s cos(image, class) (+ bias)

    with s the backbone's logit scale, which changes no decision. Nothing is learned; the support is not used. The whole
    image only counts through the weights. An image's crops follow from its pixels and the seed of the fit, so they are
    the same in every batch.

    Where it differs from the released code: the latter crops with alpha 0.1 whatever its configuration says, since the
    value is never passed on. The configured 0.5 is the default here; `alpha=0.1` gives the released crops. The released
    code scores 20 draws of 60 crops out of 60 or 100, with replacement, to report a spread; here there is one draw of
    N. As there, and unlike a plain sum of weighted similarities, both sums are scaled to unit length before they are
    compared.

    Published are alpha 0.7 for Places365, a = exp(4) and b = exp(2).

    Resources:
        descriptions: C tuples of sentences. Without them the classifier's own prompts stand in.

    Raises:
        ConfigError: an option out of range, or classes without names.
        DataError: descriptions of another number of classes, or a class without any.

    Example:
        >>> adapter = build_adapter("wca", n_crops=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"descriptions": sentences})
        >>> adapter.logits(Batch(features=test.features, images=images)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "crops are cut with the configured alpha 0.5 (the released code never passes it on and cuts with 0.1, as "
        "`alpha=0.1` does); one draw of crops, determined by the seed and the pixels, replaces 20 draws from a pool. "
        "The fixture starts after the crops, from their features"
    )
    label_free: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "images", "text_encoder"})
    optional: ClassVar[frozenset[str]] = frozenset({"descriptions"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"features", "images", "text_encoder"})
    state: ClassVar[tuple[str, ...]] = ("text", "logit_scale", "logit_bias", "crop_seed")

    n_crops: int = option(60, "crops per image, N", low=1, high=10_000)
    alpha: float = option(0.5, "smallest side of a crop, as a share of the image's shorter side", above=0, high=1)
    beta: float = option(0.9, "largest side of a crop, as a share of the image's shorter side", above=0, high=1)
    image_scale: float = option(math.exp(4), "a, sharpness of the weights of crops; 0 weighs them alike", low=0)
    text_scale: float = option(math.exp(2), "b, sharpness of the weights of sentences; 0 weighs them alike", low=0)
    templates: tuple[str, ...] = option(
        ("a photo of a {}.",),
        "texts with {} for the class; its sentences are weighted by their likeness to them",
        parse=check_templates,
    )

    def __post_init__(self):
        super().__post_init__()
        require(self.alpha <= self.beta, "beta", self.beta, f"give a share from alpha ({self.alpha}) to 1")
        require(len(self.templates) > 0, "templates", self.templates, "give at least one")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        if not self.class_names_:
            raise ConfigError(
                "wca weighs sentences by the class names, and none are given; name them in the classifier"
            )
        sentences = resources.get("descriptions")
        device = support.features.device
        if sentences is None:
            rows = classifier.prototypes
            note = "no descriptions were given: the classifier's own prompts stand in for sentences about the classes"
        else:
            rows = encode_sentences(backbone, sentences, self.class_names_)
            note = f"{min(map(len, rows))} to {max(map(len, rows))} sentences per class"
        names = build_classifier(backbone, self.class_names_, self.templates).weights.to(device)  # (C, D)
        self.text = torch.stack(
            [weighted_mean(of.to(device), name, self.text_scale) for of, name in zip(rows, names, strict=True)]
        )  # (C, D)
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias or 0.0
        self.crop_seed = int(seed)
        return FitReport(self.name, notes=[note])

    def _logits(self, batch: Batch) -> Tensor:
        images, device = self._images(batch), self._device(batch)
        text = self.text.to(device)
        whole = None if batch.features is None else batch.unit
        rows = self._encoded(self._parts(images, with_whole=whole is None), batch, device)
        seen = text.new_empty(len(images), text.shape[1])  # (B, D)
        for i in range(len(images)):
            anchor = next(rows) if whole is None else whole[i]
            seen[i] = weighted_mean(torch.stack(list(islice(rows, self.n_crops))), anchor, self.image_scale)
        return self.logit_scale * seen @ text.T + self.logit_bias

    def _parts(self, images: Sequence[Any], with_whole: bool) -> Iterator[np.ndarray]:
        """Image after image: itself if asked for, then its crops."""
        for image in images:
            picture = self._picture(image)
            if with_whole:
                yield picture
            generator = torch.Generator().manual_seed(content_seed(picture, self.crop_seed))
            height, width = picture.shape[:2]
            for box in random_squares(height, width, self.n_crops, self.alpha, self.beta, generator):
                yield cut(picture, box)


def weighted_mean(rows: Tensor, anchor: Tensor, scale: float) -> Tensor:
    """The mean of unit rows (..., N, D), weighted by softmax(scale cos(row, anchor (..., D))), made unit: (..., D)."""
    weights = (scale * torch.einsum("...nd,...d->...n", rows, anchor)).softmax(dim=-1)  # (..., N)
    return F.normalize(torch.einsum("...n,...nd->...d", weights, rows), dim=-1)


def random_squares(
    height: int, width: int, count: int, alpha: float, beta: float, generator: torch.Generator
) -> list[Box]:
    """Squares with sides U(alpha, beta) min(height, width), rounded down, anywhere inside the image."""
    share, down, right = torch.rand(3, count, generator=generator, dtype=torch.float64)
    side = ((alpha + (beta - alpha) * share) * min(height, width)).long().clamp(min=1)  # (N,)
    top, left = (down * (height - side + 1)).long(), (right * (width - side + 1)).long()
    return [tuple(box) for box in torch.stack([left, top, left + side, top + side], dim=1).tolist()]


def content_seed(image: np.ndarray, seed: int) -> int:
    """A seed of an image's own pixels, so that its crops do not depend on the images beside it."""
    digest = hashlib.sha256(f"{seed} {image.shape} {image.dtype.str}".encode())
    digest.update(np.ascontiguousarray(image))
    return int.from_bytes(digest.digest()[:7], "big")
