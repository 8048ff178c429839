"""SLIP: CLIP on a pair and SimCLR on two further views of its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import Loss
from ..contracts.options import option
from ._info_nce import info_nce


@dataclass(eq=False, repr=False, kw_only=True)
class Slip(Loss):
    """SLIP: Self-supervision meets Language-Image Pre-training (Mu et al., 2021, arXiv 2112.12750).

    CLIP's loss on the lightly augmented image and its caption, plus SimCLR's on two strongly augmented views, whose
    features before the projection go through an MLP of three layers with BatchNorm.

    The released code gathers CLIP's features from other processes without gradient, and so trains on less than the
    gradient of the whole batch; here it is that of the whole batch, as in the paper.

    Raises:
        CapabilityError: dims lacks image_width where it is needed.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("slip", {"image_width": 8}, mlp_dim=16, emb_dim=4)
        >>> sorted(loss({**out, "hidden_view1": torch.randn(4, 8), "hidden_view2": torch.randn(4, 8)}))
        ['clip', 'loss', 'ssl']
    """

    differs: ClassVar[str] = (
        "none on one process; on several the gradient is that of the whole batch, which the released CLIP part lacks"
    )
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "logit_scale", "hidden_view1", "hidden_view2"}
    )
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    ssl_scale: float = option(1.0, "weight of SimCLR's part; at 0 no further views are needed", low=0, high=10_000)
    temperature: float = option(0.1, "temperature of SimCLR", above=0, high=100)
    mlp_dim: int = option(4096, "width of the MLP's hidden layers; 0 for no MLP", low=0, high=65_536)
    emb_dim: int = option(256, "width of the MLP's output", low=1, high=65_536)

    def __post_init__(self):
        super().__post_init__()
        self.projector: nn.Module = nn.Identity()
        if not self.ssl_scale:
            self.needs = self.needs - {"hidden_view1", "hidden_view2"}
        elif self.mlp_dim:
            width = self.dim("image_width", "its self-supervised MLP")
            self.projector = batch_norm_mlp((width, self.mlp_dim, self.mlp_dim, self.emb_dim))

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        clip = info_nce(out["image_features"], out["text_features"], out["logit_scale"])
        if not self.ssl_scale:
            return {"loss": clip, "clip": clip}
        views = [self.projector(out[name]) for name in ("hidden_view1", "hidden_view2")]
        ssl = nt_xent(*views, self.temperature)
        return {"loss": clip + self.ssl_scale * ssl, "clip": clip, "ssl": ssl}


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (2020, arXiv 2002.05709): each view is to find its sample's other view among all views but itself.

    Args:
        first: (B, E) one view of each sample, not normalised.
        second: (B, E) the other.
        temperature: cosines are divided by it.
    """
    views = F.normalize(torch.cat([first, second]), dim=-1)  # (2B, E)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    logits = (views @ views.T / temperature).masked_fill(itself, -torch.inf)  # (2B, 2B)
    return F.cross_entropy(logits, torch.arange(len(views), device=views.device).roll(len(first)))


def batch_norm_mlp(widths: Sequence[int], norm_last: bool = False) -> nn.Sequential:
    """Linear layers from each width to the next, BatchNorm and ReLU between them.

    Args:
        widths: of the input, of each hidden layer, of the output.
        norm_last: whether BatchNorm follows the last layer too, without ReLU.
    """
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out), nn.BatchNorm1d(out), nn.ReLU()]
    return nn.Sequential(*layers[: -1 if norm_last else -2])
