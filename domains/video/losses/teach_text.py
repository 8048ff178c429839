"""TeachText: teachers with other text encoders give target similarities of texts and videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ....core.contracts import Loss, option
from ._max_margin import max_margin


@dataclass(eq=False, repr=False, kw_only=True)
class TeachText(Loss):
    """TeachText: CrossModal Generalized Distillation for Text-Video Retrieval (Croitoru et al., 2021,
    arXiv 2104.08271).

    L = max margin + `distill` x SmoothL1(S, T). S are the cosines of the batch's texts and clips, T those of the
    frozen teachers (`--teacher`, repeatable), their mean where there are several, of all B x B pairs, not only of
    partners; the smooth L1 is their mean with beta 1. The max margin is the mean over all others of a text, and of a
    clip, of how far they come nearer than its partner plus `margin`.

    A published teacher's similarity is a weighted sum over experts; here a teacher is a pair of towers with one. The
    published margin is tuned for each data set (0.0938 for MSR-VTT); 0.2 is its class default.

    Parts: "rank", "distill", without weights.

    Example:
        >>> import torch, vladapt
        >>> out = {name: torch.eye(4) for name in ("image_features", "text_features", "teacher.image", "teacher.text")}
        >>> float(vladapt.build_loss("teach-text")(out)["loss"])
        0.0
    """

    differs: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "teacher.image", "teacher.text"})
    of_products: ClassVar[bool] = True
    teacher: ClassVar[str | None] = "frozen"

    margin: float = option(0.2, "margin by which a pair must score above others", above=0, high=100)
    distill: float = option(1.0, "weight of the teacher's similarities, 0 for none", low=0, high=10_000)
    diagonal: bool = option(False, "keep the pairs themselves in the mean, as in an early version of the code")

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        taught = out["teacher.text"].detach() @ out["teacher.image"].detach().T
        return self.of_similarities(out["text_features"] @ out["image_features"].T, taught)

    def of_similarities(self, similarities: Tensor, taught: Tensor) -> dict[str, Tensor]:
        """The loss and its parts, of (B, B) similarities of texts with clips, and those of the teacher."""
        parts = {
            "rank": max_margin(similarities, self.margin, self.diagonal),
            "distill": F.smooth_l1_loss(similarities, taught),
        }
        return {"loss": parts["rank"] + self.distill * parts["distill"], **parts}
