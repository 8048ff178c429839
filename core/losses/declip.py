"""DeCLIP: supervision from further views, within each modality, and from neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import Loss
from ..contracts.options import option, require
from ._hidden_words import HiddenWords
from ._info_nce import info_nce
from .momentum_queue import FeatureQueue
from .slip import batch_norm_mlp

VIEWS = frozenset({"image_features", "image_view2"})
PAIRS = VIEWS | {"text_features", "text_view2", "logit_scale"}
WORDS = frozenset({"masked_tokens", "masked_labels"})


@dataclass(eq=False, repr=False, kw_only=True)
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

    A term of weight 0 is left out, with all that only it needs. The term of hidden words is 0 in a batch where none is
    hidden. SimSiam's projector has three layers with BatchNorm.

    Raises:
        ConfigError: all weights are 0, or the neighbours are more than the queue holds.
        CapabilityError: dims lacks embed_dim, text_width or vocab_size where they are needed.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("declip", {"embed_dim": 4}, queue_size=64, masking_language=0)
        >>> sorted(loss({**out, "image_view2": torch.eye(4), "text_view2": torch.eye(4)}))
        ['clip', 'loss', 'nn_text', 'simsiam']
    """

    differs: ClassVar[str] = (
        "neighbours and the queue have fixtures. The released queue drops rows beyond its end, ours wraps around; the "
        "fixture's `bank_after_update_wrap` documents this and is not compared. SimSiam reads unit features; features "
        "of the first text are not those of its masked form"
    )
    needs: ClassVar[frozenset[str]] = PAIRS | WORDS
    logit_scale_bounds: ClassVar[tuple[float, float]] = (math.exp(3), 100.0)

    clip: float = option(0.4, "weight of the four pairs of views and texts, 0 for none", low=0, high=10_000)
    nn_text: float = option(0.2, "weight of the neighbours, 0 for none", low=0, high=10_000)
    simsiam: float = option(0.2, "weight of SimSiam on the two views, 0 for none", low=0, high=10_000)
    masking_language: float = option(0.2, "weight of the masked words, 0 for none", low=0, high=10_000)
    queue_size: int = option(2**16, "texts among which neighbours are searched", low=1, high=1_000_000)
    neighbours: int = option(1, "neighbours of each text; their terms are averaged", low=1, high=1_000_000)
    projector_width: int = option(1024, "hidden and output width of SimSiam's projector", low=1, high=65_536)
    predictor_width: int = option(512, "hidden width of SimSiam's predictor", low=1, high=65_536)

    def __post_init__(self):
        super().__post_init__()
        most = self.queue_size
        require(self.neighbours <= most, "neighbours", self.neighbours, f"give 1 to {most}, the size of the queue")
        self.weights = self.weights_of(("clip", "nn_text", "simsiam", "masking_language"))
        self._seen: Tensor | None = None
        needs = {"clip": PAIRS, "nn_text": PAIRS, "simsiam": VIEWS, "masking_language": WORDS}
        self.needs = frozenset().union(*(needs[name] for name in self.weights))
        if self.nn_text:
            self.queue = FeatureQueue(self.queue_size, self.dim("embed_dim", "its queue of texts"))
        if self.simsiam:
            width, hidden = self.dim("embed_dim", "its projector"), self.projector_width
            self.projector = batch_norm_mlp((width, hidden, hidden, hidden), norm_last=True)
            self.predictor = batch_norm_mlp((hidden, self.predictor_width, hidden))
        if self.masking_language:
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
        positives = torch.arange(len(images[0]), device=images[0].device)
        nearest = [self.queue.nearest(text.detach(), self.neighbours).unbind(dim=1) for text in texts]
        terms = [
            F.cross_entropy(out["logit_scale"] * image @ near.T, positives)
            for image in images
            for of_text in nearest
            for near in of_text
        ]
        return sum(terms) / len(terms)

    def _self_similarity(self, out: Mapping[str, Any]) -> Tensor:
        first, second = (self.projector(out[name]) for name in ("image_features", "image_view2"))
        to_second = F.cosine_similarity(self.predictor(first), second.detach()).mean()
        to_first = F.cosine_similarity(self.predictor(second), first.detach()).mean()
        return -(to_second + to_first) / 2

    def _hidden_words(self, out: Mapping[str, Any]) -> Tensor:
        hidden = HiddenWords(out["masked_labels"])
        logits = self.words(hidden.among(out["masked_tokens"]))  # (K, vocabulary)
        return hidden.error(logits) / hidden.count.clamp(min=1)

    def after_step(self, model: nn.Module | None) -> None:
        """Puts the texts of the step into the queue."""
        if self._seen is not None:
            self.queue.push(self._seen)
            self._seen = None


def _views(out: Mapping[str, Any]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (out["image_features"], out["image_view2"]), (out["text_features"], out["text_view2"])
