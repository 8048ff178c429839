"""Model types that outline what boxes and points show: Segment Anything, its second version, the tracker of its third.

The image encoder is never trained here. What it gives is computed once per image, and any number of prompts are then
asked of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .family import MASKS, Family, Rates

PROMPTS = "prompts"
"""How such a model is asked: by what is shown on each image."""
NO_POINT = -10
"""The label of a place where another prompt has a point."""


@dataclass(frozen=True)
class Prompt:
    """What is shown of one object, in pixels of the model's input.

    Args:
        box: (4,) x0, y0, x1, y1, or None.
        points: (p, 2) x, y; p may be 0 where there is a box.
        positive: (p,) 1 of points on the object, 0 of points beside it.
    """

    box: Tensor | None
    points: Tensor
    positive: Tensor

    @property
    def ambiguous(self) -> bool:
        """Whether it may be a part or the whole: one point alone, of which the authors take the best of three masks."""
        return self.box is None and len(self.points) == 1


class PromptedFamily(Family):
    """Base of these types.

    Class attributes:
        trained: names within the model of the parts that are trained.
        idle: names within these that no loss of masks reaches, as scores of the masks.
    """

    gives = MASKS
    asked_by = PROMPTS
    recipe = "sam"
    trained = "mask_decoder."
    idle: tuple[str, ...] = ("iou_prediction_head", "iou_token", "pred_obj_score_head", "obj_score_token")
    rates = Rates(lr=1e-4, clip=1.0)

    def settings(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def features(self, model: nn.Module, pixels: Tensor) -> tuple[Tensor, ...]:
        """Maps of the image encoder, (B, C, h, w) each."""

    @abstractmethod
    def embeddings(self, model: nn.Module, features: Sequence[Tensor]) -> Any:
        """What the model takes as `image_embeddings`, from the encoder's maps; with gradients of the mask decoder."""

    def masks(
        self, model: nn.Module, features: Sequence[Tensor], prompts: Sequence[Prompt], three: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, 1, h, w) and estimated overlaps (n, 1) of prompts on one image; of each three where `three`.

        Args:
            features: of the image, (1, C, h, w) each.
            prompts: all with a box, or none.
        """
        device = features[0].device
        shown: dict[str, Any] = {}
        if prompts[0].box is not None:
            shown["input_boxes"] = torch.stack([prompt.box for prompt in prompts])[None]  # (1, n, 4)
        most = max(len(prompt.points) for prompt in prompts)
        if most:
            points = torch.zeros(1, len(prompts), most, 2, device=device)
            labels = torch.full((1, len(prompts), most), NO_POINT, device=device)
            for place, prompt in enumerate(prompts):
                points[0, place, : len(prompt.points)] = prompt.points
                labels[0, place, : len(prompt.points)] = prompt.positive
            shown |= {"input_points": points, "input_labels": labels}
        embeddings = self.embeddings(model, features)
        outputs = model(image_embeddings=embeddings, multimask_output=three, **shown)
        return outputs.pred_masks[0], outputs.iou_scores[0]


class PyramidFamily(PromptedFamily):
    """Types whose decoder sees maps of three sizes, the larger ones through convolutions of the decoder."""

    def features(self, model, pixels):
        return tuple(model.vision_encoder(pixels).fpn_hidden_states)

    def embeddings(self, model, features):
        maps = list(features)
        maps[0], maps[1] = model.mask_decoder.conv_s0(maps[0]), model.mask_decoder.conv_s1(maps[1])
        maps[-1] = maps[-1] + model.no_memory_embedding.view(1, -1, 1, 1)
        return maps[: len(model.backbone_feature_sizes)]
