"""FILIP: the similarity of an image and a text is that of their tokens, each with its best match on the other side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..contracts.loss import Loss
from ..contracts.options import option, require

INITIAL_SCALE, HIGHEST_SCALE = 1 / 0.07, 100.0
NO_MATCH = -1.0  # the least cosine: what padding scores
ROUNDING = 1e-4  # 0.3 of 10 tokens are 3
BLOCK = 2**24  # similarities of pairs of tokens held at once, 64 MiB of them
CHOICES = ("batch", "pair")


@dataclass(eq=False, repr=False, kw_only=True)
class Filip(Loss):
    """FILIP: Fine-grained Interactive Language-Image Pre-Training (Yao et al., 2021, arXiv 2111.07783).

    The similarity of image i to text j is the mean over the patches of i of the cosine to the nearest word of j; that
    of text to image the mean over words of the cosine to the nearest patch. Both are scaled by an own learned factor
    (1 / 0.07 at the start, at most 100, as CLIP's) and trained as in CLIP: cross-entropy of the matching pair, mean of
    both directions. Patches and words go through a linear layer each to a common width first.

    Only a part of the tokens is matched against: those of each image that have the highest cosine to any word of the
    batch, and of each text to any patch. The mean runs over all tokens. The paper chooses within what one process
    holds; here within the global batch, so that the value does not depend on the number of processes. Similarities of
    pairs of tokens are computed in blocks and again in the backward pass.

    A caption's share of tokens is that of its words, so that padding changes nothing. The reimplementation that comes
    with DeCLIP (2022, arXiv 2203.05796) lets padding match, takes the 16 tokens with the highest sum of cosines to the
    own pair's, and adds CLIP's loss: `mask_padding=False, select="pair", keep=16`, and `--loss clip=1` beside this one.

    Raises:
        ConfigError: `keep` is above 1 and no whole number.
        CapabilityError: dims lacks embed_dim or text_width where they are needed.

    Example:
        >>> import torch, vladapt
        >>> patches, words, mask = torch.randn(4, 9, 8), torch.randn(4, 6, 8), torch.ones(4, 6, dtype=torch.bool)
        >>> loss = vladapt.build_loss("filip", token_dim=0, keep=0.5)
        >>> sorted(loss({"image_tokens": patches, "text_tokens": words, "text_mask": mask}))
        ['image_to_text', 'loss', 'text_to_image']
    """

    differs: ClassVar[str] = (
        "padding never matches; tokens are chosen within the global batch by any match. The fixture is from the "
        'reimplementation in DeCLIP\'s code, and is reproduced with `mask_padding=False, select="pair"`'
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_tokens", "text_tokens", "text_mask"})

    token_dim: int = option(256, "common width of patches and words; 0 for no projection", low=0, high=65_536)
    keep: float = option(0.25, "tokens to match against: a share up to 1, or a number above 1", above=0, high=1_000_000)
    select: str = option(
        "batch",
        "how tokens are chosen: by the best cosine in the batch, or by the sum over their own pair",
        choices=CHOICES,
    )
    mask_padding: bool = option(True, "ignore padding of texts")

    def __post_init__(self):
        super().__post_init__()
        require(
            self.keep <= 1 or self.keep == int(self.keep), "keep", self.keep, "give a share up to 1, or a whole number"
        )
        if not self.mask_padding:
            self.needs = self.needs - {"text_mask"}
        self.image_map, self.text_map = nn.Identity(), nn.Identity()
        if self.token_dim:
            self.image_map = nn.Linear(self.dim("embed_dim", "its map of patches"), self.token_dim)
            self.text_map = nn.Linear(self.dim("text_width", "its map of words"), self.token_dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        patches = F.normalize(self.image_map(out["image_tokens"]), dim=-1)  # (B, P, d)
        words = F.normalize(self.text_map(out["text_tokens"]), dim=-1)  # (B, L, d)
        are_patches = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
        all_tokens = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
        are_words = out["text_mask"].bool() if self.mask_padding else all_tokens
        with torch.no_grad():
            patch_scores, word_scores = self._importance(patches, are_patches, words, are_words)
        to_text = mean_of_best(patches, are_patches, *kept(words, are_words, word_scores, self.keep))  # (B, B)
        to_image = mean_of_best(words, are_words, *kept(patches, are_patches, patch_scores, self.keep))
        scale, targets = self.log_scale.exp(), torch.arange(len(patches), device=patches.device)
        image_to_text = F.cross_entropy(scale * to_text, targets)
        text_to_image = F.cross_entropy(scale * to_image, targets)
        return {
            "loss": (image_to_text + text_to_image) / 2,
            "image_to_text": image_to_text,
            "text_to_image": text_to_image,
        }

    def _importance(self, patches, are_patches, words, are_words) -> tuple[Tensor, Tensor]:
        """What the tokens that are kept have most of: (B, P) and (B, L)."""
        if self.select == "pair":
            cosines = patches @ words.transpose(1, 2)  # (B, P, L)
            cosines = cosines * (are_patches[:, :, None] & are_words[:, None, :])
            return cosines.sum(dim=2), cosines.sum(dim=1)
        return best_of_batch(patches, words, are_words), best_of_batch(words, patches, are_patches)

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """Keeps the scale below 100."""
        self.log_scale.clamp_(max=math.log(HIGHEST_SCALE))


def kept(tokens: Tensor, valid: Tensor, scores: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """The tokens (B, K, d) of each sample with the highest scores, and which of them count (B, K).

    Args:
        tokens: (B, N, d).
        valid: (B, N), which tokens count.
        scores: (B, N).
        keep: share of the valid tokens, rounded up, or how many.
    """
    counts = valid.sum(dim=1)  # (B,)
    wanted = (keep * counts - ROUNDING).ceil().long() if keep <= 1 else counts.clamp(max=int(keep))
    most = max(1, int(wanted.max()))
    chosen = scores.masked_fill(~valid, -torch.inf).topk(most, dim=1).indices  # (B, K)
    counted = torch.arange(most, device=tokens.device) < wanted[:, None]  # (B, K)
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1])), counted


def mean_of_best(queries: Tensor, are_queries: Tensor, keys: Tensor, are_keys: Tensor) -> Tensor:
    """(B, B'): mean over the queries of row i of the cosine to the nearest key of row j.

    Args:
        queries: (B, N, d) unit.
        are_queries: (B, N), which of them count.
        keys: (B', K, d) unit.
        are_keys: (B', K), which of them count.
    """
    shares = are_queries / are_queries.sum(dim=1, keepdim=True).clamp(min=1)  # (B, N)
    rows = _rows_of_a_block(queries, keys)
    if rows >= len(queries):
        return _block(queries, shares, keys, are_keys)
    again = partial(checkpoint, _block, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([again(*block, keys, are_keys) for block in zip(queries.split(rows), shares.split(rows))])


def _block(queries: Tensor, shares: Tensor, keys: Tensor, are_keys: Tensor) -> Tensor:
    return (_best(queries, keys, are_keys) * shares[..., None]).sum(dim=1)  # (b, B')


def _best(queries: Tensor, keys: Tensor, are_keys: Tensor) -> Tensor:
    """(b, N, B'): cosine of each query to the nearest key of each row."""
    cosines = torch.einsum("bnd,ckd->bnck", queries, keys).masked_fill(~are_keys, NO_MATCH)
    return cosines.max(dim=-1).values


def best_of_batch(queries: Tensor, keys: Tensor, are_keys: Tensor) -> Tensor:
    """(B, N): cosine of each query to the nearest key of any row."""
    rows = _rows_of_a_block(queries, keys)
    return torch.cat([_best(block, keys, are_keys).amax(dim=-1) for block in queries.split(rows)])


def _rows_of_a_block(queries: Tensor, keys: Tensor) -> int:
    return max(1, BLOCK // (queries.shape[1] * keys.shape[0] * keys.shape[1]))
