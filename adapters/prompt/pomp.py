"""POMP: a context learned on very many classes, some of them sampled in each step.

Take it for thousands of classes, of which `coop` encodes all in each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import TrainingViews, has, option
from ._shared_context import SharedContext, Step

BASES = {"ln": 1.0, "log10": math.log(10)}
"""What a natural logarithm is divided by."""


@dataclass(eq=False, kw_only=True)
class Pomp(SharedContext):
    """Prompt pre-training.

    Ren et al., Prompt Pre-Training with Twenty-Thousand Classes for Open-Vocabulary Visual Recognition, 2023,
    arXiv 2304.04704.

    CoOp, with a softmax in each step over an image's own class and K - 1 other classes, drawn evenly and anew for the
    whole batch (local contrast). A margin on the logits of the other classes makes up for what was not drawn,

        log((C - 1) / n),   n of C - 1 other classes drawn,

    which makes the sum of their exponentials an unbiased estimate of that over all C (local correction). With all
    classes drawn it is CoOp. Where classes have unequal numbers of images (`class_weight`), the log share of each class
    is added to its logit before that, so that the estimate is of CoOp's adjusted sum. Only the prompts of the drawn
    classes and of the batch's own are encoded, and memory holds only the token ids of the others; for 20,000 classes
    add `checkpointing=True`.

    Images are augmented by RandAugment as well as crop and flip, as published, unless their domain has a milder
    augmentation of its own.

    Where it differs from the released code: as `coop`. The margin is a natural logarithm as the paper's derivation
    requires; one version of the released code takes it to base 10 (`correction="log10"`). n counts the classes drawn,
    where the code counts K - 1 even if there are fewer. Classes are drawn evenly, as in the published runs; the code
    can also draw hard or easy ones. Published: 16 shots of ImageNet-21k, 20 epochs on 8 processes of 32 images each;
    here there is one process.

    Options, resources and errors are those of `SharedContext`, besides `sampled_classes` and `correction`.

    Example:
        >>> adapter = build_adapter("pomp", sampled_classes=2, epochs=2)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "as coop; the margin is a natural logarithm, as the paper derives it. The released version behind the fixture "
        "uses base 10, and is reproduced with `correction='log10'` (`None` for no margin)"
    )
    default_epochs: ClassVar[tuple[tuple[int, int], ...]] = ((1, 20),)

    pool = has(TrainingViews, published_crop=(0.08, 1.0), published_randaugment=True)
    sampled_classes: int = option(
        1000, "classes per step, the image's own among them; at most all", low=2, high=100_000_000
    )
    correction: str | None = option("ln", "logarithm of the margin; none: no margin", choices=BASES)

    def _loss(self, step: Step) -> Tensor:
        classes = len(step.classifier)
        if classes <= self.sampled_classes:
            return super()._loss(step)
        drawn = torch.randperm(classes, generator=step.generator)[: self.sampled_classes - 1].to(step.labels.device)
        rows, places = torch.cat([step.labels, drawn]).unique(return_inverse=True)
        text = self._text(step.learner, rows)[places]  # (B + n, D)
        positives, negatives = text.split([len(step.labels), len(drawn)])
        logits = local_logits(
            step.unit,
            positives,
            negatives,
            step.labels[:, None] == drawn,
            logit_scale=self.logit_scale,
            classes=classes,
            correction=self.correction,
        )  # (B, 1 + n)
        if step.priors is not None:
            others = step.priors[drawn].expand(len(logits), -1)
            logits = logits + torch.cat([step.priors[step.labels][:, None], others], dim=1)
        return F.cross_entropy(logits, torch.zeros_like(step.labels))


def local_logits(
    unit: Tensor,
    positives: Tensor,
    negatives: Tensor,
    is_positive: Tensor,
    *,
    logit_scale: float,
    classes: int,
    correction: str | None = "ln",
) -> Tensor:
    """(B, 1 + n) logits of an image's own class and of n drawn ones; an own class among these is left out, -inf.

    Args:
        unit: (B, D) image features.
        positives: (B, D) text features of each image's class.
        negatives: (n, D) text features of the drawn classes.
        is_positive: (B, n) bool, drawn classes that are the image's own.
        logit_scale: of cosines.
        classes: C.
        correction: "ln", "log10" or None.
    """
    first = logit_scale * (unit * positives).sum(dim=1, keepdim=True)  # (B, 1)
    rest = logit_scale * unit @ negatives.T  # (B, n)
    if correction is not None:
        drawn = (~is_positive).sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
        rest = rest + ((classes - 1) / drawn).log() / BASES[correction]
    return torch.cat([first, rest.masked_fill(is_positive, -torch.inf)], dim=1)
