"""TBPS-CLIP: plain CLIP as a strong baseline of person search, with training tricks and several losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, Output, RowLoss, option
from ....core.losses import products_option, with_all
from ....core.runtime import Ranks
from ._identities import IdentityTargets, soft_contrast

TERMS = ("nitc", "ritc", "citc", "simclr")
STRONG = {"projected_view1": "pixels_strong1", "projected_view2": "pixels_strong2"}


@dataclass(eq=False, repr=False, kw_only=True)
class TbpsClip(RowLoss):
    """An Empirical Study of CLIP for Text-based Person Search (Cao et al., 2023, arXiv 2308.10045).

    A weighted sum of four terms, on images of people, their captions and who they are:

    * `nitc`: CLIP's loss with all samples of a person as positives, targets mixed with the model's own softmax; its
      share rises from 0 to `soft` over the first epoch. The mean of two views of the image.
    * `ritc`: KL(p || q) of the softmax p and the even targets q, with q + `epsilon` under the logarithm.
    * `citc`: CyCLIP's two terms (2022, arXiv 2205.14459): squared gaps between the cosines of two images and of their
      captions, and between those of image i with caption j and of image j with caption i.
    * `simclr`: SimCLR's loss (2020, arXiv 2002.05709) on two strongly augmented views, their projected features behind
      a small MLP.

    A term of weight 0 is left out, with all that only it needs.

    Raises:
        ConfigError: all weights are 0.
        CapabilityError: dims lacks embed_dim where SimCLR's part has a weight.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("tbps-clip", simclr=0, second_view=False)
        >>> sorted(loss({**out, "labels": torch.tensor([0, 1, 2, 2])}))
        ['citc', 'loss', 'nitc', 'ritc']
    """

    differs: ClassVar[str] = (
        "values do not differ; the targets are mixed with the softmax of the same pass (released: of a second one)"
    )
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "labels", "logit_scale", "image_view2", *STRONG}
    )
    outputs: ClassVar[Mapping[str, Output]] = {
        name: Output("a strongly augmented view, projected, of any length", ("B", "D"), "raw", fields=(field,))
        for name, field in STRONG.items()
    }
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    nitc: float = option(1.0, "weight of the contrastive loss with soft targets", low=0, high=10_000)
    ritc: float = option(1.0, "weight of the reversed divergence", low=0, high=10_000)
    citc: float = option(0.1, "weight of the cyclic consistency", low=0, high=10_000)
    simclr: float = option(0.4, "weight of SimCLR's part; at 0 no strong views are needed", low=0, high=10_000)
    soft: float = option(0.5, "share of the model's own softmax in the contrastive targets", low=0, high=1)
    ramp: float = option(0.2, "share of training over which `soft` rises: one epoch of five", low=0, high=1)
    second_view: bool = option(True, "use a second augmented view of the image in the contrastive loss")
    epsilon: float = option(0.01, "added to the targets of the reversed divergence", above=0, high=1)
    in_modal: float = option(0.25, "weight of image pairs beside text pairs in the consistency", low=0, high=10_000)
    cross_modal: float = option(0.25, "weight of both ways across in the consistency", low=0, high=10_000)
    temperature: float = option(0.1, "temperature of SimCLR's part", above=0, high=100)
    mlp_dim: int = option(128, "width of the hidden layer of SimCLR's MLP", low=1, high=65_536)
    emb_dim: int = option(512, "width of the MLP's output", low=1, high=65_536)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(TERMS)
        self.needs = frozenset(self._needs())
        if self.simclr:
            width = self.dim("embed_dim", "SimCLR's MLP")
            self.projector = nn.Sequential(
                nn.Linear(width, self.mlp_dim), nn.ReLU(), nn.Linear(self.mlp_dim, self.emb_dim)
            )

    def _needs(self) -> set[str]:
        needs = set(STRONG) if self.simclr else set()
        if self.nitc or self.ritc:
            needs |= {"image_features", "text_features", "labels", "logit_scale"}
        if self.citc:
            needs |= {"image_features", "text_features"}
        return needs | ({"image_view2"} if self.nitc and self.second_view else set())

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        if not self.simclr:
            return {}
        return {name: backbone.encode_image(batch[field], normalize=False) for name, field in STRONG.items()}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        if self.nitc or self.ritc:
            parts |= self._contrasts(out, ranks, progress)
        if self.citc:
            parts["citc"] = self._consistency(out, ranks)
        if self.simclr:
            parts["simclr"] = self._views(out, ranks)
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _contrasts(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        rows, columns = self._log_softmax("image_features", out, ranks)
        targets, parts = IdentityTargets.of(out["labels"], ranks, rows), {}
        if self.nitc:
            soft = self.soft * (min(1.0, progress / self.ramp) if self.ramp else 1.0)
            views = [soft_contrast(rows, columns, targets, soft, ranks)]
            if self.second_view:
                views.append(soft_contrast(*self._log_softmax("image_view2", out, ranks), targets, soft, ranks))
            parts["nitc"] = sum(views) / len(views)
        if self.ritc:
            forth = _divergence(rows, targets.of_rows + self.epsilon).sum(dim=1).mean()
            back = ranks.mean_of_sums_down(_divergence(columns, targets.of_columns + self.epsilon))
            parts["ritc"] = ranks.average((forth + back) / 2)
        return parts

    def _log_softmax(self, images: str, out: Mapping[str, Any], ranks: Ranks) -> tuple[Tensor, Tensor]:
        """(n, N) twice: along rows and down columns."""
        image, text = (F.normalize(out[name], dim=1) for name in (images, "text_features"))
        logits = with_all(out["logit_scale"] * image, text, ranks, self.products)
        return logits.log_softmax(dim=1), ranks.log_softmax_down(logits)

    def _consistency(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        """Of cosines: the released code takes logits and divides by their squared scale."""
        image, text = (F.normalize(out[name], dim=1) for name in ("image_features", "text_features"))
        pairs = ((image, image), (text, text), (image, text), (text, image))
        images, texts, forth, back = (with_all(a, b, ranks, self.products) for a, b in pairs)
        of_kinds, across = ((a - b).square().mean() for a, b in ((images, texts), (forth, back)))
        return ranks.average(self.in_modal * of_kinds + self.cross_modal * across)

    def _views(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        first, second = (F.normalize(self.projector(out[name]), dim=1) for name in STRONG)
        return ranks.average((self._finds(first, second, ranks) + self._finds(second, first, ranks)) / 2)

    def _finds(self, view: Tensor, other: Tensor, ranks: Ranks) -> Tensor:
        """Each view is to find its sample's other view, among those and the other samples' of its own kind."""
        others = with_all(view / self.temperature, other, ranks, self.products)  # (n, N)
        own = with_all(view / self.temperature, view, ranks, self.products)
        own = own.masked_fill(ranks.is_own_pair(own), -torch.inf)
        return F.cross_entropy(torch.cat([others, own], dim=1), ranks.own_pairs(others))


def _divergence(log_found: Tensor, targets: Tensor) -> Tensor:
    """What each entry adds to KL(found || targets)."""
    return log_found.exp() * (log_found - targets.log())
