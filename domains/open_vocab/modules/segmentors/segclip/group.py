"""The semantic group module of SegCLIP: learnable centres gather the patches of an image.

SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (Luo et al., 2022, arXiv
2211.14813), section 3.2. The released cross-attention turns only its queries to (L, B, D), so that what an image's
centres see depends on its batch; here keys and values are turned too, as meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ......core.contracts import Backbone, require
from ......core.training import truncated_starts
from ......registry import MODELS
from ...losses.masked_decoder import KeptPlaces, keep_some

INIT_STD = 0.02


class Gathered(NamedTuple):
    """What became of P patches.

    Args:
        groups: (B, G, W).
        hard: (B, G, P), one-hot over the groups; its gradient is that of the softmax.
        soft: (B, G, P), softmax over the groups, without noise.
        centres: (B, G, W), the centres once they saw the image.
    """

    groups: Tensor
    hard: Tensor
    soft: Tensor
    centres: Tensor


class SemanticGroup(nn.Module):
    """G centres look at the patches, each patch goes to one centre, a group is the mean of its patches.

    Args:
        width: W.
        groups: G.
        heads: of the attention, and groups of channels that keys and values are made in; a divisor of W.
        cross_layers: how often the centres look.
        tau: temperature of the Gumbel softmax that assigns patches in training. Evaluation takes the best centre.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, width: int, groups: int = 8, heads: int = 12, cross_layers: int = 2, tau: float = 0.9):
        super().__init__()
        require(groups >= 1, "groups", groups, "give 1 or more")
        require(heads >= 1 and width % heads == 0, "heads", heads, f"give a divisor of the tower's width {width}")
        require(cross_layers >= 0, "cross_layers", cross_layers, "give 0 or more")
        require(tau > 0, "tau", tau, "give a number above 0")
        self.tau = tau
        self.norm = nn.LayerNorm(width)
        self.semantic_center = nn.Parameter(nn.init.trunc_normal_(torch.empty(groups, width), std=INIT_STD))
        self.cross_att = nn.ModuleList(CrossAttentionBlock(width, heads) for _ in range(cross_layers))
        self.cross_ln = nn.LayerNorm(width)
        self.k_conv, self.v_conv = (nn.Conv1d(width, width, 1, groups=heads, bias=False) for _ in range(2))
        self.k_ln = nn.LayerNorm(width)
        self.proj_o = nn.ModuleDict({"ln": nn.LayerNorm(width), "mlp": _Mlp(width)})
        self.apply(truncated_starts)

    def forward(self, patches: Tensor) -> Gathered:
        """(B, P, W) patches, in any order."""
        centres = self._look(patches)
        channels = self.norm(patches).transpose(1, 2)  # (B, W, P)
        keys = self.k_ln(self.k_conv(channels).transpose(1, 2))  # (B, P, W)
        values = self.v_conv(channels).transpose(1, 2)
        scores = (centres @ keys.transpose(1, 2)).float()  # (B, G, P)
        hard = self._assign(scores)
        means = hard.to(values.dtype) @ values / hard.sum(dim=-1, keepdim=True).clamp(min=1).to(values.dtype)
        mixed = self.proj_o["mlp"](self.proj_o["ln"](centres + means))
        return Gathered(quick_gelu(mixed), hard, scores.softmax(dim=1), centres)

    def _look(self, patches: Tensor) -> Tensor:
        centres = self.semantic_center.expand(len(patches), -1, -1).to(patches.dtype)
        for block in self.cross_att:
            centres = block(centres, torch.cat([centres, patches], dim=1))
        return self.cross_ln(centres)

    def _assign(self, scores: Tensor) -> Tensor:
        """(B, G, P) -> one-hot over G, with the gradient of the softmax."""
        if self.training:
            return F.gumbel_softmax(scores, tau=self.tau, hard=True, dim=1)
        soft = scores.softmax(dim=1)
        best = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
        return best - soft.detach() + soft


class CrossAttentionBlock(nn.Module):
    """Queries attend to a memory; norms come first."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_x, self.ln_k, self.ln_2 = (nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, G, W), (B, M, W) -> (B, G, W)."""
        memory = self.ln_k(memory)
        queries = queries + self.attn(self.ln_x(queries), memory, memory, need_weights=False)[0]
        return queries + self.mlp["c_proj"](quick_gelu(self.mlp["c_fc"](self.ln_2(queries))))


class GroupsToPatches(nn.Module):
    """From groups back to patches: a patch is a mixture, learned, of the groups it was given to."""

    def __init__(self, groups: int):
        super().__init__()
        self.rec_proj_a = nn.Linear(groups, groups)
        self.apply(truncated_starts)

    def forward(self, gathered: Gathered) -> Tensor:
        """(B, P, W)."""
        shares = self.rec_proj_a(gathered.hard.transpose(1, 2))  # (B, P, G)
        return quick_gelu(shares.to(gathered.groups.dtype) @ gathered.groups)


