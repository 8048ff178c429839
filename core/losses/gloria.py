"""GLoRIA: a text's words each look at the patches that they describe, and the image must have what they speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import Ranks
from ._products import products_option, with_all

if TYPE_CHECKING:
    from ..contracts.backbone import Backbone

BLOCK = 2**24
"""Products of a word and a patch that are held at once."""
LEAST_LENGTH = 1e-8
TOGETHER = ("sum", "mean", "max")


@dataclass(eq=False, repr=False, kw_only=True)
class Gloria(RowLoss):
    """GLoRIA: A Multimodal Global-Local Representation Learning Framework for Label-efficient Medical Image
    Recognition (Huang et al., 2021, doi 10.1109/ICCV48922.2021.00391).

    Locally, word w of a text meets the P patches v of an image:

        a_wp = softmax over words of (w . v_p), then softmax over patches of (attention x that)
        c_w = sum_p a_wp v_p
        similarity = local_scale x log sum_w exp(words x cos(w, c_w))

    and the cross-entropy of the matching pair among the batch is taken both ways, summed. Globally the same of
    `global_scale` x cosine of the two features. Patches go through a linear layer to the width of words, which is kept
    beside the towers, for maps of where words look. Images and texts find each other by their features.

    Args:
        dims: "embed_dim" and "text_width", for the layer.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "text_mask": torch.ones(4, 6).bool()}
        >>> out |= {"image_tokens": torch.randn(4, 9, 8), "text_tokens": torch.randn(4, 6, 8)}
        >>> sorted(vladapt.build_loss("gloria", project=False)(out))
        ['global', 'local', 'loss']
    """

    differs: ClassVar[str] = "the tower's own tokens are words, which the released code joins from word pieces"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "image_tokens", "text_tokens", "text_mask"}
    )
    finds: ClassVar[bool] = True
    looks: ClassVar[bool] = True

    attention: float = option(4.0, "sharpness of a word's attention to patches", above=0, high=1000)
    words: float = option(5.0, "how much the words that fit best decide", above=0, high=100)
    local_scale: float = option(10.0, "what similarities of words and patches are multiplied by", above=0, high=1000)
    global_scale: float = option(10.0, "what cosines of whole images and texts are multiplied by", above=0, high=1000)
    skip_ends: bool = option(
        False,
        "leave out the start and the end of each text, which are tokens but no words",
    )
    together: str = option(
        "sum", "how words are put together: by their sum or mean, or by the one that fits best", choices=TOGETHER
    )
    local_weight: float = option(1.0, "weight of words and patches, 0 for none", low=0, high=10_000)
    global_weight: float = option(1.0, "weight of whole images and texts, 0 for none", low=0, high=10_000)
    project: bool = option(True, "map patches to the width of words by a linear layer")
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        self.weights_of(("local_weight", "global_weight"))
        self.patch_map = nn.Identity()
        if self.project and self.local_weight:
            widths = self.dim("embed_dim", "its map of patches"), self.dim("text_width", "its map of patches")
            self.patch_map = nn.Linear(*widths)

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        parts, loss = {}, out["image_features"].new_zeros(())
        if self.local_weight:
            mask = out["text_mask"].bool()
            are_words = without_ends(mask) if self.skip_ends else mask
            texts = ranks.columns(out["text_tokens"]), ranks.columns(are_words)
            local = self.local_similarities(self.patch_map(out["image_tokens"]), *texts)
            parts["local"] = both_ways(self.local_scale * local, ranks)
            loss = loss + self.local_weight * parts["local"]
        if self.global_weight:
            cosines = with_all(out["image_features"], out["text_features"], ranks, self.products)
            parts["global"] = both_ways(self.global_scale * cosines, ranks)
            loss = loss + self.global_weight * parts["global"]
        return {"loss": loss, **parts}

    def local_similarities(self, patches: Tensor, words: Tensor, are_words: Tensor) -> Tensor:
        """(n, P, T), (N, L, T), (N, L) -> (n, N), in blocks of images that are computed again in the backward pass."""
        if is_at_hand(are_words):  # padding of all texts, to 77 tokens in a CLIP, is most of their length
            places = are_words.any(dim=0)
            words, are_words = words[:, places], are_words[:, places]
        rows = max(1, BLOCK // (patches.shape[1] * words.shape[0] * words.shape[1]))
        if rows >= len(patches):
            return self._similarities(patches, words, are_words)
        again = partial(checkpoint, self._similarities, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(block, words, are_words) for block in patches.split(rows)])

    def _similarities(self, patches: Tensor, words: Tensor, are_words: Tensor) -> Tensor:
        products, attended = attention_maps(patches, words, are_words, self.attention)  # (n, N, L, P) each
        towards = (attended * products).sum(dim=-1)  # (n, N, L): w . c_w
        lengths = torch.einsum("ijlp,ipq,ijlq->ijl", attended, patches @ patches.mT, attended)  # |c_w|^2
        lengths = lengths.clamp(min=LEAST_LENGTH**2).sqrt() * words.norm(dim=-1)
        cosines = towards / lengths.clamp(min=LEAST_LENGTH)
        scores = (self.words * cosines).masked_fill(~are_words, -torch.inf)  # (n, N, L)
        if self.together == "max":
            return scores.amax(dim=-1)
        scores = scores.logsumexp(dim=-1)  # (n, N)
        return scores - are_words.sum(dim=-1).log() if self.together == "mean" else scores

    @property
    def found_dim(self) -> int:
        return self.dim("embed_dim", "its features")

    @torch.no_grad()
    def embed_image(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """(B, D) unit: the features of whole images."""
        return backbone.encode_image(pixels)

    @torch.no_grad()
    def embed_text(self, backbone: Backbone, tokens: Tensor) -> Tensor:
        """(B, L) tokens -> (B, D) unit: the features of whole texts."""
        return backbone.encode_text(tokens)

    @torch.no_grad()
    def words_of(self, backbone: Backbone, text: str) -> tuple[Tensor, Tensor]:
        """(L, T) what the text tower gives at each token, and (L,) bool, those between start and end."""
        tokens = backbone.tokenize([text]).to(backbone.device)
        counted = backbone.token_mask(tokens)[0]
        return backbone.text_tokens(tokens)[0, counted].float(), backbone.word_mask(tokens)[0, counted]

    @torch.no_grad()
    def look(self, patches: Tensor, words: tuple[Tensor, Tensor]) -> Tensor:
        """(P, D) image tokens -> (P,) the attention of the words, which sums to 1: their mean, each counting as in the
        similarity, exp(words x cos(w, c_w)). A plain mean says little, since words share out each patch."""
        tokens, inner = words
        mapped = self.patch_map(patches.to(tokens.device))[None]
        are_words = inner if self.skip_ends else torch.ones_like(inner)
        _, attended = attention_maps(mapped, tokens[None], are_words[None], self.attention)
        attended = attended[0, 0, inner]  # (L, P)
        cosines = F.cosine_similarity(tokens[inner], attended @ mapped[0], dim=-1)
        return (self.words * cosines).softmax(dim=0) @ attended


def is_at_hand(values: Tensor) -> bool:
    """Whether nothing waits for a device where values are looked at."""
    return values.device.type == "cpu"


def without_ends(mask: Tensor) -> Tensor:
    """(N, L) tokens of texts, without the first and the last of each; a text of these alone keeps them."""
    place = mask.int().cumsum(dim=1)
    inner = mask & (place > 1) & (place < place[:, -1:])
    return torch.where(inner.any(dim=1, keepdim=True), inner, mask)


def attention_maps(patches: Tensor, words: Tensor, are_words: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Products of words and patches, and where each word looks in each image.

    Args:
        patches: (n, P, T).
        words: (N, L, T).
        are_words: (N, L), which of them count.
        sharpness: of the attention.

    Returns:
        (n, N, L, P) each; attention sums to 1 over patches.
    """
    products = torch.einsum("ipd,jld->ijlp", patches, words)
    of_words = products.masked_fill(~are_words[..., None], -torch.inf).softmax(dim=2)
    return products, (sharpness * of_words).softmax(dim=3)


def both_ways(logits: Tensor, ranks: Ranks) -> Tensor:
    """Sum of the cross-entropies of the matching pairs of (n, N) logits, of images and of texts."""
    to_text = F.cross_entropy(logits, ranks.own_pairs(logits))
    return ranks.average(to_text + ranks.cross_entropy_down(logits))
