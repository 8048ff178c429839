"""Self-distillation for further training: towers learn a second time, from a model of their own kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..contracts.loss import Loss
from ..contracts.options import option

OF_IMAGES = frozenset({"image_hidden", "teacher.image_hidden"})
OF_TEXTS = frozenset({"text_features", "teacher.text"})


@dataclass(eq=False, repr=False, kw_only=True)
class SelfDistill(Loss):
    """Self-Distillation for Further Pre-training of Transformers (Lee et al., 2022, arXiv 2210.02871), which goes
    beside the loss of the training.

    Towers are trained further; then the towers of the start are trained once more, by the same loss and by the mean
    squared difference of their hidden states, through a linear projection, to those of the first training, which is the
    teacher. This goes less far from the start than the first training does.

    image: of image features before the projection into the shared space. text: of unit text features.

    Raises:
        ConfigError: all weights are 0.
        CapabilityError: dims lacks the widths that its projections need.

    Example:
        >>> import torch, vladapt
        >>> dims = {"image_width": 4, "teacher_width": 4, "embed_dim": 4, "teacher_dim": 4}
        >>> out = {name: torch.eye(4) for name in ("image_hidden", "teacher.image_hidden", "text_features")}
        >>> sorted(vladapt.build_loss("self-distill", dims)({**out, "teacher.text": torch.eye(4)}))
        ['image', 'loss', 'text']
    """

    differs: ClassVar[str] = (
        "no fixture: the paper was read, its code was not; the tests check the equation, computed directly. Published "
        "for masked images or words; here the loss beside it is that of pairs, and both towers are distilled"
    )
    needs: ClassVar[frozenset[str]] = OF_IMAGES | OF_TEXTS
    teacher: ClassVar[str | None] = "frozen"

    image: float = option(1.0, "weight of the image tower's hidden states, 0 for none", low=0, high=10_000)
    text: float = option(1.0, "weight of the text tower's features, 0 for none", low=0, high=10_000)

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(("image", "text"))
        needs = {"image": OF_IMAGES, "text": OF_TEXTS}
        self.needs = frozenset().union(*(needs[side] for side in self.weights))
        if self.image:
            width = self.dim("image_width", "its projection of images")
            self.image_map = nn.Linear(width, self.dims.get("teacher_width", width))
        if self.text:
            width = self.dim("embed_dim", "its projection of texts")
            self.text_map = nn.Linear(width, self.dims.get("teacher_dim", width))

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        parts = {}
        if self.image:
            parts["image"] = _distance(self.image_map(out["image_hidden"]), out["teacher.image_hidden"])
        if self.text:
            parts["text"] = _distance(self.text_map(out["text_features"]), out["teacher.text"])
        return {"loss": sum(self.weights[side] * part for side, part in parts.items()), **parts}


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher.detach()).square().mean()
