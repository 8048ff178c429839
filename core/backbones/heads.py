"""Towers seen through a head that learned pairs on the features of parts: what its samples and texts are found by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.backbone import Backbone
from ..errors import CapabilityError
from .finders import SeenTowers, weights_digest

FAMILY = "heads"


class HeadBackbone(SeenTowers):
    """What a run of such a head is as a backbone. It encodes, and does no more: a sample is encoded from the features
    of its parts, an image as a sample of one part.

    Args:
        base: whose towers give the features, those of the fit.
        head: a fitted adapter.
        spec: by which it is loaded again.

    Attributes:
        frozen: whether the towers are those that the head was given, so that their features are worth keeping.
    """

    family = FAMILY
    of_parts = True

    def __init__(self, base: Backbone, head: Any, spec: str | None = None):
        super().__init__(
            base, head.found_dim, f"{head.name} {sorted(head.options.items())} {weights_digest(_learned(head))}"
        )
        self.head, self.frozen = head, not head.changed
        self.spec = base.spec if spec is None else spec

    @property
    def logit_scale(self) -> Tensor:
        return torch.tensor(float(self.head.logit_scale))

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        """(B, 3, S, S), or (B, T, 3, S, S) of parts -> (B, E) unit, whether that is asked for or not."""
        clips = pixels if pixels.ndim == 5 else pixels[:, None]
        parts = self.base.encode_parts(clips)
        return self.head.sample_vectors(parts, torch.ones(parts.shape[:2], dtype=torch.bool, device=parts.device))

    def encode_text(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> Tensor:
        """Texts -> (N, E) unit, whether that is asked for or not.

        Raises:
            CapabilityError: tokens in place of texts.
        """
        if isinstance(texts, Tensor):
            raise CapabilityError(f"adapter '{self.head.name}' reads texts, not tokens; index and search with the run")
        return self.head.text_vectors(self.base, texts)

    def save_companions(self, folder: Path) -> None:
        """Nothing: its backbone is found by its spec."""

    @property
    def description(self) -> dict[str, Any]:
        """How it is built again."""
        return {"backbone": self.base.spec, "image_size": self.base.image_size}


def towers_in(backbone: Backbone) -> Backbone:
    """The towers alone, where a head stands on them."""
    return backbone.base if isinstance(backbone, HeadBackbone) else backbone


def _learned(head: Adapter) -> dict[str, Tensor]:
    """All tensors that the head keeps, by name."""
    tensors: dict[str, Tensor] = {}
    for name in head.state:
        value = getattr(head, name)
        for key, tensor in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(tensor, Tensor):
                tensors[f"{name} {key}"] = tensor.detach().cpu().contiguous()
    return tensors
