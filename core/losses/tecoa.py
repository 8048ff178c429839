"""TeCoA: attacked images are still told apart by the texts of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.options import option
from ..contracts.outputs import Output
from ..runtime.ranks import Ranks
from ._adversarial import ATTACKED, AdversarialLoss, in_full


@dataclass(eq=False, repr=False, kw_only=True)
class Tecoa(AdversarialLoss):
    """Understanding Zero-Shot Adversarial Robustness for Large-Scale Models (Mao et al., 2022, arXiv 2212.07016).

    With f the unit features of the image tower and T the texts of the classes, which stay as they are:

        min over f of the mean over images x of class y of  max over |d| <= eps of CE(scale f(x + d) T, y)

    The attack is that of Robust CLIP (2024, arXiv 2402.12336): ten steps from a random start, of 4/255. The paper's own
    had eps=1 and steps=2.

    Example:
        >>> import torch, vladapt
        >>> out = {"attacked_features": torch.eye(4), "class_features": torch.eye(4), "labels": torch.arange(4)}
        >>> round(float(vladapt.build_loss("tecoa", scale=1)(out)["loss"]), 3)
        0.744
    """

    differs: ClassVar[str] = (
        "the attack, by a random start of the fixture, and the loss with its gradients do not differ. The texts of the "
        "classes are made of the domain's own templates"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"attacked_features", "class_features", "labels"})
    outputs: ClassVar[Mapping[str, Output]] = {
        "attacked_features": Output("features of attacked images", fields=(*ATTACKED, "labels")),
    }

    scale: float = option(100.0, "what cosines are multiplied by, in the attack too", above=0, high=1000)

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        classes = batch["class_features"].detach()

        def errors(pixels: Tensor) -> Tensor:
            return self._errors(in_full(backbone.encode_image(pixels)), classes, batch["labels"])

        return {"attacked_features": backbone.encode_image(self.attacked(batch, backbone, errors))}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        errors = self._errors(out["attacked_features"], out["class_features"].detach(), out["labels"])
        return {"loss": ranks.average(errors.mean())}

    def _errors(self, images: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
        """(B,) cross-entropies."""
        with torch.autocast(images.device.type, enabled=False):
            return F.cross_entropy(self.scale * images @ classes.T, labels, reduction="none")