class _Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def group_scores(groups: Tensor, image: Tensor, texts: Tensor, scale: Tensor | float, likely: int = 5) -> Tensor:
    """How much each group is each class: its probability among all, times that among the image's likeliest ones.

    Args:
        groups: (B, G, D).
        image: (B, D).
        texts: (C, D) unit rows.
        scale: what cosines are multiplied by.
        likely: classes that the whole image may have.

    Returns:
        (B, G, C).
    """
    logits = scale * F.normalize(groups.float(), dim=-1) @ texts.T  # (B, G, C)
    whole = scale * F.normalize(image.float(), dim=-1) @ texts.T  # (B, C)
    chosen = whole.topk(min(likely, len(texts)), dim=-1).indices
    out = torch.ones_like(whole, dtype=torch.bool).scatter(1, chosen, False)[:, None]
    return logits.masked_fill(out, -torch.inf).softmax(dim=-1) * logits.softmax(dim=-1)


def paint(scores: Tensor, soft: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Each pixel gets the scores of its group: the best one once assignments are resized to the image.

    Args:
        scores: (B, G, C).
        soft: (B, G, h * w) assignments.
        grid: (h, w).
        size: (H, W).

    Returns:
        (B, C, H, W).
    """
    fine = F.interpolate(soft.unflatten(2, grid), size=size, mode="bilinear", align_corners=False)  # (B, G, H, W)
    owner = fine.argmax(dim=1).flatten(1)  # (B, H * W)
    painted = scores.gather(1, owner[..., None].expand(-1, -1, scores.shape[-1]))  # (B, H * W, C)
    return painted.transpose(1, 2).unflatten(2, size)


def with_background(scores: Tensor, index: int, threshold: float) -> Tensor:
    """(C - 1, H, W) scores of an image -> (C, H, W): 1 for the background where no class reaches the threshold.

    Where no class of the whole image does, the best score of the image is the threshold.
    """
    best = scores.amax(dim=0)
    background = (best < torch.clamp(best.max(), max=threshold)).to(scores.dtype)
    return torch.cat([scores[:index], background[None], scores[index:]])


def caption_tokens(backbone: Backbone, captions: Sequence[str], max_words: int) -> Tensor:
    """(B, L) tokens, at most `max_words` where the tower takes shorter texts; a longer caption is cut, its end kept."""
    tokens = backbone.tokenize(captions).to(backbone.device)
    if "trim" not in backbone.capabilities:
        return tokens
    last = backbone.token_mask(tokens).sum(dim=1) - 1
    ends = tokens.gather(1, last[:, None])[:, 0]
    longest = min(max_words, int(last.max()) + 1)
    cut = tokens[:, :longest].clone()
    cut[:, -1] = torch.where(last >= longest, ends, cut[:, -1])
    return cut


def part_of_captions(backbone: Backbone, tokens: Tensor, hidden_share: float) -> tuple[Tensor, KeptPlaces, Tensor]:
    """The tower's view of captions from which words were taken out.

    The released code lets the words that stay come in a random order, which a causal tower does not survive; here they
    keep theirs.

    Returns:
        (B, K, D) features of the tokens that stay, which they are, and (B, L) bool: the words that do not.
    """
    mask = backbone.token_mask(tokens)
    words = backbone.word_mask(tokens)
    count = max(int((mask & ~words).sum(dim=1).max()), int(tokens.shape[1] * (1 - hidden_share)))
    kept = keep_some(count, tokens.shape, tokens.device, forced=mask & ~words)
    x = kept.of(backbone.embed_prompt(*_padded(backbone, backbone.embed_tokens(tokens), mask))[:, : tokens.shape[1]])
    stay = kept.of(mask)
    x = backbone.run_blocks("text", x, mask=stay)
    alone = torch.ones(x.shape[0] * x.shape[1], 1, dtype=torch.bool, device=x.device)
    features = backbone.pool_text(x.reshape(-1, 1, x.shape[-1]), alone, normalize=False)
    return features.unflatten(0, x.shape[:2]), kept, kept.hidden & words


def _padded(backbone: Backbone, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Up to the context length, for towers that take no shorter prompt."""
    short = 0 if "trim" in backbone.capabilities else backbone.context_length - embeddings.shape[1]
    return F.pad(embeddings, (0, 0, 0, short)), F.pad(mask, (0, short))


# SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (Luo et al., 2022, arXiv
# 2211.14813), section 3.4.


@MODELS.register_module()
class SuperpixelKL(nn.Module):
    """Where a patch goes, beside where its superpixel goes on average: the mean of both KL divergences.

    As released, both assignments go through a softmax over the groups first, hard ones too, and the sum is divided by
    the number of entries of the assignment.
    """

    def forward(self, assignment: Tensor, superpixels: Tensor) -> Tensor:
        """A scalar.

        Args:
            assignment: (B, G, P), of patches to groups.
            superpixels: (B, P) labels; they mean something within an image alone.
        """
        patches = assignment.float().transpose(1, 2)  # (B, P, G)
        together = (superpixels[:, :, None] == superpixels[:, None, :]).float()  # (B, P, P)
        mean = together @ patches / together.sum(dim=-1, keepdim=True)
        first, second = patches.log_softmax(dim=-1), mean.log_softmax(dim=-1)
        both = F.kl_div(first, second, reduction="sum", log_target=True)
        both = both + F.kl_div(second, first, reduction="sum", log_target=True)
        return both / patches.numel() / 2
