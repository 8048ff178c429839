"""CLIPFit's anchor: the text features of the classes stay near those before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..contracts.loss import Loss


@dataclass(eq=False, repr=False, kw_only=True)
class TextAnchor(Loss):
    """Vision-Language Model Fine-Tuning via Simple Parameter-Efficient Modification (CLIPFit; Li et al., 2024,
    arXiv 2409.16718), which goes beside a loss on the labels, with a weight of 8.

    1 - mean over the classes of the cosine of a class's text features to those of the teacher. KgCoOp (Yao et al.,
    2023, arXiv 2303.13283) holds its learned prompts by the same term.

    Example:
        >>> import torch, vladapt
        >>> before, now = torch.eye(4), torch.eye(4).roll(1, 0)
        >>> loss = vladapt.build_loss("text-anchor")
        >>> float(loss({"class_features": now, "teacher.class_features": before})["loss"])
        1.0
    """

    differs: ClassVar[str] = "none (the fixture is CLIPFit's, with its cross-entropy and weights rewritten)"
    needs: ClassVar[frozenset[str]] = frozenset({"class_features", "teacher.class_features"})
    teacher: ClassVar[str | None] = "frozen"

    def __post_init__(self):
        super().__post_init__()
        self.need_teacher_width()

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        cosines = (out["class_features"] * out["teacher.class_features"].detach()).sum(dim=-1)  # (C,)
        return {"loss": 1 - cosines.mean()}
