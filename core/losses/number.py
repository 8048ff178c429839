"""A number per image, by a linear layer on the image's features: the training of towers for regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.items import Number
from ..contracts.loss import OWN_EQUATIONS, Loss
from ..contracts.options import option
from ..contracts.outputs import Output

NUMBER = Number.NAME
ERRORS: Mapping[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "huber": F.huber_loss, "l1": F.l1_loss}
"""Of standardised numbers; Huber's changes from squared to absolute at one deviation ("Robust Estimation of a Location
Parameter", Huber 1964)."""


@dataclass(eq=False, repr=False, kw_only=True)
class NumberHeadLoss(Loss):
    """The mean error of a linear layer's answers to `image_features` (B, D), against `number` (B,); NaN marks an image
    without a number, which is left out.

    Numbers are standardised by `mean` and `deviation`. The layer begins where `start` puts it, which standardises the
    features too: a linear probe before the towers are trained keeps their features from being distorted ("Fine-Tuning
    can Distort Pretrained Features and Underperform Out-of-Distribution", Kumar et al. 2022, arXiv 2202.10054).

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "number": torch.tensor([1.0, 3.0, 1.0, 3.0])}
        >>> loss = vladapt.build_loss("number", dims={"embed_dim": 4}, mean=2.0)
        >>> loss.start(torch.zeros(4), torch.ones(4), torch.tensor([0.0, 1.0, 0.0, 1.0]), 0.0)
        >>> loss(out)["loss"].item()
        0.5
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", NUMBER})
    outputs: ClassVar[Mapping[str, Output]] = {NUMBER: Output("the image's number", ("B",), "raw", column=NUMBER)}

    error: str = option("mse", "error that is minimised, of standardised numbers", choices=tuple(ERRORS))
    mean: float = option(0.0, "mean of the training numbers")
    deviation: float = option(1.0, "standard deviation of the training numbers", above=0)

    def __post_init__(self):
        super().__post_init__()
        width = self.dim("embed_dim", "its linear layer")
        self.layer = nn.Linear(width, 1)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @torch.no_grad()
    def start(self, centre: Tensor, scale: Tensor, weight: Tensor, bias: float) -> None:
        """Standardise features (x - centre) / scale, (D,) each, and begin with these weights (D,) of standardised
        numbers."""
        self.centre.copy_(centre)
        self.scale.copy_(scale)
        self.layer.weight[0].copy_(weight)
        self.layer.bias.fill_(bias)

    def answers_to(self, features: Tensor) -> Tensor:
        """(B, D) -> (B,) standardised numbers."""
        return self.layer((features - self.centre) / self.scale).squeeze(-1)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        targets = (out[NUMBER] - self.mean) / self.deviation
        present = targets.isfinite()
        answers = self.answers_to(out["image_features"])
        each = ERRORS[self.error](answers, torch.where(present, targets, answers.detach()), reduction="none")
        return {"loss": (each * present).sum() / present.sum().clamp(min=1)}
