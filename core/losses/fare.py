"""FARE: attacked images keep the embeddings that the towers before the training gave them; no label is needed."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.outputs import Output
from ..runtime.ranks import Ranks
from ._adversarial import ATTACKED, AdversarialLoss, in_full


@dataclass(eq=False, repr=False, kw_only=True)
class Fare(AdversarialLoss):
    """Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large Vision-Language Models
    (Schlarmann et al., 2024, arXiv 2402.12336).

    With f the image tower and f0 as it was before the training, embeddings not normalised:

        min over f of the mean over images x of  max over |d| <= eps of |f(x + d) - f0(x)|^2

    The inner maximum is approached by ten steps of projected gradient descent from a random start. Images alone will
    do; only the image tower learns, so class texts and whatever was built on the embeddings stay valid.

    Example:
        >>> import torch, vladapt
        >>> out = {"attacked_embedding": torch.eye(4), "original_embedding": torch.zeros(4, 4)}
        >>> float(vladapt.build_loss("fare")(out)["loss"])
        1.0
    """

    differs: ClassVar[str] = (
        "the attack, by a random start of the fixture, and the loss with its gradients do not differ"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"attacked_embedding", "original_embedding"})
    outputs: ClassVar[Mapping[str, Output]] = {
        "attacked_embedding": Output("embeddings of attacked images, not normalised", kind="raw", fields=ATTACKED),
        "original_embedding": Output(
            "embeddings of the images by the towers before the training, not normalised", kind="raw", fields=("pixels",)
        ),
    }

    def __post_init__(self):
        super().__post_init__()
        self._original: list[Backbone] = []  # in a list: no submodule, to be neither trained nor checkpointed

    def prepare(self, backbone: Backbone) -> None:
        """Keeps a frozen copy of the towers as they are."""
        super().prepare(backbone)
        original = deepcopy(backbone)
        original.model.requires_grad_(False).eval()
        self._original = [original]

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        (original,) = self._original
        with torch.no_grad():
            target = in_full(original.encode_image(batch["pixels"], normalize=False))

        def distances(pixels: Tensor) -> Tensor:
            return (in_full(backbone.encode_image(pixels, normalize=False)) - target).square().sum(dim=1)  # (B,)

        attacked = backbone.encode_image(self.attacked(batch, backbone, distances), normalize=False)
        return {"attacked_embedding": attacked, "original_embedding": target}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        squares = (out["attacked_embedding"] - out["original_embedding"].detach()).square()  # (n, D)
        return {"loss": ranks.average(squares.sum(dim=1).mean())}
