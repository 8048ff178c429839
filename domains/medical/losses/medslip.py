"""MeDSLIP: what is seen and where it is are two streams of queries, which have to agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import option
from ....core.runtime import Ranks
from ._query_decoder import (
    QueryLoss,
    Stream,
    as_bert,
    contrast_loss,
    drawn_places,
    existence_loss,
    image_map,
    mean_where,
)


@dataclass(eq=False, repr=False, kw_only=True)
class MedslipLoss(QueryLoss):
    """MeDSLIP: Medical Dual-Stream Language-Image Pre-training with Pathology-Anatomy Semantic Alignment (Fan et al.,
    2024, arXiv 2403.10635).

    A linear layer m divides patches v into m(v) v, for findings, and (1 - m(v)) v, for positions. Queries of findings
    and of positions, one linear layer of their texts, look at their own stream in a decoder of its own, which gives
    h_e and g_a. The sum of three terms is learned, each a mean over what is known:

        existence  CE of linear(h_e), finding present or absent; of linear(g_a), anything present there or nothing
        prototype  -log softmax of (W h_e . p) for p the mean text of all positions of the finding, among `negatives`
                   texts of others; and likewise of g_a among texts of findings
        product    BCE of h_e . g_a, whether the finding is at the position

    Which texts are drawn depends on the seed, the step and the sample. The text tower stays frozen. The findings and
    their positions are kept with what was learned; an adapter of the same name answers with it.

    Args:
        dims: "embed_dim", the width of patches and texts.

    Raises:
        ConfigError: nothing is described, or width does not divide into heads. CapabilityError: dims lacks embed_dim.
        DataError: images have another number of findings, or of relations, than are described.

    Example:
        >>> import torch, vladapt
        >>> texts = {"findings": {"Edema": "fluid"}, "positions": {"left": "lung", "right": "lung"}}
        >>> out = {"image_tokens": torch.randn(2, 9, 4), "findings": torch.tensor([[1.0], [-1.0]])}
        >>> out |= {"relations": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "index": torch.arange(2)}
        >>> sorted(vladapt.build_loss("medslip", {"embed_dim": 4}, **texts)(out))
        ['existence', 'loss', 'position_existence', 'position_prototype', 'product', 'prototype']
    """

    differs: ClassVar[str] = (
        "a relation of 2 (uncertain) is not learned (released: a target of 2); patches and texts are those of the "
        "backbone's shared space (released: ResNet-50 layer 3, ClinicalBERT)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_tokens", "findings", "relations", "index"})

    product_weight: float = option(
        1.0, "weight of the products of findings and positions, 0 for none", low=0, high=10_000
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.contrast_weight:
            self.needs = self.needs - {"index"}
        self.mask = nn.Linear(self.text_width, self.text_width)
        self.finding_map, self.position_map = (image_map(self.text_width, self.width) for _ in range(2))
        compared = self.text_width if self.contrast_weight else None
        self.of_findings, self.of_positions = Stream(self, compared), Stream(self, compared)
        self.apply(as_bert)

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        relations, candidates = self.related(out), None
        if self.contrast_weight:
            keys = self.draws.keys(out["index"], relations.shape[1:])
            candidates = (
                drawn_places(keys, relations != 1, self.negatives),
                drawn_places(keys.mT, (relations != 1).mT, self.negatives),
            )
        return self.terms(self.divided(out["image_tokens"]), self.known(out), relations, candidates, ranks)

    def divided(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, D) patches -> those that say what is seen, and those that say where, (B, P, W) each."""
        mask = self.mask(tokens)
        return self.finding_map(mask * tokens), self.position_map((1 - mask) * tokens)

    def terms(
        self,
        patches: tuple[Tensor, Tensor],
        known: tuple[Tensor, Tensor],
        relations: Tensor,
        candidates: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
        ranks: Ranks,
    ) -> dict[str, Tensor]:
        """The loss and its parts.

        Args:
            patches: of both streams, (B, P, W) each.
            known: (B, E) bool each: which findings are present, which absent.
            relations: (B, E, A).
            candidates: of findings (B, E, K) positions, of positions (B, A, K) findings, and which of them count.
        """
        at, not_at = relations == 1, relations == 0
        known_positions = at.any(dim=1), not_at.any(dim=1) & ~at.any(dim=1)
        streams = (
            ("", self.of_findings, self.book_of_findings, self.book_of_positions, known, at),
            ("position_", self.of_positions, self.book_of_positions, self.book_of_findings, known_positions, at.mT),
        )
        answers, parts = [], {}
        for number, (name, stream, book, other, (present, absent), true) in enumerate(streams):
            raw = stream(patches[number], self.query_map(book))
            answers.append(raw)
            asked = stream.dropout(raw)
            parts[f"{name}existence"] = existence_loss(stream.classifier(asked), present, absent, ranks)
            if candidates is not None:
                products = stream.products(asked, other)
                of_mean = (products * true).sum(dim=2) / true.sum(dim=2).clamp(min=1)  # with the mean of true texts
                learned = present & true.any(dim=2)
                parts[f"{name}prototype"] = contrast_loss(of_mean, products, *candidates[number], learned, ranks)
        loss = parts["existence"] + parts["position_existence"]
        if candidates is not None:
            loss = loss + self.contrast_weight * (parts["prototype"] + parts["position_prototype"])
        if self.product_weight:
            values = F.binary_cross_entropy_with_logits(answers[0] @ answers[1].mT, at.to(answers[0]), reduction="none")
            parts["product"] = mean_where(values, at | not_at, ranks)
            loss = loss + self.product_weight * parts["product"]
        return {"loss": loss, **parts}

    def seen(self, tokens: Tensor) -> tuple[Stream, Tensor]:
        return self.of_findings, self.divided(tokens)[0]
