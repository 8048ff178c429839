"""X-MoRe: scores of the captions nearest to an image, weighted against the scores of the image itself.

Take it without labels, where captions of images like yours are at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, FitReport, option
from ...core.data import faiss_library
from ...core.errors import CapabilityError
from ..blocks import in_blocks
from ..text_pools import unit_captions
from ._cache_model import CHUNK_ELEMENTS

PUBLISHED = 16  # captions per image
LEAST = 1e-12  # a weight of 0 would be a logit of minus infinity
SEARCHES = ("auto", "faiss", "torch")
LARGE = 100_000  # texts from which faiss' blocks and heaps are faster than a matrix product and a partial sort


@dataclass(eq=False, kw_only=True)
class XMoRe(Adapter):
    """Cross-Modal Retrieval Meets Inference: Improving Zero-Shot Classification with Cross-Modal Retrieval (Eom, Ho, Oh
    and Yun, 2023, arXiv 2308.15273).

    Nothing is trained and no label is used. An image retrieves its K nearest captions from a pool, and

        score = w_img softmax(s x W^T) + w_cap mean over captions c of softmax(s c W^T),

    with w = a / (mean of a) of each modality and its confidence a = 1 - H / log C, where H is the entropy of the
    image's probabilities, or of the mean over captions. Logits are the logs of the scores, made to sum to 1: their
    softmax is the mixture.

    Where it differs from the released code: there a confidence is divided by the sum of those of all images tested so
    far, in an order that is shuffled, so that an image's weights depend on the images before it and the first image
    has two weights of 1. Only the ratio of the two weights matters, and over many images it tends to the ratio of
    confidences relative to their means: here the means are taken once, at the fit, over `unlabeled` images where they
    are given, else over those of the support and val. The released code retrieves captions through the images they
    belong to, from an index of LAION-400M; here a pool has only captions, and those nearest to the image are taken, as
    they are, without the words "a_photo_of_a" before them.

    The adapter's file holds the features of the whole pool, since any of them may be nearest to a new image, in
    float32: rounded to float16, captions of nearly the same cosine would change places. Pools of 100,000 captions and
    more are searched by faiss, on the CPU and if it is installed.

    Resources:
        captions: `TextPool`.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no captions, or no image to average over; "faiss" is not installed. DataError: captions of
        another width, or none in the pool.

    Example:
        >>> adapter = build_adapter("x-more", top_k=4)
        >>> report = adapter.fit(support, classifier, resources={"captions": captions})
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "a confidence is divided by its mean over the images of the fit; the released code divides by the sum over the "
        "images tested so far, so that the order matters. `image_weight`, `caption_weight` and `scores` are compared "
        "with the released running weights used in our mixture; these lines of the reference were rewritten, since its "
        "loop skips every image. Captions are the nearest of a pool, not those of the nearest images of LAION"
    )
    label_free: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "captions"})
    optional: ClassVar[frozenset[str]] = frozenset({"unlabeled"})
    state: ClassVar[tuple[str, ...]] = ("text", "logit_scale", "captions", "image_confidence", "caption_confidence")
    cost_options: ClassVar[frozenset[str]] = frozenset({"search"})

    top_k: int = option(PUBLISHED, "captions per image; a smaller pool is used whole", low=1, high=100_000)
    search: str = option(
        "auto", "what finds the captions; auto: faiss for a large pool on the CPU; changes speed only", choices=SEARCHES
    )

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text = classifier.weights  # a bias is the same for all classes and falls out of the softmax
        self.logit_scale = classifier.logit_scale
        self.captions = unit_captions(resources["captions"], support.features, "those of the images")
        images, words = _images(support, val, unlabeled)
        image, caption = self._log_probabilities(images)
        self.image_confidence = float(confidence(image).mean())
        self.caption_confidence = float(confidence(caption).mean())
        notes = [
            f"each image retrieves {min(self.top_k, len(self.captions))} of {len(self.captions)} captions",
            f"mean confidence over {words}: {self.image_confidence:.3f} of images, "
            f"{self.caption_confidence:.3f} of their captions",
        ]
        words = "published settings" if self.top_k == PUBLISHED else "given as options"
        return FitReport(self.name, {"top_k": self.top_k}, words, notes=notes)

    def _log_probabilities(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) of the images, and (B, C) of the mean over each image's captions."""
        image = (self.logit_scale * unit @ self.text.T).log_softmax(dim=-1)
        # Kept as long as the pool is the same: to index a large one takes seconds.
        nearest = getattr(self, "_kept", None)
        if nearest is None or nearest.pool is not self.captions:
            self._kept = nearest = NearestTexts(self.captions, self.search)
        rows = max(1, CHUNK_ELEMENTS // (self.top_k * max(self.text.shape)))
        return image, torch.cat([self._of_captions(nearest(block, self.top_k)) for block in in_blocks(unit, rows)])

    def _of_captions(self, places: Tensor) -> Tensor:
        """(B, K) captions -> (B, C) log of their mean probabilities; a caption met often is classified once."""
        distinct, place = places.unique(return_inverse=True)
        probabilities = (self.logit_scale * self.captions[distinct] @ self.text.T).softmax(dim=-1)
        mean = F.embedding_bag(place, probabilities, mode="mean")  # (B, C): no (B, K, C) is made
        return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()

    def _logits(self, batch: Batch) -> Tensor:
        image, caption = self._log_probabilities(batch.unit)
        return mixture(
            image,
            caption,
            confidence(image) / max(self.image_confidence, LEAST),
            confidence(caption) / max(self.caption_confidence, LEAST),
        )


def confidence(log_probabilities: Tensor) -> Tensor:
    """(..,) 1 - entropy / log C of (.., C) log probabilities: 1 where one class has all, 0 where all have as much."""
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
    return 1 - entropy / math.log(max(2, log_probabilities.shape[-1]))


def mixture(image: Tensor, caption: Tensor, image_weight: Tensor, caption_weight: Tensor) -> Tensor:
    """(B, C) log of the weighted mean of two (B, C) log probabilities, of (B,) weights that need not sum to 1."""
    weights = torch.stack([image_weight, caption_weight]).clamp(min=LEAST).log()  # (2, B)
    weights = weights.log_softmax(dim=0)[..., None]
    return torch.logaddexp(weights[0] + image, weights[1] + caption)


def _images(support, val, unlabeled) -> tuple[Tensor, str]:
    """(M, D) unit features to take mean confidences over, and which they are."""
    if unlabeled is not None and len(unlabeled):
        return unlabeled.unit, f"{len(unlabeled)} unlabelled images"
    parts = [part.unit for part in (support, val) if part is not None]
    images = torch.cat(parts)
    if not len(images):
        raise CapabilityError(
            "adapter 'x-more' averages confidences over images, and there are none; pass a support, or unlabeled="
        )
    return images, f"{len(images)} images of support{' and val' if len(parts) == 2 else ''}"


class NearestTexts:
    """A pool of texts to search in.

    Args:
        pool: (N, D) unit rows.
        search: "faiss", "torch", or "auto": faiss where it is installed, the pool is on the CPU and large.

    Raises:
        CapabilityError: faiss is asked for and not installed.
    """

    def __init__(self, pool: Tensor, search: str = "auto"):
        self.pool, self._index = pool, None
        large = pool.device.type == "cpu" and len(pool) >= LARGE and find_spec("faiss") is not None
        if search == "faiss" or (search == "auto" and large):
            self._index = faiss_library().IndexFlatIP(pool.shape[1])
            self._index.add(_rows(pool))

    def __call__(self, queries: Tensor, top: int) -> Tensor:
        """(B, K) int64 places of the nearest texts, the best first; K is at most the size of the pool.

        Args:
            queries: (B, D) unit rows.
        """
        top = min(top, len(self.pool))
        if self._index is not None:
            return torch.from_numpy(self._index.search(_rows(queries), top)[1]).to(queries.device)
        rows = max(1, CHUNK_ELEMENTS // len(self.pool))
        return torch.cat([(block @ self.pool.T).topk(top, dim=-1).indices for block in in_blocks(queries, rows)])


def _rows(features: Tensor) -> np.ndarray:
    return np.ascontiguousarray(features.detach().to("cpu", torch.float32).numpy())
