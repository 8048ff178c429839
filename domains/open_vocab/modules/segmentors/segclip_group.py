"""The semantic group module of SegCLIP: learnable centres gather the patches of an image.

SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (Luo et al., 2022, arXiv
2211.14813), section 3.2. The released cross-attention turns only its queries to (L, B, D), so that what an image's
centres see depends on its batch; here keys and values are turned too, as meant.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .....core.contracts.adapter import require

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
        self.apply(initialise)

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
        self.apply(initialise)

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


def initialise(module: nn.Module) -> None:
    """Linear layers as SegCLIP's start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
