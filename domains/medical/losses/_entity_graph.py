"""A knowledge graph's entities as vectors, and which of them an image or a text shows: what `arl` calls to align.

The layers are those of Graph Attention Networks (Velickovic et al., 2018, arXiv 1710.10903).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ....core.errors import ConfigError

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

    def __init__(self, count: int, edges: Sequence[tuple[int, int]], width: int, out: int, heads: int, dropout: float):
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


def safetensors_file(value: Any) -> Any:
    """For `option`: the name of such a file, as it is.

    Raises:
        ConfigError: of another file.
    """
    if not str(value).lower().endswith(".safetensors"):
        raise ConfigError("not a safetensors file; give FILE.safetensors")
    return value


def start_embeddings(path: Path, names: Sequence[str], width: int) -> Tensor:
    """(E, width) of a safetensors file: its only tensor, or that of name `entities`, in the order of the entities, or
    of the JSON list `entities` in the file's metadata.

    Raises:
        ConfigError: it cannot be read, lacks an entity, or has another width, or numbers that are none.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            keys, listed = list(file.keys()), (file.metadata() or {}).get("entities")
            name = "entities" if "entities" in keys else keys[0] if len(keys) == 1 else None
            tensor = None if name is None else file.get_tensor(name)
        rows = None if listed is None else {each: row for row, each in enumerate(json.loads(listed))}
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read ({reason}); give safetensors with a tensor entities") from None
    if tensor is None:
        raise ConfigError(f"{path}: none of its tensors ({', '.join(sorted(keys)[:5])}) is called entities; rename it")
    if rows is not None:
        if lacking := [each for each in names if each not in rows]:
            raise ConfigError(f"{path}: no row for entity {lacking[0]} ({len(lacking)} of {len(names)} lack one)")
        if tensor.ndim != 2 or len(tensor) != len(rows):
            raise ConfigError(f"{path}: {len(rows)} names for {len(tensor)} rows; write both from the same list")
        tensor = tensor[[rows[each] for each in names]]
    if tuple(tensor.shape) != (len(names), width):
        raise ConfigError(
            f"{path}: its tensor is {' x '.join(map(str, tensor.shape))}, and {len(names)} entities of width {width} "
            "are learned; give a row for each, or set entity_width"
        )
    if not torch.isfinite(tensor.float()).all():
        raise ConfigError(f"{path}: some embeddings are no numbers; train them again")
    return tensor.float()
