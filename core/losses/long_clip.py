"""Long-CLIP: long captions for the whole image, short ones for its primary components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.stretching import KeptPositions, stretch_context
from ..contracts.adapter import require
from ..contracts.loss import Loss
from ._primary_components import primary_components


class LongClip(Loss):
    """Long-CLIP: Unlocking the Long-Text Capability of CLIP (Zhang et al., 2024, arXiv 2403.15378).

    The image is matched with its long caption; and what the first principal components of the batch's image features
    keep of it, with a short caption. Both are CLIP's loss with label smoothing. Before training the text tower is given
    a longer context (77 tokens become 248), whose first positions stay as they are.

    Components are those of the global batch, where the released code takes each process's part; features are not
    brought to length 1 again after it, as there. It trains from a logit scale of 100; here from that of the backbone.

    Args:
        short_weight: weight of the short captions' term, 0 or more.
        components: how many principal components are kept of the image features.
        label_smoothing: share of the target spread over the batch, 0 to below 1.
        keep: positions that stay as they are and do not learn.
        factor: how many positions each of the others becomes; 1 leaves the context as it is.
        stretch_up_to: longest context that is stretched; a longer one is taken for one that was stretched before.

    Parts: "long", "short".

    Raises:
        ConfigError: an option is out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "text_short", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        short_weight: float = 1.0,
        components: int = 32,
        label_smoothing: float = 0.1,
        keep: int = 20,
        factor: int = 4,
        stretch_up_to: int = 77,
    ):
        super().__init__(dims)
        require(short_weight >= 0, "short_weight", short_weight, "give 0 or more")
        require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "give 0 to below 1")
        least = {"components": (components, 1), "keep": (keep, 0), "factor": (factor, 1)}
        for name, (value, lowest) in {**least, "stretch_up_to": (stretch_up_to, 0)}.items():
            require(type(value) is int and value >= lowest, name, value, f"give a whole number, {lowest} or more")
        self.short_weight, self.components, self.label_smoothing = short_weight, components, label_smoothing
        self.keep, self.factor, self.stretch_up_to = keep, factor, stretch_up_to
        self._kept: KeptPositions | None = None

    def prepare(self, backbone) -> None:
        """Give the text tower its longer context, and hold its first positions.

        Raises:
            CapabilityError: the backbone's text tower has no table of positions that can be stretched.
            ConfigError: `keep` is not below the number of positions.
        """
        if self.factor > 1 and backbone.context_length <= self.stretch_up_to:
            stretch_context(backbone, self.keep, self.factor)
        self._kept = KeptPositions(backbone, self.keep)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        image, scale = out["image_features"], out["logit_scale"]
        long = self._smoothed_contrast(image, out["text_features"], scale)
        primary = primary_components(image, self.components)
        short = self._smoothed_contrast(primary, out["text_short"], scale)
        return {"loss": long + self.short_weight * short, "long": long, "short": short}

    def _smoothed_contrast(self, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        logits = scale * image @ text.T  # (B, B)
        own = torch.arange(len(logits), device=logits.device)
        to_text = F.cross_entropy(logits, own, label_smoothing=self.label_smoothing)
        return (to_text + F.cross_entropy(logits.T, own, label_smoothing=self.label_smoothing)) / 2

    def after_step(self, model: nn.Module | None) -> None:
        """The first positions stay where they are."""
        if self._kept is not None:
            self._kept.restore()
