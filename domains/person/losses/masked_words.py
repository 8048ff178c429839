"""Masked words of a caption, predicted with the help of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.contracts import Backbone, Output, RowLoss, option
from ....core.errors import CapabilityError
from ....core.losses import HiddenWords
from ....core.runtime import Ranks
from ._interaction import InteractionEncoder, masked_captions

FIELDS = ("tokens", "draws")
HEADS_OF_FULL_RATE = "mlm_head"
CROSS = "cross"


@dataclass(eq=False, repr=False, kw_only=True)
class MaskedWordsLoss(RowLoss):
    """The implicit relation reasoning of "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person
    Retrieval" (IRRA), 2023, arXiv 2303.12501.

    15 % of the words of a caption are chosen, at least one; 80 % of these are masked, 10 % are replaced by another
    word, 10 % are kept. The text tower reads the result. Its tokens attend to the whole image and all patches in one
    cross-attention, then to each other in a transformer of four blocks; a head of two layers predicts the chosen words.
    The loss is the mean cross-entropy over chosen words. The choice is a function of seed, epoch and row.

    Towers give tokens in their shared space, and the encoder is as wide as that. `width` makes it narrower, with a
    linear layer on each side; this is ours, for towers with very wide features (`embedded`).

    Raises:
        CapabilityError: dims lacks embed_dim or vocab_size, or the text tower knows no token for a hidden word.

    Example:
        >>> import torch, vladapt
        >>> loss = vladapt.build_loss("masked-words", {"embed_dim": 64, "vocab_size": 11}, depth=1)
        >>> out = {"image_embedding": torch.randn(4, 64), "image_tokens": torch.randn(4, 6, 64)}
        >>> out |= {"hidden_caption": torch.randn(4, 5, 64), "hidden_words": torch.full((4, 5), 3)}
        >>> sorted(loss(out))
        ['loss', 'right']
    """

    differs: ClassVar[str] = "the mean is over the words chosen in all processes"
    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding", "image_tokens", "hidden_caption", "hidden_words"})
    outputs: ClassVar[Mapping[str, Output]] = {
        "hidden_caption": Output("tokens of a caption with words hidden", ("B", "L", "D"), "raw", fields=FIELDS),
        "hidden_words": Output("the hidden words' ids", ("B", "L"), "token", fields=FIELDS),
    }

    share: float = option(0.15, "share of the words that are chosen for masking", above=0, high=1)
    depth: int = option(4, "blocks of the transformer after the cross-attention", low=1, high=100)
    width: int | None = option(None, "width of the encoder; none: that of the features", low=8, high=65_536)
    most_words: int = option(77, "first tokens of a caption, among which words are masked", low=2, high=100_000)

    def __post_init__(self):
        super().__post_init__()
        features, words = self.dim("embed_dim", "its encoder"), self.dim("vocab_size", "its words")
        self.encoder = InteractionEncoder(features, self.width or features, self.depth, words)

    def rate_of(self, name: str, head: float, bias: float | None) -> float:
        """As released: the head's own rate for all of the head, biases' for those of the attention, that of the towers
        for the norms between."""
        if HEADS_OF_FULL_RATE in name:
            return head
        if bias is not None and "bias" in name:
            return bias
        return head if CROSS in name or name.startswith(("encoder.to_",)) else 1.0

    def prepare(self, backbone: Backbone) -> None:
        """Nothing is changed.

        Raises:
            CapabilityError: the text tower knows no token for a hidden word.
        """
        if backbone.mask_token is None:
            raise CapabilityError(
                f"{self.title}: backbone '{backbone.spec}' has no token that stands for a hidden word; use embedded, "
                "or an open_clip tower with CLIP's own vocabulary"
            )

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        made = masked_captions(backbone, batch, self.share, self.most_words)
        return dict(zip(("hidden_caption", "hidden_words", "hidden_text"), made))

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        hidden = HiddenWords(out["hidden_words"], self.share)
        image = torch.cat([out["image_embedding"][:, None], out["image_tokens"]], dim=1)  # (n, 1 + P, D)
        scores = self.encoder(out["hidden_caption"], image, hidden.places)  # (K, V)
        count = ranks.total(hidden.count).clamp(min=1)
        right = ranks.total((scores.argmax(dim=1) == hidden.targets).sum()) / count
        return {"loss": ranks.total(hidden.error(scores)) / count, "right": right}
