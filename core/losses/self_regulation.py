"""The self-regulation of PromptSRC: features and scores stay near those of the towers before they were trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.adapter import require
from ..contracts.loss import Loss


class SelfRegulation(Loss):
    """Self-regulating Prompts: Foundational Model Adaptation without Forgetting (Khattak et al., 2023,
    arXiv 2307.06948), section 3.2.1, which goes beside a loss on the labels.

    text: mean absolute difference, over classes and dimensions, of unit class features to the teacher's.
    image: the same of unit image features, over images and dimensions.
    scores: the divergence KL(q || p) of the softmax p of the scores from that of the teacher's, q, with the teacher's
    own logit scale and class features. Summed over classes and divided by their number too, as the released code does.

    Args:
        text, image, scores: weights, 0 or more, not all 0.

    Parts: "text", "image", "scores", without their weights.

    Raises:
        ConfigError: a weight is out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "class_features", "logits"}
        | {"teacher.image", "teacher.class_features", "teacher.logit_scale"}
    )
    teacher: ClassVar[str | None] = "frozen"

    def __init__(
        self, dims: Mapping[str, int] | None = None, text: float = 25.0, image: float = 10.0, scores: float = 1.0
    ):
        super().__init__(dims)
        self.weights = {"text": text, "image": image, "scores": scores}
        for name, weight in self.weights.items():
            require(weight >= 0, name, weight, "give 0 or more")
        require(any(self.weights.values()), "text", text, "one of text, image and scores must have a weight above 0")

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        image, text = out["teacher.image"].detach(), out["teacher.class_features"].detach()
        frozen = out["teacher.logit_scale"].detach() * image @ text.T  # (B, C)
        divergences = F.kl_div(out["logits"].log_softmax(1), frozen.log_softmax(1), reduction="none", log_target=True)
        parts = {
            "text": (out["class_features"] - text).abs().mean(),
            "image": (out["image_features"] - image).abs().mean(),
            "scores": divergences.mean(),
        }
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}
