"""IRRA: person search by text, with similarity distributions, identities and masked words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ....core.contracts import Backbone, Output, RowLoss, option
from ....core.errors import ConfigError
from ....core.registry import build_loss
from ....core.runtime import Ranks
from .identity import IdentityLoss
from .masked_words import FIELDS, MaskedWordsLoss

PARTS = ("sdm", "identity", "words")


@dataclass(eq=False, repr=False, kw_only=True)
class Irra(RowLoss):
    """Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval, 2023, arXiv 2303.12501.

    The sum of similarity distribution matching (loss `sdm`, at a fixed scale of 50), of the identity loss (`identity`)
    and of masked words that are predicted with the help of the image (`masked-words`). A part of weight 0 is left out,
    with everything that only it needs.

    In the released code masking overwrites the caption itself, so that the first two parts read masked captions too.
    Here they read whole captions; `leak` does as released.

    Raises:
        ConfigError: all weights are 0, or `leak` without masked words.
        CapabilityError: as of the parts.

    Example:
        >>> import torch, vladapt
        >>> dims = {"embed_dim": 4, "num_labels": 3}
        >>> out = {"image_embedding": torch.eye(4), "text_embedding": torch.eye(4), "labels": torch.arange(4) % 3}
        >>> sorted(vladapt.build_loss("irra", dims, words=0)(out))
        ['identity', 'loss', 'sdm']
    """

    differs: ClassVar[str] = (
        "SDM and the identity loss read whole captions; with `leak` they read masked captions, as in the released code"
    )
    needs: ClassVar[frozenset[str]] = IdentityLoss.needs | MaskedWordsLoss.needs
    outputs: ClassVar[Mapping[str, Output]] = {
        **MaskedWordsLoss.outputs,
        "hidden_text": Output("features of a caption with words hidden", ("B", "D"), "raw", fields=FIELDS),
    }

    sdm: float = option(1.0, "weight of similarity distribution matching, 0 for none", low=0, high=10_000)
    identity: float = option(1.0, "weight of the identity loss, 0 for none", low=0, high=10_000)
    words: float = option(1.0, "weight of the masked words, 0 for none", low=0, high=10_000)
    leak: bool = option(False, "let the other parts read masked captions, as released")
    logit_scale: float = option(50.0, "what cosines are multiplied by in sdm", above=0, high=10_000)
    share: float = option(0.15, "share of the words that are chosen for masking", above=0, high=1)
    depth: int = option(4, "blocks of the transformer after the cross-attention", low=1, high=100)
    width: int | None = option(None, "width of the words' encoder; none: that of the features", low=8, high=65_536)
    most_words: int = option(77, "first tokens of a caption, among which words are masked", low=2, high=100_000)

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(PARTS)
        if self.leak and not self.words:
            raise ConfigError(f"{self.title}: leak=True without masked words; give words above 0")
        needs = {"labels", "image_embedding", "text_embedding"} if self.sdm or self.identity else set()
        if self.sdm:
            self.of_pairs = build_loss("sdm", logit_scale=self.logit_scale)
        if self.identity:
            self.of_people = IdentityLoss(dims=self.dims)
        if self.words:
            how = {"share": self.share, "depth": self.depth, "width": self.width, "most_words": self.most_words}
            self.of_words = MaskedWordsLoss(dims=self.dims, **how)
            needs |= MaskedWordsLoss.needs
        if self.leak:
            needs = needs - {"text_embedding"} | {"hidden_text"}
        self.needs = frozenset(needs)

    def rate_of(self, name: str, head: float, bias: float | None) -> float:
        part, _, of_part = name.partition(".")
        return getattr(self, part).rate_of(of_part, head, bias)

    def prepare(self, backbone: Backbone) -> None:
        if self.words:
            self.of_words.prepare(backbone)

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        return self.of_words.further_outputs(batch, backbone)

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        text = out.get("hidden_text" if self.leak else "text_embedding")
        seen = {**out, "text_embedding": text}
        pair = {"image_features": out.get("image_embedding"), "text_features": text}
        makers = {
            "sdm": lambda: self.of_pairs.compute_rows({**pair, "labels": out["labels"]}, ranks, progress),
            "identity": lambda: self.of_people.compute_rows(seen, ranks, progress),
            "words": lambda: self.of_words.compute_rows(out, ranks, progress),
        }
        parts = {name: makers[name]()["loss"] for name in self.weights}
        return {"loss": sum(weight * parts[name] for name, weight in self.weights.items()), **parts}
