"""DeCLIP: supervision from further views, from each modality itself, and from neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.adapter import require
from ..contracts.errors import ConfigError
from ..contracts.loss import Loss
from ._feature_queue import FeatureQueue
from ._heads import batch_norm_mlp
from ._info_nce import info_nce

VIEWS = frozenset({"image_features", "image_view2"})
PAIRS = VIEWS | {"text_features", "text_view2", "logit_scale"}
WORDS = frozenset({"masked_tokens", "masked_labels"})


class Declip(Loss):
    """Supervision Exists Everywhere: A Data Efficient Contrastive Language-Image Pre-training Paradigm (Li et al.,
    2021, arXiv 2110.05208).

    Four terms: InfoNCE of two views of the image with two texts, the mean of the four pairs; SimSiam on the two views;
    hidden words of the caption, found again; and the nearest neighbour of each text in a queue of earlier ones, which
    both views are to pick out of the batch's neighbours.

    As released: SimSiam reads the image features in the shared space (unit here, not normalised there: BatchNorm comes
    first in its projector), neighbours are contrasted from image to text only, and a step puts the second texts into
    the queue, then the first. The released queue drops rows that would go beyond its end and starts again; this one
    wraps. Terms are not divided by the number of processes. The released model reads the features of the first text
    off its masked form; here they are those of the caption.

    Args:
        clip: weight of the four pairs, 0 or more. A term of weight 0 is left out with what only it needs.
        nn_text: weight of the neighbours.
        simsiam: weight of SimSiam.
        masking_language: weight of hidden words; 0 where none is hidden in a batch.
        queue_size: texts that neighbours are sought among.
        neighbours: how many of each text; the mean of their terms is taken.
        projector_width: hidden and output width of SimSiam's projector, three layers with BatchNorm.
        predictor_width: hidden width of its predictor.

    Raises:
        ConfigError: an option is out of range, or all weights are 0.
        CapabilityError: dims lacks embed_dim, text_width or vocab_size where they are needed.
    """

    needs: ClassVar[frozenset[str]] = PAIRS | WORDS
    logit_scale_bounds: ClassVar[tuple[float, float]] = (math.exp(3), 100.0)

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        clip: float = 0.4,
        nn_text: float = 0.2,
        simsiam: float = 0.2,
        masking_language: float = 0.2,
        queue_size: int = 2**16,
        neighbours: int = 1,
        projector_width: int = 1024,
        predictor_width: int = 512,
    ):
        super().__init__(dims)
        weights = {"clip": clip, "nn_text": nn_text, "simsiam": simsiam, "masking_language": masking_language}
        for name, weight in weights.items():
            require(weight >= 0, name, weight, "give 0 or more")
        require(queue_size >= 1, "queue_size", queue_size, "give 1 or more")
        require(1 <= neighbours <= queue_size, "neighbours", neighbours, "give 1 up to the queue's size")
        require(projector_width >= 1, "projector_width", projector_width, "give 1 or more")
        require(predictor_width >= 1, "predictor_width", predictor_width, "give 1 or more")
        self.weights = {name: weight for name, weight in weights.items() if weight}
        if not self.weights:
            raise ConfigError("loss 'declip': all weights are 0; give one above 0")
        self.neighbours, self._seen = neighbours, None
        needs = {"clip": PAIRS, "nn_text": PAIRS, "simsiam": VIEWS, "masking_language": WORDS}
        self.needs = frozenset().union(*(needs[name] for name in self.weights))
        if nn_text:
            self.queue = FeatureQueue(queue_size, self.dim("embed_dim", "its queue of texts"))
        if simsiam:
            width = self.dim("embed_dim", "its projector")
            self.projector = batch_norm_mlp((width, projector_width, projector_width, projector_width), norm_last=True)
            self.predictor = batch_norm_mlp((projector_width, predictor_width, projector_width))
        if masking_language:
            self.words = nn.Linear(self.dim("text_width", "its words"), self.dim("vocab_size", "its words"))

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        terms = {
            "clip": self._pairs,
            "nn_text": self._neighbours,
            "simsiam": self._self_similarity,
            "masking_language": self._hidden_words,
        }
        parts = {name: terms[name](out) for name in self.weights}
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _pairs(self, out: Mapping[str, Any]) -> Tensor:
        images, texts = _views(out)
        return sum(info_nce(image, text, out["logit_scale"]) for image in images for text in texts) / 4

    def _neighbours(self, out: Mapping[str, Any]) -> Tensor:
        images, texts = _views(out)
        self._seen = torch.cat(texts[::-1]).detach()
        own = torch.arange(len(images[0]), device=images[0].device)
        found = [self.queue.nearest(text.detach(), self.neighbours).unbind(dim=1) for text in texts]
        terms = [
            F.cross_entropy(out["logit_scale"] * image @ near.T, own)
            for image in images
            for of_text in found
            for near in of_text
        ]
        return sum(terms) / len(terms)

    def _self_similarity(self, out: Mapping[str, Any]) -> Tensor:
        first, second = (self.projector(out[name]) for name in ("image_features", "image_view2"))
        to_second = F.cosine_similarity(self.predictor(first), second.detach()).mean()
        to_first = F.cosine_similarity(self.predictor(second), first.detach()).mean()
        return -(to_second + to_first) / 2

    def _hidden_words(self, out: Mapping[str, Any]) -> Tensor:
        asked = out["masked_labels"] >= 0  # (B, L)
        logits = self.words(out["masked_tokens"][asked])  # (M, vocabulary)
        return F.cross_entropy(logits, out["masked_labels"][asked], reduction="sum") / asked.sum().clamp(min=1)

    def after_step(self, model: nn.Module | None) -> None:
        """Puts the texts of the step into the queue."""
        if self._seen is not None:
            self.queue.push(self._seen)
            self._seen = None


def _views(out: Mapping[str, Any]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (out["image_features"], out["image_view2"]), (out["text_features"], out["text_view2"])
