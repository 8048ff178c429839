"""SILC: CLIP, and small crops trained to match what a momentum teacher sees in the whole image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import OWN_EQUATIONS, RowLoss
from ..contracts.options import option
from ..errors import ConfigError
from ..runtime.ranks import Ranks
from ._info_nce import info_nce
from ._products import products_option
from ._prototypes import PrototypeHead

PAIRS = frozenset({"image_features", "text_features", "logit_scale"})
CROPS = frozenset({"hidden_local", "teacher.image_hidden"})


@dataclass(eq=False, repr=False, kw_only=True)
class Silc(RowLoss):
    """SILC: Improving Vision Language Pretraining with Self-Distillation (Naeem et al., 2023, arXiv 2310.13355).

    CLIP's loss, plus DINO's from local to global views (2021, arXiv 2104.14294): a head maps features to scores of K
    prototypes; from local crops the student is trained to give the softmax that the teacher, a moving average of
    the student, gives from the whole image. The teacher's scores are centred on their mean over time and sharpened.

    As published: K 65536, temperatures 0.04 and 0.1, centre momentum 0.9, and a fixed teacher momentum of 0.966: one
    that ends at 1, as DINO's does, would keep the teacher from learning from texts. The paper sees two global views,
    0.4 to 1 of the image, and eight local ones, 0.05 to 0.4; here the global view is the one that CLIP's loss sees, so
    that it is aligned with the text, as the paper asks, and the number of local views is free. DINO's momentum goes
    from 0.996 to 1. A term of weight 0 is left out, with all that only it needs.

    Experimental: the head is DINO's, three layers with GELU to a bottleneck, unit length, and unit prototypes; it
    reads features before the projection, where the paper's starts from the shared space; and the weight of both terms
    is 1. The paper states none of the three.

    Raises:
        ConfigError: both weights are 0.
        CapabilityError: dims lacks image_width where it is needed.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("silc", {"image_width": 8}, out_dim=16, hidden_dim=8, bottleneck_dim=4)
        >>> sorted(loss({**out, "hidden_local": torch.randn(4, 2, 8), "teacher.image_hidden": torch.randn(4, 8)}))
        ['contrastive', 'distill', 'loss']
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = PAIRS | CROPS
    teacher: ClassVar[str | None] = "ema"
    experimental: ClassVar[str] = "the head's layers and what it reads, and the weight of the self-distillation"
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    contrastive: float = option(1.0, "weight of CLIP's loss, 0 for none", low=0, high=10_000)
    distill: float = option(1.0, "weight of the self-distillation, 0 for none", low=0, high=10_000)
    momentum: float = option(0.966, "momentum of the teacher", low=0, high=1)
    final_momentum: float | None = option(
        None, "momentum of the teacher at the last step, reached along a cosine; none: constant", low=0, high=1
    )
    centre_momentum: float = option(0.9, "momentum of the centre", low=0, high=1)
    teacher_temperature: float = option(0.04, "temperature of the teacher; lower is sharper", above=0, high=100)
    student_temperature: float = option(0.1, "temperature of the student", above=0, high=100)
    out_dim: int = option(65536, "prototypes", low=1, high=1_000_000)
    hidden_dim: int = option(2048, "width of the head's hidden layers", low=1, high=65_536)
    bottleneck_dim: int = option(256, "width of the head's last layer but one", low=1, high=65_536)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        if not (self.contrastive or self.distill):
            raise ConfigError(f"{self.title}: both weights are 0; give one above 0")
        self.weights = {"contrastive": self.contrastive, "distill": self.distill}
        self.needs = (PAIRS if self.contrastive else frozenset()) | (CROPS if self.distill else frozenset())
        self.teacher = "ema" if self.distill else None
        self._seen: Tensor | None = None
        self._progress = 0.0
        if self.distill:
            width = self.dim("image_width", "its head")
            self.head = PrototypeHead(width, self.hidden_dim, self.bottleneck_dim, self.out_dim)
            self.teacher_head = deepcopy(self.head).requires_grad_(False)
            self.register_buffer("centre", torch.zeros(self.out_dim))

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        terms = {"contrastive": self._contrastive, "distill": self._distill}
        self._progress = progress
        parts = {name: term(out, ranks) for name, term in terms.items() if self.weights[name]}
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _contrastive(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        pairs = out["image_features"], out["text_features"], out["logit_scale"]
        return info_nce(*pairs, ranks=ranks, products=self.products)

    def _distill(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        with torch.no_grad():
            scores = self.teacher_head(out["teacher.image_hidden"])  # (n, K)
            targets = ((scores - self.centre) / self.teacher_temperature).softmax(dim=-1)
            self._seen = ranks.average(scores.mean(dim=0))
        student = F.log_softmax(self.head(out["hidden_local"]) / self.student_temperature, dim=-1)  # (n, V, K)
        return ranks.average(-torch.einsum("bk,bvk->bv", targets, student).mean())

    def teacher_momentum(self, progress: float) -> float:
        """Share of itself that the teacher keeps in the step at this share of the training."""
        if self.final_momentum is None:
            return self.momentum
        left = (1 + math.cos(math.pi * progress)) / 2
        return self.final_momentum + (self.momentum - self.final_momentum) * left

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """Moves the centre towards what the teacher gave, and the teacher's head towards the student's."""
        if self._seen is None:
            return
        self.centre.lerp_(self._seen.to(self.centre), 1 - self.centre_momentum)
        step = 1 - self.teacher_momentum(self._progress)
        for average, trained in zip(self.teacher_head.parameters(), self.head.parameters()):
            average.lerp_(trained, step)
        self._seen = None
