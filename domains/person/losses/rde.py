"""RDE: person search that is robust to mismatched pairs of image and caption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.contracts import Backbone, Loss, Output, option
from ._clean_pairs import FITS, agreed, chunks_of, clean_by_loss
from ._token_selection import TokenEmbedding, check_class_token, image_and_patches, text_and_words

SELECTED_BY = ("attention", "similarity")


@dataclass(eq=False, repr=False, kw_only=True)
class Rde(Loss):
    """Noisy-Correspondence Learning for Text-to-Image Person Re-identification (Qin et al., 2024, arXiv 2308.09911).

    A pair is compared twice: by the features of the towers (global), and by embeddings of the tokens with the most
    attention in the last block (selection). Before each epoch two Gaussians are fitted to the losses of all pairs, once
    for each embedding; a pair counts as clean if both put it in the Gaussian of lower losses; if they differ, a coin
    flip decides. Triplet alignment (TAL), of clean pairs only, is for each sample and both directions

        [margin - sum_p a_p s_p + tau log sum_n exp(s_n / tau)]_+

    over samples p of the same person, weighted by their softmax a, and all samples n of others; the sum over pairs and
    both embeddings. The ranking uses the mean of both cosines: see `embed_image` and `embed_text`.

    Each process computes it on the whole batch, since the selection's BatchNorm must see all of it.

    The coin flips and the order in which pairs are judged are drawn anew in each epoch, from `seed` and the epoch.
    Towers without attention of a class token (`embedded`, a ResNet) can select tokens by their cosine with the feature
    of the whole image or text. This is ours, as is `trust_epochs`: at first, losses of towers that know nothing of
    people say little.

    Raises:
        CapabilityError: dims lacks embed_dim or num_samples; or the towers have no such attention.

    Example:
        >>> import torch, vladapt
        >>> one, three, rows = torch.eye(4), torch.randn(4, 3, 4), torch.arange(4)
        >>> out = {"whole_image": one, "whole_text": one, "patches": three, "words": three, "word_counts": rows}
        >>> loss = vladapt.build_loss("rde", {"embed_dim": 4, "num_samples": 9}, selection_dim=6)
        >>> sorted(loss({**out, "labels": rows, "index": rows}))
        ['clean', 'global', 'loss', 'selection']
    """

    differs: ClassVar[str] = (
        "the order and the coin flips come from one seed (released: from two generators); pairs are judged in parts of "
        "equal size, so that no pair is left without others; the fixture's `TRL`, `SDM` and `InfoNCE`, with which the "
        "paper compares RDE, are not compared"
    )
    needs: ClassVar[frozenset[str]] = frozenset(
        {"whole_image", "whole_text", "patches", "words", "word_counts", "labels", "index"}
    )
    outputs: ClassVar[Mapping[str, Output]] = {
        "whole_image": Output("features of the image", ("B", "D"), "raw", fields=("pixels",)),
        "patches": Output("those of its selected patches", ("B", "K", "D"), "raw", fields=("pixels",)),
        "whole_text": Output("features of the caption", ("B", "D"), "raw", fields=("tokens",)),
        "words": Output("those of its selected words", ("B", "K", "D"), "raw", fields=("tokens",)),
        "word_counts": Output("how many of these are words", ("B",), "class", fields=("tokens",)),
        "image_selection": Output("embedding of the patches", ("B", "E"), "raw", fields=("pixels", "tokens")),
        "text_selection": Output("embedding of the words", ("B", "E"), "raw", fields=("pixels", "tokens")),
    }

    finds: ClassVar[bool] = True

    margin: float = option(0.1, "margin by which a pair must be nearer than others", low=0, high=2)
    tau: float = option(0.015, "temperature of the alignment", above=0, high=100)
    ratio: float = option(0.3, "share of the tokens that are selected", above=0, high=1)
    selection_dim: int = option(1024, "width of the embedding of selected tokens", low=2, high=65_536)
    select_by: str = option("attention", "how tokens are selected; similarity is ours", choices=SELECTED_BY)
    mixture: str = option("coarse", "how Gaussians are fitted; fine suits more than 40 % wrong pairs", choices=FITS)
    pairs_at_once: int = option(64, "pairs whose losses are compared together before an epoch", low=2, high=1_000_000)
    trust_epochs: int = option(0, "first epochs in which all pairs count as clean", low=0, high=1_000_000)
    divide: bool = option(True, "tell clean pairs from wrong ones; without it all count as clean")
    seed: int = option(0, "seed of the coin flips and of the order in which pairs are judged", low=0, high=2**31 - 1)

    def __post_init__(self):
        super().__post_init__()
        width, hidden = self.dim("embed_dim", "the embedding of tokens"), self.selection_dim // 2
        self.image_selection = TokenEmbedding(width, hidden, self.selection_dim)
        self.text_selection = TokenEmbedding(width, hidden, self.selection_dim)
        self.register_buffer("clean", torch.ones(self.dim("num_samples", "its division of pairs"), dtype=torch.bool))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def prepare(self, backbone: Backbone) -> None:
        if self.select_by == "attention":
            check_class_token(backbone)

    def rate_of(self, name: str, head: float, bias: float | None) -> float:
        """One for weights and biases, as released."""
        return head

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        clean = self.clean[out["index"]]
        pairs = {
            "global": (out["whole_image"], out["whole_text"]),
            "selection": (self.image_selection(out["patches"]), self.text_selection(out["words"], out["word_counts"])),
        }
        parts = {name: (clean * self._alignment(*pair, out["labels"])).sum() for name, pair in pairs.items()}
        return {"loss": parts["global"] + parts["selection"], **parts, "clean": clean.float().mean()}

    def _alignment(self, image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        return triplet_alignment(image, text, labels, self.margin, self.tau)

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        by_attention = self.select_by == "attention"
        whole_image, patches = image_and_patches(backbone, batch["pixels"], self.ratio, by_attention)
        whole_text, words, counts = text_and_words(backbone, batch["tokens"], self.ratio, by_attention)
        made = {"whole_image": whole_image, "whole_text": whole_text}
        if self.training:
            return {**made, "patches": patches, "words": words, "word_counts": counts}
        selections = self.image_selection(patches.float()), self.text_selection(words.float(), counts)
        return {**made, "image_selection": selections[0], "text_selection": selections[1]}

    def before_epoch(self, extract: Callable[[list[str]], dict[str, Tensor]]) -> None:
        """Tell clean pairs from wrong ones."""
        if not self.divide:
            return
        self.epochs += 1
        if self.epochs <= self.trust_epochs:
            return
        number = int(self.epochs)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        names = ("whole_image", "whole_text", "image_selection", "text_selection")
        found = extract([*names, "labels"])
        chunks = chunks_of(len(found["labels"]), self.pairs_at_once, generator)
        says = []
        for image, text in (names[:2], names[2:]):
            losses = torch.empty(len(found["labels"]))
            for rows in chunks:
                losses[rows] = self._alignment(found[image][rows], found[text][rows], found["labels"][rows]).detach()
            says.append(clean_by_loss(losses, self.mixture, self.seed))
        self.clean.copy_(agreed(*says, generator))

    @property
    def found_dim(self) -> int:
        """D + E."""
        return self.dim("embed_dim", "its embedding") + self.selection_dim

    @torch.no_grad()
    def embed_image(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """(B, D + E) unit: its products with `embed_text` are the means of both cosines. In eval mode."""
        whole, patches = image_and_patches(backbone, pixels, self.ratio, self.select_by == "attention")
        return _joined(whole, self.image_selection(patches.float()))

    @torch.no_grad()
    def embed_text(self, backbone: Backbone, tokens: Tensor) -> Tensor:
        """(B, L) tokens -> (B, D + E) unit."""
        whole, words, counts = text_and_words(backbone, tokens, self.ratio, self.select_by == "attention")
        return _joined(whole, self.text_selection(words.float(), counts))


def triplet_alignment(image: Tensor, text: Tensor, labels: Tensor, margin: float, tau: float) -> Tensor:
    """(B,) the alignment of each pair, both directions together.

    Args:
        image, text: (B, D).
        labels: (B,) who is in the picture.
    """
    cosines = F.normalize(text, dim=1) @ F.normalize(image, dim=1).T  # (B, B), texts over images
    same = labels[:, None] == labels
    return sum(_one_way(scores, same, margin, tau) for scores in (cosines, cosines.T))


def _one_way(cosines: Tensor, same: Tensor, margin: float, tau: float) -> Tensor:
    low = torch.finfo(cosines.dtype).min / 2  # finite, so that a row without others has a gradient of 0
    logits = cosines / tau
    weights = logits.detach().masked_fill(~same, low).softmax(dim=1)
    nearest = tau * logits.masked_fill(same, low).logsumexp(dim=1)
    return (margin - (weights * cosines).sum(dim=1) + nearest).clamp(min=0)


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Two embeddings as one of unit length, whose cosine is the mean of theirs."""
    return torch.cat([F.normalize(first, dim=-1), F.normalize(second, dim=-1)], dim=-1) / 2**0.5
