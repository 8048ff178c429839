"""UniPT: pre-trains both towers on people with generated captions, by contrast and by masked patches and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, Output, RowLoss, option, require
from ....core.losses import HiddenWords, info_nce, products_option
from ....core.runtime import Ranks
from ._masked_patches import HEAD_WIDTH, MaskedPatchDecoder

PAIR = frozenset({"image_features", "text_features"})
WORDS = frozenset({"masked_tokens", "masked_labels"})


@dataclass(eq=False, repr=False, kw_only=True)
class Unipt(RowLoss):
    """Unified Pre-training with Pseudo Texts for Text-To-Image Person Re-identification (Shao et al., 2023,
    arXiv 2309.01420).

    The sum of CLIP's loss on plain cosines, without a temperature (`contrast`), of the error of masked patches, which a
    decoder reconstructs from those that the image tower sees (`patches`), and of the cross-entropy of masked words
    (`words`). The value of the first two is that of the released code. A term of weight 0 is left out, with all that
    only it needs; the decoder needs an image tower with blocks.

    The released code names the errors of patches and words but not how they are computed: here they are those of MAE
    (2021, arXiv 2111.06377: three quarters masked, a decoder of 8 blocks of width 512, pixels of each patch normalised
    to mean 0 and deviation 1) and of BERT (2018, arXiv 1810.04805: 15 % of the words), predicted by one linear layer.

    Raises:
        ConfigError: all weights are 0, or a width that is no multiple of 32.
        CapabilityError: dims lacks text_width or vocab_size where words are hidden, or the image tower has no blocks.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4)}
        >>> loss = vladapt.build_loss("unipt", patches=0, words=0)
        >>> round(float(loss(out)["loss"]), 4)
        0.7437
    """

    differs: ClassVar[str] = (
        "the contrastive loss and the sum do not differ; patches and words are masked and reconstructed as in MAE and "
        "BERT, since the released code does not show how"
    )
    experimental: ClassVar[str] = "how patches and words are hidden and rebuilt: after MAE and BERT"
    needs: ClassVar[frozenset[str]] = PAIR | WORDS | {"patch_errors"}
    outputs: ClassVar[Mapping[str, Output]] = {
        "patch_errors": Output("error of the image's hidden patches", ("B", "one"), "raw", fields=("pixels", "draws"))
    }

    contrast: float = option(1.0, "weight of the contrastive loss, 0 for none", low=0, high=10_000)
    patches: float = option(1.0, "weight of the masked patches, 0 for none", low=0, high=10_000)
    words: float = option(1.0, "weight of the masked words, 0 for none", low=0, high=10_000)
    logit_scale: float = option(1.0, "factor on the cosines; 1 as published", above=0, high=10_000)
    hidden_share: float = option(0.75, "share of the patches that are masked", above=0, below=1)
    decoder_width: int = option(512, "width of the decoder, a multiple of 32", low=HEAD_WIDTH, high=65_536)
    decoder_depth: int = option(8, "blocks of the decoder", low=1, high=1000)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        width = self.decoder_width
        require(width % HEAD_WIDTH == 0, "decoder_width", width, f"give a multiple of {HEAD_WIDTH}")
        needs = {"contrast": PAIR, "patches": frozenset({"patch_errors"}), "words": WORDS}
        self.weights = self.weights_of(needs)
        self.needs = frozenset().union(*(needs[name] for name in self.weights))
        self.decoder: MaskedPatchDecoder | None = None
        if self.words:
            self.vocabulary = nn.Linear(self.dim("text_width", "its words"), self.dim("vocab_size", "its words"))

    def prepare(self, backbone: Backbone) -> None:
        if self.patches:
            decoder = MaskedPatchDecoder(backbone, self.decoder_width, self.decoder_depth, self.hidden_share)
            self.decoder = decoder.to(backbone.device)

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        return {"patch_errors": self.decoder(batch["pixels"], batch["draws"])} if self.patches else {}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        terms = {"contrast": self._contrast, "patches": self._patches, "words": self._words}
        parts = {name: terms[name](out, ranks) for name in self.weights}
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _contrast(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        image, text = (F.normalize(out[name], dim=1) for name in ("image_features", "text_features"))
        return info_nce(image, text, self.logit_scale, ranks=ranks, products=self.products)

    def _patches(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        return ranks.average(out["patch_errors"].mean())

    def _words(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        """Over all hidden words of the batch, however many a rank has of them."""
        hidden = HiddenWords(out["masked_labels"])
        logits = self.vocabulary(hidden.among(out["masked_tokens"]))  # (K, vocabulary)
        return ranks.total(hidden.error(logits)) / ranks.sum(hidden.count).clamp(min=1)
