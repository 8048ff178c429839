"""A knowledge graph's entities as vectors, and which of them an image or a text shows: what `arl` calls to align.

The layers are those of Graph Attention Networks (Velickovic et al., 2018, arXiv 1710.10903).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2


class GraphAttention(nn.Module):
    """Each entity gathers from the sources of its edges, by a softmax over them, in several heads side by side.

    Args:
        width: of what goes in.
        out: of each head.
        heads: how many.
        dropout: of the softmax.
    """

    def __init__(self, width: int, out: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.map = heads, nn.Linear(width, heads * out, bias=False)
        self.as_source, self.as_target = (nn.Parameter(torch.empty(heads, out)) for _ in range(2))
        self.bias, self.dropout = nn.Parameter(torch.zeros(heads * out)), nn.Dropout(dropout)
        for weight in (self.map.weight, self.as_source, self.as_target):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """(E, W) and (2, M) int64, source and target of each edge, -> (E, heads * out)."""
        source, target = edges
        h = self.map(x).unflatten(1, (self.heads, -1))  # (E, H, C)
        of_source, of_target = ((h * weight).sum(dim=2) for weight in (self.as_source, self.as_target))  # (E, H)
        scores = F.leaky_relu(of_source[source] + of_target[target], SLOPE)  # (M, H)
        shares = self.dropout(softmax_by(scores, target, len(x)))
        gathered = torch.zeros_like(h).index_add(0, target, shares[..., None] * h[source])
        return gathered.flatten(1) + self.bias


def softmax_by(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """(M, H) scores -> their softmax among those of the same group, (M,) int64, in each column."""
    index = group[:, None].expand_as(scores)
    lowest = scores.new_full((groups, scores.shape[1]), -torch.inf)
    highest = lowest.scatter_reduce(0, index, scores.detach(), "amax")
    powers = (scores - highest[group]).exp()
    return powers / torch.zeros_like(lowest).index_add(0, group, powers)[group]


class EntityGraph(nn.Module):
    """Entities -> vectors that know of their neighbours in the graph.

    Args:
        count: of entities, E.
        edges: (source, target) of each; loops are left out, and each entity has one to itself.
        width: of an entity, before and after.
        out, heads: of the first layer.
        dropout: before each layer, and of their softmax.

    Attributes:
        start: (E, width) where entities start, which is learned.
    """

    def __init__(
        self, count: int, edges: Sequence[tuple[int, int]], width: int, out: int, heads: int, dropout: float
    ):
        super().__init__()
        self.start, self.norm = nn.Parameter(torch.randn(count, width)), nn.LayerNorm(width)
        self.first = GraphAttention(width, out, heads, dropout)
        self.second = GraphAttention(heads * out, width, 1, dropout)
        self.dropout = nn.Dropout(dropout)
        pairs = [pair for pair in edges if pair[0] != pair[1]] + [(place, place) for place in range(count)]
        self.register_buffer("edges", torch.tensor(pairs, dtype=torch.int64).T.contiguous())  # (2, M)

    def forward(self) -> Tensor:
        """(E, width)."""
        x = F.elu(self.first(self.dropout(self.norm(self.start)), self.edges))
        return self.second(self.dropout(x), self.edges)


class EntityScores(nn.Module):
    """Which entities a vector shows: two layers, each with ReLU, and the product with each entity.

    Args:
        width: of the vector.
        entity_width: of entities.
    """

    def __init__(self, width: int, entity_width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, entity_width), nn.ReLU())

    def forward(self, x: Tensor, entities: Tensor) -> Tensor:
        """(B, W) and (E, C) -> (B, E) logits."""
        return self.layers(x) @ entities.T
