"""MobileCLIP: the mean of several teachers' softmaxes over the batch is the target, of captions and synthetic ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..errors import CapabilityError, ConfigError
from ..runtime.ranks import Ranks
from ._info_nce import info_nce
from ._products import products_option, with_all

CAPTION = frozenset({"image_features", "text_features", "logit_scale"})
TARGETS = frozenset({"teacher.image", "teacher.text"})


@dataclass(eq=False, repr=False, kw_only=True)
class MobileClip(RowLoss):
    """MobileCLIP: Fast Image-Text Models through Multi-Modal Reinforced Training (2023, arXiv 2311.17049).

    With K teachers of unit features a_k and b_k of images and texts, and their scales s_k, the target of an image is

        1/K sum_k softmax(s_k a_k b_k')

    over the texts of the batch, and of a text likewise over the images. `distill` weighs the cross-entropy of the
    student's softmaxes with these targets, both directions averaged, `contrastive` CLIP's loss. Both are computed of
    the caption and, with weight `synthetic`, of one synthetic caption, and added. As published: (0, 1), scales of 100.

    Args:
        dims: "teacher_dim_1", "teacher_dim_2", ...: widths of the teachers, whose features stand side by side; without
            them there is one teacher.

    Raises:
        ConfigError: contrastive and distill are both 0; several scales, and not one per teacher.
        CapabilityError: the teachers' features are not as wide as dims says.

    Example:
        >>> import torch, vladapt
        >>> same, scale = torch.eye(4), torch.tensor(10.0)
        >>> names = ("image_features", "text_features", "teacher.image", "teacher.text")
        >>> loss = vladapt.build_loss("mobile-clip", synthetic=0, contrastive=0.25, distill=0.75)
        >>> round(loss({**dict.fromkeys(names, same), "logit_scale": scale})["loss"].item(), 6)
        0.000136
    """

    differs: ClassVar[str] = (
        "the values do not differ. The released scripts pass one scale for two teachers, with which the released loss "
        "fails; here one scale holds for all"
    )
    needs: ClassVar[frozenset[str]] = CAPTION | TARGETS | {"text_synthetic", "teacher.text_synthetic"}
    teacher: ClassVar[str | None] = "frozen"
    logit_scale_bounds: ClassVar[tuple[float, float] | None] = (1.0, 100.0)

    contrastive: float = option(0.0, "weight of CLIP's loss, 0 for none", low=0, high=10_000)
    distill: float = option(1.0, "weight of the teachers' softmaxes as targets, 0 for none", low=0, high=10_000)
    synthetic: float = option(1.0, "weight of the synthetic caption beside the caption, 0 for none", low=0, high=10_000)
    scales: tuple[float, ...] = option((100.0,), "logit scale of each teacher, or one for all", above=0, high=10_000)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(("contrastive", "distill"))
        self.needs = CAPTION | ({"text_synthetic"} if self.synthetic else frozenset())
        if self.distill:
            self.needs = self.needs | TARGETS | ({"teacher.text_synthetic"} if self.synthetic else frozenset())
        else:
            self.teacher = None
        widths = sorted((int(name.rpartition("_")[2]), name) for name in self.dims if name.startswith("teacher_dim_"))
        self.widths = [self.dims[name] for _, name in widths]
        teachers = max(1, len(self.widths))
        if len(self.scales) not in (1, teachers):
            raise ConfigError(
                f"{self.title}: scales has {len(self.scales)} numbers, and there are {teachers} teachers; give one each"
            )

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        texts = {"": 1.0, "_synthetic": self.synthetic}
        terms = {"contrastive": self._contrastive, "distill": self._distill}
        parts = {
            name: sum(weight * terms[name](out, kind, ranks) for kind, weight in texts.items() if weight)
            for name in self.weights
        }
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _contrastive(self, out: Mapping[str, Any], kind: str, ranks: Ranks) -> Tensor:
        texts = out[_of_student(kind)]
        return info_nce(out["image_features"], texts, out["logit_scale"], ranks=ranks, products=self.products)

    def _distill(self, out: Mapping[str, Any], kind: str, ranks: Ranks) -> Tensor:
        student = with_all(out["logit_scale"] * out["image_features"], out[_of_student(kind)], ranks, self.products)
        images, texts = (self._members(out[name].detach()) for name in ("teacher.image", f"teacher.text{kind}"))
        scales = self.scales * len(images) if len(self.scales) == 1 else self.scales
        scores = [with_all(s * a, b, ranks, self.products) for s, a, b in zip(scales, images, texts)]  # (n, N) each
        rows = torch.stack([each.softmax(dim=1) for each in scores]).mean(dim=0)
        columns = torch.stack([ranks.log_softmax_down(each).exp() for each in scores]).mean(dim=0)
        to_text = F.cross_entropy(student, rows)
        to_image = -(columns * ranks.log_softmax_down(student)).sum() / len(student)
        return ranks.average((to_text + to_image) / 2)

    def _members(self, features: Tensor) -> list[Tensor]:
        """(n, D) of all teachers, side by side -> (n, D_k) unit of each."""
        if self.widths and sum(self.widths) != features.shape[1]:
            raise CapabilityError(
                f"{self.title} was built for teachers of widths {self.widths}; their features have {features.shape[1]}"
            )
        return [F.normalize(each, dim=1) for each in features.split(self.widths or features.shape[1], dim=1)]


def _of_student(kind: str) -> str:
    return f"text{kind}" if kind else "text_features"
