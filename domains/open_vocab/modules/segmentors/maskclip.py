"""MaskCLIP: what CLIP's last attention would mix is compared with text unmixed.

"Extract Free Dense Labels from CLIP" (2022, arXiv 2112.01071).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .....core.contracts import Backbone, require
from .....core.errors import CapabilityError
from .....registry import MODELS
from .attention_heads import as_map
from .training_free import CLIP_LOGIT_SCALE, TrainingFreeSegmentor, cosine_maps

TEMPERATURE = 100.0  # of both refinements, beside CLIP's own logit scale
DENIED = -100.0


def value_features(backbone: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Dense features of the values of the last attention, in the space of text, and the keys of the same places; see
    `Backbone.value_tokens`.

    Args:
        pixels: (B, 3, H, W).

    Returns:
        (B, D, h, w), and (B, P, W) or None.
    """
    tokens, keys, grid = backbone.value_tokens(pixels)
    return as_map(tokens, grid), keys


def deny_unlikely(logits: Tensor, threshold: float, temperature: float = TEMPERATURE) -> Tensor:
    """Prompt denoising: queries that are nowhere in the image more probable than `threshold` are out of the question.

    Args:
        logits: (B, Q, h, w) cosines.
    """
    best = torch.softmax(temperature * logits, dim=1).amax(dim=(2, 3), keepdim=True)  # (B, Q, 1, 1)
    return torch.where(best < threshold, torch.full_like(logits, DENIED), logits)


def smooth_by_keys(
    logits: Tensor, keys: Tensor, threshold: float, temperature: float = TEMPERATURE, released: bool = False
) -> Tensor:
    """Key smoothing: unsure places take the probabilities of all places, weighted by the cosines of their keys.

    Args:
        logits: (B, Q, h, w) cosines.
        keys: (B, P, W).
        threshold: places whose best probability is lower are unsure.
        released: as the code has it, each channel of the keys made unit over all places, in place of each key.

    Returns:
        (B, Q, h, w): probabilities where sure, weighted sums of them elsewhere.
    """
    probabilities = torch.softmax(temperature * logits, dim=1).flatten(2)  # (B, Q, P)
    unit = F.normalize(keys.float(), dim=1 if released else -1)
    smoothed = probabilities @ (unit @ unit.transpose(1, 2))  # the weights are symmetric
    unsure = probabilities.amax(dim=1, keepdim=True) < threshold
    return torch.where(unsure, smoothed, probabilities).unflatten(2, logits.shape[-2:])


@MODELS.register_module()
class MaskCLIP(TrainingFreeSegmentor):
    """`vladapt.MaskCLIP`: any image tower; of a transformer the values of its last block, of CLIP's ResNet those of its
    attention pool, of others the cells they average.

    Args:
        pd_thd: prompt denoising: classes whose probability is lower everywhere in the image are left out; 0 is off,
            0.5 suggested.
        ks_thd: key smoothing of places that are less sure than this; 0 is off, 1 (all) suggested.
        released: smooth as the released code does; see `smooth_by_keys`.
        **options: of `TrainingFreeSegmentor`. Images are seen whole, and their short side is 512, as published.

    Raises:
        CapabilityError: key smoothing, and the tower pools without keys.
    """

    def __init__(
        self,
        backbone: str,
        classes,
        *,
        pd_thd: float = 0.0,
        ks_thd: float = 0.0,
        released: bool = False,
        logit_scale: float = 100.0,
        short_side: int | None = 512,
        **options,
    ):
        require(0 <= pd_thd <= 1, "pd_thd", pd_thd, "give 0 to 1")
        require(0 <= ks_thd <= 1, "ks_thd", ks_thd, "give 0 to 1")
        super().__init__(backbone, classes, logit_scale=logit_scale, short_side=short_side, **options)
        self.pd_thd, self.ks_thd, self.released = pd_thd, ks_thd, released

    def dense_features(self, pixels: Tensor) -> Tensor:
        return value_features(self.tower(pixels.device), pixels)[0]

    def query_logits(self, pixels: Tensor) -> Tensor:
        features, keys = value_features(self.tower(pixels.device), pixels)
        logits = cosine_maps(features, self.queries())
        temperature = TEMPERATURE * float(self.tower(pixels.device).logit_scale) / CLIP_LOGIT_SCALE
        if self.pd_thd:
            logits = deny_unlikely(logits, self.pd_thd, temperature)
        if not self.ks_thd:
            return logits
        if keys is None:
            raise CapabilityError(
                f"backbone '{self.backbone_spec}' averages its last map, so ks_thd={self.ks_thd} has no keys to smooth "
                "by; towers that have them: vision transformers of open_clip and hf, CLIP's ResNets of open_clip"
            )
        return smooth_by_keys(logits, keys, self.ks_thd, temperature, self.released)

    def probabilities(self, logits: Tensor) -> Tensor:
        if not self.ks_thd:
            return super().probabilities(logits)
        return logits / logits.sum(dim=0, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny)
