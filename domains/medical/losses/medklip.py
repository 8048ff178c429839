"""MedKLIP: queries of findings look at an image, say what is there, and name the position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.runtime import Ranks
from ._query_decoder import QueryLoss, Stream, as_bert, contrast_loss, drawn_places, existence_loss, image_map


@dataclass(eq=False, repr=False, kw_only=True)
class MedklipLoss(QueryLoss):
    """MedKLIP: Medical Knowledge Enhanced Language-Image Pre-Training in Radiology (Wu et al., 2023, arXiv 2301.02228).

    Patches v of an image go through two layers. A query q_e, a linear layer of the text of finding e, looks at them in
    a decoder, and its answer h_e is learned in two ways:

        existence = CE(linear(h_e), present or absent), where the finding is present or absent
        position  = -log softmax over k of (W h_e . a_k) at k = 0, where it is present

    with a_0 the text of a position that the finding has, and the texts of `negatives` others. Both are means over what
    is known, and added. Which texts are drawn depends on the seed, the step and the sample.

    The text tower stays frozen. The findings and their positions are kept with what was learned; an adapter of the same
    name answers with it.

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
        >>> sorted(vladapt.build_loss("medklip", {"embed_dim": 4}, **texts)(out))
        ['existence', 'loss', 'position']
    """

    differs: ClassVar[str] = (
        "negatives are positions that the finding does not have, each once (released: rows of all findings, among them "
        "the true one); patches and texts are those of the backbone's shared space (released: ResNet-50 layer 3, "
        "ClinicalBERT)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_tokens", "findings", "relations", "index"})

    def __post_init__(self):
        super().__post_init__()
        if not self.contrast_weight:
            self.needs = self.needs - {"relations", "index"}
        self.image_map = image_map(self.text_width, self.width)
        self.stream = Stream(self, self.text_width if self.contrast_weight else None)
        self.apply(as_bert)

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        present, absent = self.known(out)
        answers = self.asked(self.image_map(out["image_tokens"]))
        existence = existence_loss(self.stream.classifier(answers), present, absent, ranks)
        if not self.contrast_weight:
            return {"loss": existence, "existence": existence}
        at = self.related(out) == 1
        keys = self.draws.keys(out["index"], at.shape[1:])
        (true, _), (others, there) = drawn_places(keys, at, 1), drawn_places(keys, ~at, self.negatives)
        position = self.position_loss(answers, torch.cat([true, others], dim=2), there, present & at.any(dim=2), ranks)
        return {"loss": existence + self.contrast_weight * position, "existence": existence, "position": position}

    def asked(self, patches: Tensor) -> Tensor:
        """(B, P, W) -> (B, E, W)."""
        return self.stream.dropout(self.stream(patches, self.query_map(self.book_of_findings)))

    def position_loss(self, answers: Tensor, texts: Tensor, there: Tensor, learned: Tensor, ranks: Ranks) -> Tensor:
        """Of (B, E, 1 + K) positions, of which the first is the true one; `there` (B, E, K) of the others count."""
        products = self.stream.products(answers, self.book_of_positions)
        true = products.gather(2, texts[..., :1])[..., 0]
        return contrast_loss(true, products, texts[..., 1:], there, learned, ranks)

    def seen(self, tokens: Tensor) -> tuple[Stream, Tensor]:
        return self.stream, self.image_map(tokens)
