"""SLIP: CLIP on a pair and SimCLR on two further views of its image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.adapter import require
from ..contracts.loss import Loss
from ._heads import batch_norm_mlp
from ._info_nce import info_nce


class Slip(Loss):
    """SLIP: Self-supervision meets Language-Image Pre-training (Mu et al., 2021, arXiv 2112.12750).

    CLIP's loss on the lightly augmented image and its caption, plus SimCLR's on two strongly augmented views, whose
    features before the projection go through an MLP of three layers with BatchNorm.

    The released code gathers CLIP's features from other processes without gradient, and so trains on less than the
    gradient of the whole batch; here it is that of the whole batch, as the paper means.

    Args:
        ssl_scale: weight of the self-supervised part, 0 or more; at 0 no further views are needed.
        temperature: of SimCLR, above 0.
        mlp_dim: width of the MLP's hidden layers; 0 for no MLP.
        emb_dim: width of its output.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: dims lacks image_width where it is needed.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "logit_scale", "hidden_view1", "hidden_view2"}
    )
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        ssl_scale: float = 1.0,
        temperature: float = 0.1,
        mlp_dim: int = 4096,
        emb_dim: int = 256,
    ):
        super().__init__(dims)
        require(ssl_scale >= 0, "ssl_scale", ssl_scale, "give 0 or more")
        require(temperature > 0, "temperature", temperature, "give a number above 0")
        require(mlp_dim >= 0, "mlp_dim", mlp_dim, "give a width, or 0 for no MLP")
        require(emb_dim >= 1, "emb_dim", emb_dim, "give a width of 1 or more")
        self.ssl_scale, self.temperature = ssl_scale, temperature
        self.projector: nn.Module = nn.Identity()
        if not ssl_scale:
            self.needs = self.needs - {"hidden_view1", "hidden_view2"}
        elif mlp_dim:
            width = self.dim("image_width", "its self-supervised MLP")
            self.projector = batch_norm_mlp((width, mlp_dim, mlp_dim, emb_dim))

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
