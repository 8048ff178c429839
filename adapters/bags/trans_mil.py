"""TransMIL: the instances of a bag look at each other, through a Nystrom approximation of attention.

Take it for slides where instances matter together and there are hundreds of them; it learns slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import option, require
from ._bag_head import BagHead

HEADS, KERNEL, ROUNDS = 8, 33, 6
"""Of the attention, its convolution over values, and its pseudo-inverse."""


def pseudo_inverse(matrices: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Moore-Penrose inverses of (..., M, M), approximated as in "Nystromformer" (Xiong et al. 2021, arXiv 2102.03902).

    As released, it starts from the transpose divided by the largest sum of a column times that of a row, each the
    largest among all matrices.
    """
    sizes = matrices.abs()
    inverse = matrices.transpose(-2, -1) / (sizes.sum(dim=-1).max() * sizes.sum(dim=-2).max())
    unit = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    for _ in range(rounds):
        product = matrices @ inverse
        inverse = 0.25 * inverse @ (13 * unit - product @ (15 * unit - product @ (7 * unit - product)))
    return inverse


def root(count: int | Tensor) -> int | Tensor:
    """The side of the smallest square that holds so many; of a count that is being traced, a tensor."""
    return count.double().sqrt().ceil().long() if isinstance(count, Tensor) else isqrt(count - 1) + 1


class NystromAttention(nn.Module):
    """(1, T, W) -> (1, T, W): softmax(q kl^T) pinv(softmax(ql kl^T)) softmax(ql k^T) v, with landmarks ql, kl the means
    of consecutive queries and keys, and a depthwise convolution of v over the sequence added.

    Args:
        width: W. heads: each W / heads wide. landmarks: how many.
        dropout: of the output, in a training.
    """

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float):
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.res_conv = nn.Conv2d(heads, heads, (KERNEL, 1), padding=(KERNEL // 2, 0), groups=heads, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        tokens = F.pad(tokens, (0, 0, -count % self.landmarks, 0))  # zeros in front, which landmarks see
        rows = self.to_qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, 1, H, N, d)
        q, k, v = rows[0] * rows.shape[-1] ** -0.5, rows[1], rows[2]
        of_queries, of_keys = (each.unflatten(2, (self.landmarks, -1)).mean(dim=3) for each in (q, k))
        to_landmarks = (q @ of_keys.transpose(-2, -1)).softmax(dim=-1)  # (1, H, N, M)
        among = (of_queries @ of_keys.transpose(-2, -1)).softmax(dim=-1)
        from_landmarks = (of_queries @ k.transpose(-2, -1)).softmax(dim=-1)
        mixed = (to_landmarks @ pseudo_inverse(among)) @ (from_landmarks @ v) + self.res_conv(v)
        return self.to_out(mixed.transpose(1, 2).flatten(2))[:, -count:]


class _Layer(nn.Module):
    """x + attention(LN(x))."""

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = NystromAttention(width, heads, landmarks, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.attn(self.norm(tokens))


class PyramidPositions(nn.Module):
    """PPEG: the instances as a square map, to which depthwise convolutions of 7, 5 and 3 are added; the class token
    stays."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.proj1 = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.proj2 = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, tokens: Tensor) -> Tensor:
        first, rest = tokens[:, :1], tokens[:, 1:]
        side = root(rest.shape[1])
        square = rest.transpose(1, 2).unflatten(2, (side, side))
        square = square + self.proj(square) + self.proj1(square) + self.proj2(square)
        return torch.cat([first, square.flatten(2).transpose(1, 2)], dim=1)


class TransBag(nn.Module):
    """(T, D) -> (C,) logits.

    Args:
        width: of the tokens, a multiple of `HEADS`.
    """

    def __init__(self, inputs: int, classes: int, width: int, dropout: float):
        super().__init__()
        self._fc1 = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.layer1 = _Layer(width, HEADS, width // 2, dropout)
        self.pos_layer = PyramidPositions(width)
        self.layer2 = _Layer(width, HEADS, width // 2, dropout)
        self.norm = nn.LayerNorm(width)
        self._fc2 = nn.Linear(width, classes)

    def forward(self, bag: Tensor) -> Tensor:
        tokens = self._fc1(bag)[None]
        count = tokens.shape[1]
        side = root(count)
        tokens = torch.cat([self.cls_token, tokens, tokens[:, : side * side - count]], dim=1)  # the first ones repeated
        tokens = self.layer2(self.pos_layer(self.layer1(tokens)))
        return self._fc2(self.norm(tokens)[0, 0])


@dataclass(eq=False, kw_only=True)
class TransMil(BagHead):
    """TransMIL: Transformer based Correlated Multiple Instance Learning for Whole Slide Image Classification (Shao et
    al., 2021, arXiv 2106.00908).

    A layer of 512 units with ReLU, the parts filled up to a square by repeating the first, a class token, two layers of
    Nystrom attention (8 heads, 256 landmarks) with convolutions over the square between them, and a linear layer on the
    class token. Lookahead over RAdam, two bags a step, at most 200 epochs, ended where 10 epochs did not lower the loss
    on val.

    The square is one of the order in which parts are listed, not of where they lie. 20,000 parts take 2.6 GB in a
    training; `most_parts` draws some of them. Users do not reach the published CAMELYON16 figure (AUC .66 to .74 in
    the authors' own issues, .93 published).

    Raises:
        ConfigError: an option out of range.
        CapabilityError: samples without parts.

    Example:
        >>> adapter = build_adapter("trans-mil", epochs=2, width=64)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    multilabel: ClassVar[bool] = True
    differs: ClassVar[str] = "none but that it trains in float32, where the authors use fp16"
    packages: ClassVar = {"timm": "timm"}

    lr: float = 2e-4
    weight_decay: float = option(1e-5, "decoupled weight decay of all but biases and norms", low=0)
    patience: int | None = 10
    bags_per_step: int = 2
    width: int = option(512, "width of the tokens, a multiple of 8", low=8, high=65_536)
    dropout: float = option(0.1, "dropout of the attention's output in the training", low=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        require(self.width % HEADS == 0, "width", self.width, f"give a multiple of {HEADS}")

    def _network(self, width: int, classes: int) -> nn.Module:
        return TransBag(width, classes, self.width, self.dropout)

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        from timm.optim.lookahead import Lookahead

        rows, matrices = ([each for each in parameters if (each.ndim > 1) == more] for more in (False, True))
        groups = [{"params": rows, "weight_decay": 0.0}, {"params": matrices, "weight_decay": self.weight_decay}]
        return Lookahead(torch.optim.RAdam(groups, lr=self.lr, decoupled_weight_decay=True))
