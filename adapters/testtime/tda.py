"""TDA: a cache of confident test images supports their classes, one of uncertain images opposes possible ones.

Take it without labels, for images that come one at a time and are alike; nothing is trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts import option, require
from ..published_sets import SETS, VARIANTS, preset_option
from ._memory import SlotMemory, empty_memory, entropy_of, surest
from ._stream import StreamedInViews

GENERAL = (2.0, 5.0)
"""Alpha and beta of the positive cache on ImageNet, which stand where no set is named."""
PUBLISHED = {
    "caltech101": (5.0, 5.0),
    "dtd": (2.0, 3.0),
    "eurosat": (4.0, 8.0),
    "fgvc_aircraft": (2.0, 2.0),
    "food101": (1.0, 1.0),
    "imagenet": GENERAL,
    "imagenet_a": GENERAL,
    "imagenet_r": (1.0, 8.0),
    "imagenet_sketch": (2.363, 7.45),
    "imagenet_v2": (1.0, 8.0),
    "oxford_flowers": (1.0, 5.0),
    "oxford_pets": (2.0, 7.0),
    "stanford_cars": (1.0, 7.0),
    "sun397": (2.0, 3.0),
    "ucf101": (3.0, 8.0),
}


@dataclass(eq=False, kw_only=True)
class Tda(StreamedInViews):
    """Efficient Test-Time Adaptation of Vision-Language Models (Karmanov et al., 2024, arXiv 2403.18293).

    Images x come one after the other, with text features t and p = softmax(text logits). Two caches hold a few images
    per predicted class, those with the lowest entropy H(p):

        positive   every image is offered                                   3 per class
        negative   images with low < H(p) / log2(C) < high are offered       2 per class

    The image is offered first and then scored, so that one that was taken counts for itself:

        text logits + a sum over positives of exp(-b (1 - x.k)) of its class
                    - a' sum over negatives of exp(-b' (1 - x.k)) of each class whose p was in (0.03, 1)

    Of `n_views` views, the image and random crops mixed by AugMix, the tenth with the lowest entropy counts
    (`selection`): x, the logits and p are their means, x not normalised again. Published are 64 views on the variants
    of ImageNet, which their presets take, and the image alone elsewhere. Nothing is trained and no label is used. Alpha
    and beta are published per test set, but not how they were found; `preset` takes them, and without one those of
    ImageNet are used. The method assumes that confident predictions are right more often than not, and the result
    depends on the order of the images.

    Where it differs from the released code: caches are float32 (there float16); at least one view is kept (there none
    of fewer than 10). As there, entropy is in nats and its divisor is log2(C), so that the bounds (0.2, 0.5) are 29 %
    and 72 % of the largest entropy.

    Raises:
        ConfigError: an option is out of range.
        UnknownNameError: no such preset.
        CapabilityError: no unlabelled images, or of another width; several labels per image; several views, and no
            decoded images.

    Example:
        >>> adapter = build_adapter("tda")
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels())
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    assumes: ClassVar[str] = "sure predictions are right more often than not, whichever classes occur"
    differs: ClassVar[str] = (
        "caches in float32 (released: float16); at least one view is kept (released: none of fewer than 10)"
    )
    memory: ClassVar[tuple[str, ...]] = (
        "positives", "positive_entropy", "negatives", "negative_entropy", "negative_marks",
    )  # fmt: skip
    state: ClassVar[tuple[str, ...]] = (*StreamedInViews.state, *memory, "alpha_", "beta_")
    published_views: ClassVar[dict[str | None, int]] = dict.fromkeys(VARIANTS, 64)

    presets: ClassVar[tuple[str, ...]] = (*SETS, *VARIANTS)
    preset: str | None = preset_option(*SETS, *VARIANTS)
    augmix: bool = option(True, "mix each crop with slightly altered ones (AugMix)")

    alpha: float | None = option(None, "weight of the positive cache; none: the preset's, or 2", low=0)
    beta: float | None = option(None, "sharpness of the positive cache; none: the preset's, or 5", low=0)
    slots: int = option(3, "images per class in the positive cache; 0 for no such cache", low=0, high=10_000)
    negative_alpha: float = option(0.117, "weight of the negative cache", low=0)
    negative_beta: float = option(1.0, "sharpness of the negative cache", low=0)
    negative_slots: int = option(2, "images per class in the negative cache; 0 for no such cache", low=0, high=10_000)
    entropy_bounds: tuple[float, float] = option(
        (0.2, 0.5), "bounds of entropy (nats over log2(C)) of the images offered to the negative cache", low=0
    )
    mask_bounds: tuple[float, float] = option(
        (0.03, 1.0), "bounds of the probability of classes that a negative counts against", low=0, high=1
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("entropy_bounds", "mask_bounds"):
            low, high = getattr(self, name)
            require(low < high, name, (low, high), "give the lower bound and the upper one")

    def _start(self, support) -> None:
        alpha, beta = PUBLISHED.get(self.preset, GENERAL)
        self.alpha_ = alpha if self.alpha is None else self.alpha
        self.beta_ = beta if self.beta is None else self.beta
        classes = len(self.text)
        self.positives, self.positive_entropy = empty_memory(classes, self.slots, self.text)
        self.negatives, self.negative_entropy = empty_memory(classes, self.negative_slots, self.text)
        self.negative_marks = self.text.new_zeros(classes, self.negative_slots, classes, dtype=torch.bool)

    def _next(self, bag: Tensor) -> Tensor:
        scores = self._scores(bag)  # (V, C)
        log_p = scores.log_softmax(dim=1)
        kept = surest(entropy_of(log_p), self.selection)
        feature, logits = bag[kept].mean(dim=0), scores[kept].mean(dim=0)
        log_mean = log_p[kept].logsumexp(dim=0) - math.log(len(kept))  # (C,) of the mean probability
        entropy, label = entropy_of(log_mean), int(logits.argmax())
        if self.slots:
            memory = SlotMemory(self.positives, self.positive_entropy)
            memory.offer(label, entropy, feature)
            # (C,) sums over the positives of each class.
            weights = (-self.beta_ * (1 - memory.features @ feature)).exp()  # (C, S)
            logits = logits + self.alpha_ * torch.where(memory.filled, weights, 0).sum(dim=1)
        if self.negative_slots:
            low, high = self.entropy_bounds
            memory = SlotMemory(self.negatives, self.negative_entropy, self.negative_marks)
            if low < entropy / math.log2(len(self.text)) < high:
                memory.offer(label, entropy, feature, self._plausible(log_mean.exp()))
            logits = logits - self.negative_alpha * self._objections(feature, memory)
        return logits

    def _plausible(self, probabilities: Tensor) -> Tensor:
        low, high = self.mask_bounds
        return (probabilities > low) & (probabilities < high)

    def _objections(self, feature: Tensor, memory: SlotMemory) -> Tensor:
        """(C,) sums over the negatives that speak against each class."""
        filled = memory.filled
        weights = (-self.negative_beta * (1 - memory.features[filled] @ feature)).exp()  # (M,)
        return weights @ memory.marks[filled].float()
