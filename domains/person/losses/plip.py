"""PLIP: pictures of people and captions, trained together by identity, masked words and colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, Output, RowLoss, option, require
from ....core.errors import CapabilityError
from ....core.losses import HiddenWords, products_option, with_all
from ....core.runtime import Ranks
from ....core.training import MaskedWords
from ._colours import GuidedReader, grey_and_colours, patch_cells
from ._identities import IdentityTargets, soft_contrast

PAIR = frozenset({"image_features", "text_features", "labels", "logit_scale"})
TENTHS = 10.0
NEEDS = {"identity": PAIR, "attributes": frozenset({"word_errors"}), "colours": frozenset({"colour_errors"})}


@dataclass(eq=False, repr=False, kw_only=True)
class Plip(RowLoss):
    """PLIP: Language-Image Pre-training for Person Representation Learning (Zuo et al., 2023, arXiv 2305.08386).

    Only the abstract says how it was trained, so these terms are ours:

    * `identity` (identity-based vision-language contrast): CLIP's loss, with all samples of a person as positives.
    * `attributes` (image-guided attribute prediction): 15 % of the words of the caption are masked, as in BERT (2018,
      arXiv 1810.04805); the text tower's tokens attend to the patches of the image, and are compared with the
      embeddings of all words.
    * `colours` (text-guided image colourisation): the image tower sees the picture in grey; its patches attend to
      the words of the caption and predict the colours; the loss is the mean squared error of the differences to grey,
      in tenths.

    A term of weight 0 is left out, with all that only it needs. Both readers are one layer of cross-attention and an
    MLP.

    Raises:
        ConfigError: all weights are 0, or a width that is no multiple of the heads.
        CapabilityError: the backbone has no tokens of images or texts, or its images are no pictures.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("plip", attributes=0, colours=0)
        >>> round(float(loss({**out, "labels": torch.tensor([0, 1, 2, 2])})["loss"]), 3)
        2.5
    """

    differs: ClassVar[str] = (
        "no code of the training is public; the tests check it against the equations, computed directly"
    )
    experimental: ClassVar[str] = "all but the names of its three terms, which are those of the abstract"
    needs: ClassVar[frozenset[str]] = frozenset().union(*NEEDS.values())
    outputs: ClassVar[Mapping[str, Output]] = {
        "word_errors": Output(
            "error of hidden words, told by the image", ("B", "one"), "raw", fields=("pixels", "tokens", "draws")
        ),
        "colour_errors": Output(
            "error of the image's colours, told by the caption", ("B", "one"), "raw", fields=("pixels", "tokens")
        ),
    }
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    identity: float = option(1.0, "weight of the contrastive loss over identities, 0 for none", low=0, high=10_000)
    attributes: float = option(1.0, "weight of the masked words, 0 for none", low=0, high=10_000)
    colours: float = option(1.0, "weight of the colours, 0 for none", low=0, high=10_000)
    cells: int = option(4, "cells along each side of a patch whose colours are predicted", low=1, high=64)
    reader_width: int = option(256, "width of the attention between towers", low=1, high=65_536)
    reader_heads: int = option(4, "heads of the attention between towers", low=1, high=1024)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        width, heads = self.reader_width, self.reader_heads
        require(width % heads == 0, "reader_width", width, f"give a multiple of reader_heads, {heads}")
        self.weights = self.weights_of(NEEDS)
        self.needs = frozenset().union(*(NEEDS[name] for name in self.weights))
        self.words: GuidedReader | None = None
        self.painter: GuidedReader | None = None

    def prepare(self, backbone: Backbone) -> None:
        """Makes the readers, whose widths are those of the towers."""
        if self.attributes or self.colours:
            backbone.need("image_tokens")
            backbone.need("text_blocks")
            image, text = backbone.embed_dim, backbone.embed_tokens(backbone.tokenize(["a"])).shape[-1]
            size = self.reader_width, self.reader_heads
        if self.attributes:
            self.masked = MaskedWords(backbone).to(backbone.device)
            self.words = GuidedReader(text, image, *size, text).to(backbone.device)
            self.word_norm = nn.LayerNorm(text).to(backbone.device)
            self.word_bias = nn.Parameter(torch.zeros(backbone.vocab_size, device=backbone.device))
        if self.colours:
            if backbone.channels is not None:
                raise CapabilityError(
                    f"{self.title}: colours need pictures of 3 channels, and these have {len(backbone.channels)}; "
                    "give the loss colours=0 (--set adapter.loss_options.plip.colours=0)"
                )
            self.painter = GuidedReader(image, text, *size, 3 * self.cells**2).to(backbone.device)

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        made = {}
        if self.attributes:
            made["word_errors"] = self._word_errors(batch, backbone)
        if self.colours:
            # (B, 1) mean squared error of each image's colours, in tenths of the range from black to white.
            grey, colours = grey_and_colours(backbone, batch["pixels"])
            patches, grid = backbone.image_tokens(grey)
            painted = self.painter(patches, backbone.text_tokens(batch["tokens"]), backbone.token_mask(batch["tokens"]))
            seen = TENTHS * patch_cells(colours.float(), grid, self.cells)
            made["colour_errors"] = (painted.float() - seen).square().mean(dim=(1, 2))[:, None]
        return made

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        parts = {"identity": self._contrast(out, ranks)} if self.identity else {}
        for name, output in (("attributes", "word_errors"), ("colours", "colour_errors")):
            if name in self.weights:
                parts[name] = ranks.average(out[output].mean())
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _contrast(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        image, text = (F.normalize(out[name], dim=1) for name in ("image_features", "text_features"))
        logits = with_all(out["logit_scale"] * image, text, ranks, self.products)  # (n, N)
        targets = IdentityTargets.of(out["labels"], ranks, logits)
        return soft_contrast(logits.log_softmax(dim=1), ranks.log_softmax_down(logits), targets, 0.0, ranks)

    def _word_errors(self, batch: Mapping[str, Tensor], backbone: Backbone) -> Tensor:
        """(B, 1) mean cross-entropy of each caption's hidden words; 0 where none is hidden."""
        made = self.masked(batch["tokens"], batch["draws"])
        labels = made["masked_labels"].to(made["masked_tokens"].device)
        patches, _ = backbone.image_tokens(batch["pixels"])
        hidden = HiddenWords(labels)
        read = hidden.among(self.words(made["masked_tokens"], patches))
        said = self.word_norm(read)  # (K, text width)
        known = backbone.embed_tokens(torch.arange(len(self.word_bias), device=said.device)[None])[0]
        logits = (said @ known.to(said).T + self.word_bias).float()  # (K, vocabulary)
        errors = F.cross_entropy(logits, hidden.targets, reduction="none")
        each = logits.new_zeros(labels.numel()).scatter(0, hidden.places, errors).view(labels.shape)
        return each.sum(dim=1, keepdim=True) / (labels >= 0).sum(dim=1, keepdim=True).clamp(min=1)
