"""Distillation of a frozen teacher's two towers: its features, its similarities, its hardest negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..errors import CapabilityError
from ..runtime.ranks import Ranks
from ._products import products_option, with_all

FEATURES = frozenset({"image_features", "text_features", "teacher.image", "teacher.text"})
SCORES = FEATURES | {"logit_scale", "teacher.logit_scale"}
REDUCTIONS = ("mean", "sum")
TINY = 1e-12  # keeps the shares of an entropy of nothing finite


@dataclass(eq=False, repr=False, kw_only=True)
class Distill(RowLoss):
    """Four ways to learn from a frozen teacher, summed by weight.

    feature: the squared difference of unit features from the teacher's, mean over samples and over their width D, image
    and text summed, with the weight of 2000 that CLIP-KD's released code has (CLIP-KD: An Empirical Study of CLIP
    Model Distillation, 2023, arXiv 2307.12732). `reduction="sum"` gives the squared distance, D times as
    much. Where the teacher is wider or narrower, as dims["teacher_dim"] says, features go through a linear layer first,
    and to unit length again.

    similarity: cross-entropy of each image's distribution over texts with the teacher's as target, and of each text's
    over images, mean of both: open_clip's distillation (Reproducible scaling laws for contrastive language-image
    learning, 2023, arXiv 2212.07143, has the library). It is the affinity mimicking of TinyCLIP (TinyCLIP: CLIP
    Distillation via Affinity Mimicking and Weight Inheritance, 2023, arXiv 2309.12314) too.

    interactive: CLIP-KD's interactive contrastive learning. Each image picks its text among the teacher's texts, each
    text its image among the teacher's images: the mean of both cross-entropies, with the student's logit scale.

    dynamic: Dynamic Contrastive Distillation for Image-Text Retrieval (2022, arXiv 2207.01426). Each image is scored
    with its text and with the `negatives` texts that the teacher finds most alike. With e the share that an image has
    in the sum over the batch of the teacher's entropies over these, the student's scores follow the teacher's by mean
    squares, weighted with the softmax over the batch of (1 - e)^2, and they tell the own text from the others by
    binary cross-entropy, weighted with e: the teacher leads where it is certain, the labels where it is not. Published
    for towers with a fusion head and 15 texts drawn at random; here scores are scaled cosines, and texts those of the
    batch. The released code averages the squares before it weighs them, so that their weights do nothing, and leaves
    the teacher's scores in another order than the student's; here weights and order are those the paper means.

    A term of weight 0 is left out, with all that only it needs.

    Raises:
        ConfigError: all weights are 0.
        CapabilityError: features differ in width from the teacher's, and dims does not say so.

    Example:
        >>> import torch, vladapt
        >>> same, scale = torch.eye(4), torch.tensor(10.0)
        >>> out = {"image_features": same, "text_features": same, "logit_scale": scale}
        >>> out |= {"teacher.image": same, "teacher.text": same, "teacher.logit_scale": scale}
        >>> {name: round(part.item(), 4) for name, part in vladapt.build_loss("distill")(out).items()}
        {'loss': 0.0015, 'feature': 0.0, 'similarity': 0.0015}
    """

    differs: ClassVar[str] = (
        "the similarity term has open_clip's fixture, and does not differ. CLIP-KD's feature term is checked against "
        "the mean of squares in its code, its interactive term and DCD's term against their equations. DCD's released "
        "code averages before it applies weights, and leaves the teacher's scores in another order; ours does neither"
    )
    needs: ClassVar[frozenset[str]] = SCORES
    teacher: ClassVar[str | None] = "frozen"

    feature: float = option(2000.0, "weight of the distance to the teacher's features, 0 for none", low=0, high=10_000)
    reduction: str = option(
        "mean", "whether the feature term is a mean or a sum over the features' width", choices=REDUCTIONS
    )
    similarity: float = option(1.0, "weight of the teacher's similarities as targets, 0 for none", low=0, high=10_000)
    interactive: float = option(
        0.0, "weight of the contrast with the teacher's features, 0 for none", low=0, high=10_000
    )
    dynamic: float = option(0.0, "weight of the dynamic term, 0 for none", low=0, high=10_000)
    negatives: int = option(7, "number of hardest texts per image, in the dynamic term", low=1, high=1_000_000)
    alpha: float = option(0.2, "weight of the teacher in the dynamic term; the labels have the rest", low=0, high=1)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(("feature", "similarity", "interactive", "dynamic"))
        self.needs = FEATURES | ({"logit_scale"} if self.interactive else frozenset())
        self.needs = SCORES if self.similarity or self.dynamic else self.needs
        self.image_map, self.text_map = nn.Identity(), nn.Identity()  # unit features as they come
        width, teacher_width = self.dims.get("embed_dim"), self.dims.get("teacher_dim")
        if (self.feature or self.interactive) and teacher_width not in (None, width):
            width = self.dim("embed_dim", "its maps to the teacher's width")
            self.image_map, self.text_map = (_UnitLinear(width, teacher_width) for _ in range(2))

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        terms = {"feature": self._feature, "similarity": self._similarity}
        terms |= {"interactive": self._interactive, "dynamic": self._dynamic}
        given = {name: value.detach() if name.startswith("teacher.") else value for name, value in out.items()}
        parts = {name: terms[name](given, ranks) for name in self.weights}
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _feature(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        pairs = zip(self._mapped(out), (out["teacher.image"], out["teacher.text"]))
        return ranks.average(sum(_distance(student, teacher, self.reduction) for student, teacher in pairs))

    def _interactive(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        picked = []
        for student, name in zip(self._mapped(out), ("teacher.text", "teacher.image")):
            scores = with_all(out["logit_scale"] * student, out[name], ranks, self.products)  # (n, N)
            picked.append(F.cross_entropy(scores, ranks.own_pairs(scores)))
        return ranks.average(sum(picked) / 2)

    def _mapped(self, out: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Images and texts, as wide as the teacher's."""
        image, text = self.image_map(out["image_features"]), self.text_map(out["text_features"])  # (n, D')
        widths = image.shape[-1], out["teacher.image"].shape[-1]
        if widths[0] != widths[1]:
            raise CapabilityError(
                f"{self.title} compares features of width {widths[0]} with a teacher's of {widths[1]}; "
                "give dims['teacher_dim'], or feature=0 and interactive=0"
            )
        return image, text

    def _similarity(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        student, teacher = self._scores(out, ranks)  # (n, N)
        to_text = F.cross_entropy(student, teacher.softmax(dim=1))
        return ranks.average((to_text + ranks.soft_cross_entropy_down(student, teacher)) / 2)

    def _dynamic(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        student, teacher = self._scores(out, ranks)  # (n, N)
        others = teacher.masked_fill(ranks.is_own_pair(teacher), -torch.inf)
        hardest = others.topk(min(self.negatives, teacher.shape[1] - 1), dim=1).indices
        chosen = torch.cat([ranks.own_pairs(teacher)[:, None], hardest], dim=1)
        student, teacher = student.gather(1, chosen), teacher.gather(1, chosen)  # (n, 1 + negatives)
        logs = teacher.log_softmax(dim=1)
        entropy = ranks.columns(-(logs.exp() * logs).sum(dim=1) + TINY)  # (N,)
        share = entropy / entropy.sum()
        led, own = ((1 - share) ** 2).softmax(dim=0), ranks.own(len(teacher))
        imitation = ranks.total(((student - teacher) ** 2).mean(dim=1) @ led[own])
        is_positive = torch.zeros_like(student)
        is_positive[:, 0] = 1
        missed = F.binary_cross_entropy_with_logits(student, is_positive, reduction="none").mean(dim=1)
        return self.alpha * imitation + (1 - self.alpha) * ranks.total(missed @ share[own])

    def _scores(self, out: Mapping[str, Any], ranks: Ranks) -> tuple[Tensor, Tensor]:
        """(n, N) of the student and of the teacher."""
        student = with_all(out["logit_scale"] * out["image_features"], out["text_features"], ranks, self.products)
        scaled = out["teacher.logit_scale"] * out["teacher.image"]
        return student, with_all(scaled, out["teacher.text"], ranks, self.products)


class _UnitLinear(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(super().forward(features), dim=-1)


def _distance(student: Tensor, teacher: Tensor, reduction: str) -> Tensor:
    """Mean over (B, D) rows of their squared differences, of which a row has the mean or the sum."""
    squares = (student - teacher).square()
    return squares.mean() if reduction == "mean" else squares.sum(dim=-1).mean()
