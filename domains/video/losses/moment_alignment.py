"""Moment alignment (ours): a clip at two time resolutions, and a part of it with a text of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ....core.contracts import Output, RowLoss, option
from ....core.losses import info_nce, products_option
from ....core.runtime import Ranks


@dataclass(eq=False, repr=False, kw_only=True)
class MomentAlignment(RowLoss):
    """Our own objective on clips. It takes up two ideas of the abstract of HiTeA: Hierarchical Temporal-Aware
    Video-Language Pre-training (Ye et al., 2022, arXiv 2212.14546); the formulas are ours, those of the paper are not
    public.

    L = NCE(clip, text) + `resolution` x NCE(clip, the same clip at another time resolution) + `moment` x NCE(a short
    part of the clip, the text of that part). NCE is CLIP's mean of the cross-entropies both ways at the towers' logit
    scale: a clip keeps its place among the others whatever the number of frames, and a short part is told from other
    short parts by what is said of it alone.

    The other resolution comes as the second view of a clip, the part as two columns of the pairs: `moment`, a clip, and
    `moment_text`.

    Parts: "clip", "resolution", "moment", without weights.

    Example:
        >>> import torch, vladapt
        >>> names = ("image_features", "text_features", "image_view2", "moment_features", "moment_text")
        >>> out = {**{name: torch.eye(4) for name in names}, "logit_scale": torch.tensor(10.0)}
        >>> round(float(vladapt.build_loss("moment-alignment")(out)["loss"]), 5)
        0.00041
    """

    differs: ClassVar[str] = "ours"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "image_view2", "moment_features", "moment_text", "logit_scale"}
    )
    outputs: ClassVar[Mapping[str, Output]] = {
        "moment_features": Output("features of a part of the clip", column="moment", tower="image"),
        "moment_text": Output("features of the text of that part", column="moment_text", tower="text"),
    }
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    resolution: float = option(1.0, "weight of the two time resolutions, 0 for none", low=0, high=10_000)
    moment: float = option(1.0, "weight of the short part and its text, 0 for none", low=0, high=10_000)

    products: str = products_option()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        pairs = {
            "clip": ("image_features", "text_features"),
            "resolution": ("image_features", "image_view2"),
            "moment": ("moment_features", "moment_text"),
        }
        how = {"scale": out["logit_scale"], "ranks": ranks, "products": self.products}
        parts = {name: info_nce(out[one], out[other], **how) for name, (one, other) in pairs.items()}
        weighted = self.resolution * parts["resolution"] + self.moment * parts["moment"]
        return {"loss": parts["clip"] + weighted, **parts}
