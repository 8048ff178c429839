"""The self-regulation of PromptSRC: features and scores stay near those of the untuned towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import Loss
from ..contracts.options import option, require


@dataclass(eq=False, repr=False, kw_only=True)
class SelfRegulation(Loss):
    """Self-regulating Prompts: Foundational Model Adaptation without Forgetting (Khattak et al., 2023,
    arXiv 2307.06948), section 3.2.1, which goes beside a loss on the labels.

    text: mean absolute difference, over classes and dimensions, of unit class features to the teacher's.
    image: the same of unit image features, over images and dimensions.
    scores: the divergence KL(q || p) of the softmax p of the scores from that of the teacher's, q, with the teacher's
    own logit scale and class features. Summed over classes and divided by their number too, as the released code does.

    Parts: "text", "image", "scores", without their weights.

    Raises:
        ConfigError: all weights are 0.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "class_features": torch.eye(4), "logits": 10 * torch.eye(4)}
        >>> out |= {f"teacher.{name}": torch.eye(4) for name in ("image", "class_features")}
        >>> float(vladapt.build_loss("self-regulation")({**out, "teacher.logit_scale": torch.tensor(10.0)})["loss"])
        0.0
    """

    differs: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "class_features", "logits"}
        | {"teacher.image", "teacher.class_features", "teacher.logit_scale"}
    )
    teacher: ClassVar[str | None] = "frozen"

    text: float = option(25.0, "weight of the class features, 0 for none", low=0, high=10_000)
    image: float = option(10.0, "weight of the image features, 0 for none", low=0, high=10_000)
    scores: float = option(1.0, "weight of the scores, 0 for none", low=0, high=10_000)

    def __post_init__(self):
        super().__post_init__()
        self.need_teacher_width()
        self.weights = {name: getattr(self, name) for name in ("text", "image", "scores")}
        some = any(self.weights.values())
        require(some, "text", self.text, "one of text, image and scores must have a weight above 0")

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
