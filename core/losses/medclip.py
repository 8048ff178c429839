"""The semantic matching of MedCLIP: images and reports are matched by their findings, paired or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..contracts.outputs import Output
from ..runtime.ranks import Ranks
from ._products import products_option, with_all


@dataclass(eq=False, repr=False, kw_only=True)
class Medclip(RowLoss):
    """An image matches a text as far as their findings agree, whether or not they come from one study.

    MedCLIP: Contrastive Learning from Unpaired Medical Images and Text, 2022, arXiv 2210.10163. Findings are 1 if
    present, -1 if absent and 0 if uncertain or not given. The softmax of an image's agreement with all texts is
    the soft target of its logits, and the other way round; the loss is the mean of both cross-entropies. Features of an
    augmented text (`text_view2`) have the same targets, and the mean of both texts is taken. Pairs need a column
    `findings`, as many numbers in each row; NaN, or a row without, is 0. A pair's image has those of its text.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> findings = {"image_findings": torch.eye(4), "text_findings": torch.eye(4)}
        >>> round(float(vladapt.build_loss("medclip")({**out, **findings})["loss"]), 3)
        5.246
    """

    differs: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "logit_scale", "image_findings", "text_findings"}
    )
    outputs: ClassVar[Mapping[str, Output]] = {
        f"{side}_findings": Output(
            f"findings in the {words}: 1 present, 0 uncertain, -1 absent", ("B", "E"), "finding", column="findings"
        )
        for side, words in (("image", "image"), ("text", "caption"))
    }
    logit_scale_bounds: ClassVar[tuple[float, float] | None] = (1.0, 100.0)

    cosine: bool = option(False, "compare findings by cosine, as in the paper, not by dot product, as released")
    augmented_text: bool = option(False, "require `text_view2`, which is used wherever it is given")
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        if self.augmented_text:
            self.needs = self.needs | {"text_view2"}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        agreement = self._agreement(out, ranks)  # (n, N)
        images = out["logit_scale"] * out["image_features"]
        parts = {
            part: soft_match(with_all(images, out[text], ranks, self.products), agreement, ranks)
            for part, text in (("text", "text_features"), ("augmented_text", "text_view2"))
            if text in out
        }
        return {"loss": sum(parts.values()) / len(parts), **parts}

    def _agreement(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        of_images, of_texts = (
            out[f"{side}_findings"].to(out["image_features"]).nan_to_num() for side in ("image", "text")
        )
        if self.cosine:
            of_images, of_texts = F.normalize(of_images, dim=1), F.normalize(of_texts, dim=1)
        return of_images @ ranks.columns(of_texts).T


def soft_match(logits: Tensor, agreement: Tensor, ranks: Ranks) -> Tensor:
    """Mean over both directions of the cross-entropy of (n, N) logits with the softmax of (n, N) agreements."""
    to_text = F.cross_entropy(logits, agreement.softmax(dim=1))
    return ranks.average((to_text + ranks.soft_cross_entropy_down(logits, agreement)) / 2)
