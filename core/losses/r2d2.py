"""R2D2's retrieval losses: pairs are ranked by their features, then matched by two encoders that see both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import RowLoss
from ..contracts.options import option, require
from ..runtime.ranks import Ranks
from ._draws import Draws
from ._info_nce import info_nce
from ._products import with_all

PAIRS = frozenset({"image_features", "text_features", "logit_scale", "image_ids"})
TOKENS = frozenset({"image_embedding", "image_tokens", "text_tokens", "text_mask", "index"})
WIDTH_OF_A_HEAD = 64


@dataclass(eq=False, repr=False, kw_only=True)
class R2d2(RowLoss):
    """CCMB: A Large-scale Chinese Cross-modal Benchmark (2022, arXiv 2205.03860), which has the model R2D2.

        gcpr  global contrastive pre-ranking: CLIP's loss, the target spread evenly over all captions of an image
        fgr   fine-grained ranking: in one encoder the words look at the image, in another the patches look at the
              words; after each, a linear layer says of the first token whether the two belong together. Of each pair,
              besides itself, its text with an image that is not its own and its image with such a text, drawn by the
              softmax of their similarity; cross-entropy, a pair that belongs together counts `positive` times

    The value of fgr is the mean of both encoders. The temperature stays within 0.001 and 0.5.
    The two-way distillation of its pre-training is not part of the released code, nor of this.

    Args:
        dims: "embed_dim" and "text_width" of the towers.

    Raises:
        ConfigError: both weights are 0, or a width that heads do not divide.
        CapabilityError: dims lacks a width where fgr is not 0.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("r2d2", fgr=0)
        >>> round(float(loss({**out, "image_ids": torch.tensor([0, 1, 2, 2])})["loss"]), 3)
        2.5
    """

    differs: ClassVar[str] = (
        "the values do not differ. The two encoders start at random, over the tokens of both towers; negatives are "
        "drawn by Gumbel's rule, of the distribution of the released draw, whatever the order of a batch"
    )
    needs: ClassVar[frozenset[str]] = PAIRS | TOKENS
    logit_scale_bounds: ClassVar[tuple[float, float] | None] = (2.0, 1000.0)

    gcpr: float = option(1.0, "weight of the global contrastive pre-ranking, 0 for none", low=0, high=10_000)
    fgr: float = option(1.0, "weight of the fine-grained ranking, 0 for none", low=0, high=10_000)
    positive: float = option(2.0, "weight of pairs that belong together, beside 1 of the others", above=0, high=10_000)
    layers: int = option(6, "layers of each encoder", low=1, high=1000)
    width: int = option(0, "width of both encoders; 0: that of the shared space", low=0, high=65_536)
    heads: int = option(0, "heads of attention; 0: one per 64 of the width", low=0, high=65_536)

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(("gcpr", "fgr"))
        self.needs = PAIRS | (TOKENS if self.fgr else frozenset())
        if not self.fgr:
            return
        embed_dim = self.dim("embed_dim", "its encoders")
        width = self.width or embed_dim
        heads = self.heads or max(1, width // WIDTH_OF_A_HEAD)
        require(width % heads == 0, "heads", heads, f"the width of {width} is no multiple of it")
        self.image_map, self.text_map = nn.Linear(embed_dim, width), nn.Linear(self.dim("text_width", "them"), width)
        self.text_encoder, self.image_encoder = (bert_layers(width, heads, self.layers) for _ in range(2))
        self.text_head, self.image_head = nn.Linear(width, 2), nn.Linear(width, 2)
        self.draws = Draws()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        terms = {"gcpr": self._gcpr, "fgr": self._fgr}
        parts = {name: terms[name](out, ranks) for name in self.weights}
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def after_step(self, model: nn.Module | None) -> None:
        if self.fgr:
            self.draws.move()

    def _gcpr(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        images, texts = out["image_features"], out["text_features"]
        return info_nce(images, texts, out["logit_scale"], ranks=ranks, labels=out["image_ids"])

    def _fgr(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        image = torch.cat([out["image_embedding"][:, None], out["image_tokens"]], dim=1)  # (n, 1 + P, D)
        image, text, mask = self.image_map(image), self.text_map(out["text_tokens"]), out["text_mask"]
        other_image, other_text, has_other = self._negatives(out, ranks)  # (n,) each
        images = torch.cat([image, ranks.columns(image)[other_image], image])  # (3 n, 1 + P, W)
        texts = torch.cat([text, text, ranks.columns(text)[other_text]])  # (3 n, L, W)
        padding = ~torch.cat([mask, mask, ranks.gather(mask)[other_text]])
        read, seen = texts, images
        for layer in self.text_encoder:
            read = layer(read, images, tgt_key_padding_mask=padding)
        for layer in self.image_encoder:
            seen = layer(seen, texts, memory_key_padding_mask=padding)
        return self.matching(read[:, 0], seen[:, 0], has_other, ranks)

    def matching(self, text: Tensor, image: Tensor, has_other: Tensor, ranks: Ranks) -> Tensor:
        """The fine-grained ranking of first tokens.

        Args:
            text: (3 n, W) of the first encoder: of n pairs, of their texts with other images, of their images with
                other texts.
            image: (3 n, W) of the second.
            has_other: (n,) bool, where there is another image at all.
        """
        labels = torch.zeros(3, len(has_other), dtype=torch.int64, device=text.device)
        labels[0] = 1
        weights = torch.stack([torch.full_like(has_other, self.positive, dtype=text.dtype), *[has_other.to(text)] * 2])
        all_weights = ranks.total(weights.sum())
        heads = ((self.text_head, text), (self.image_head, image))
        missed = [F.cross_entropy(head(first), labels.flatten(), reduction="none") for head, first in heads]
        return ranks.total(sum(missed) / 2 @ weights.flatten()) / all_weights

    @torch.no_grad()
    def _negatives(self, out: Mapping[str, Any], ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        """For each pair the column of an image that is not its own, that of such a text, and whether there is any."""
        images, texts, ids = out["image_features"], out["text_features"], out["image_ids"]
        all_ids, index = ranks.gather(ids), out["index"]
        same = (ids[:, None] == all_ids) | ranks.is_own_pair(texts.new_empty(len(ids), len(all_ids)))  # (n, N)
        drawn = []
        for own, others, kind in ((texts, images, 0), (images, texts, 1)):
            weights = log_negative_weights(out["logit_scale"] * with_all(own, others, ranks, "fp32"), same)
            noise = self.draws.of_pairs(2 * index + kind, ranks.gather(index))
            drawn.append((weights - (-noise.log()).log()).argmax(dim=1))  # Gumbel: as weights.exp().multinomial(1)
        return drawn[0], drawn[1], ~same.all(dim=1)


def log_negative_weights(scores: Tensor, same: Tensor) -> Tensor:
    """(n, N) with what weight each column is drawn as a negative of a row: the logarithm of its share in the softmax,
    -inf of positives. The share itself may be too small for a float."""
    return scores.log_softmax(dim=1).masked_fill(same, -torch.inf)


def bert_layers(width: int, heads: int, layers: int) -> nn.ModuleList:
    """Layers of self-attention, attention to the other side and a feed-forward part, post-norm as in BERT."""
    how = {"dim_feedforward": 4 * width, "dropout": 0.0, "activation": "gelu", "batch_first": True}
    return nn.ModuleList(nn.TransformerDecoderLayer(width, heads, **how) for _ in range(layers))
