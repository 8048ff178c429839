"""STAN: a branch beside the last blocks of the image tower that attends along time, then within each frame.

Take it for clips with a GPU, where both motion and place matter.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ....core.backbones import JointParts, attend
from ....core.contracts import Backbone, Block, option
from ....core.errors import CapabilityError
from ._clip_towers import ClipTowerAdapter, need_class_token

PLACES = 64
"""Embeddings of time that are learned, as released."""


class TimeAttention(nn.Module):
    """Each patch attends to the same patch of all frames; what comes of it goes through a linear layer that starts at
    zero, and is added.

    Args:
        width, heads: of the tower.
        dropped: share of the patches for which nothing is added in a step of training.
    """

    def __init__(self, width: int, heads: int, dropped: float):
        super().__init__()
        self.heads = heads
        self.layer_norm1 = nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.temporal_fc = nn.Linear(width, width)
        self.drop_path = StochasticDepth(dropped, "row")
        nn.init.zeros_(self.temporal_fc.weight)
        nn.init.zeros_(self.temporal_fc.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, P, T, W) -> the same."""
        normal = self.layer_norm1(patches.flatten(0, 1))
        stacked = torch.cat([linear(normal) for linear in (self.q_proj, self.k_proj, self.v_proj)], dim=-1)
        attended = self.drop_path(self.out_proj(attend(stacked, self.heads)))
        return patches + self.temporal_fc(attended).unflatten(0, patches.shape[:2])


class SpatialBlock(nn.Module):
    """A copy of a block of the tower. It sees each frame with the clip's one class token; what attention in the frames
    makes of that token is averaged.

    Args:
        block: that is copied.
        dropped: share of the frames for which attention adds nothing in a step of training.
    """

    def __init__(self, block: Block, dropped: float):
        super().__init__()
        self.layer = deepcopy(block.module)
        self.drop_path = StochasticDepth(dropped, "row")

    def forward(self, original: Block, first: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """The block whose copy it is, a class token (B, 1, W) and patches (B, P, T, W) -> the same two."""
        block, frames = original.of(self.layer), patches.shape[2]

        def attention(normal: Tensor) -> Tensor:
            some = normal[:, 1:].unflatten(1, (-1, frames)).transpose(1, 2)  # (B, T, P, W)
            each = torch.cat([normal[:, None, :1].expand(-1, frames, -1, -1), some], dim=2).flatten(0, 1)
            added = self.drop_path(block.out(attend(block.qkv(each), block.num_heads))).unflatten(0, (-1, frames))
            return torch.cat([added[:, :, :1].mean(dim=1), added[:, :, 1:].transpose(1, 2).flatten(1, 2)], dim=1)

        x = block(torch.cat([first, patches.flatten(1, 2)], dim=1), attention=attention)  # (B, 1 + P * T, W)
        return x[:, :1], x[:, 1:].unflatten(1, (-1, frames))


class Branch(JointParts):
    """The spatial-temporal branch beside the last blocks of an image tower.

    Args:
        backbone: whose image tower it stands beside.
        frames: T.
        depth: how many of the last blocks; of a tower that has fewer, all.
        drop_path: of its last layer, rising evenly from 0.

    Raises:
        CapabilityError: blocks that cannot be copied, or no class token.
    """

    rate: ClassVar[float] = 10.0

    def __init__(self, backbone: Backbone, frames: int, depth: int, drop_path: float):
        super().__init__(frames)
        need_class_token(backbone, "stan")
        beside = list(backbone.blocks("image"))[-depth:]
        if any(block.of is None or block.module is None for block in beside):
            raise CapabilityError(
                f"adapter 'stan' copies blocks of the image tower, and in backbone '{backbone.spec}' these are more "
                "than their weights; use a CLIP"
            )
        width = backbone.width("image")
        rates = torch.linspace(0, drop_path, len(beside)).tolist()
        self.spatial = nn.ModuleList(SpatialBlock(block, rate) for block, rate in zip(beside, rates))
        self.temporal = nn.ModuleList(TimeAttention(width, block.num_heads, rate) for block, rate in zip(beside, rates))
        self.time_embed = nn.Embedding(PLACES, width)

    def states(self, backbone: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, 3, H, W) -> tokens of the tower (B * T, 1 + P, W), the branch's class token (B, 1, W) and its patches
        (B, P, T, W)."""
        frames = pixels.flatten(0, 1)
        blocks = backbone.blocks("image")
        start = len(blocks) - len(self.spatial)
        x = backbone.run_blocks("image", backbone.embed_image(frames), 0, start)
        first = patches = None
        for number, (temporal, spatial) in enumerate(zip(self.temporal, self.spatial), start):
            x = backbone.run_blocks("image", x, number, number + 1)
            clips = x.unflatten(0, (-1, self.parts))  # (B, T, 1 + P, W)
            token, seen = clips[:, :, :1].mean(dim=1), clips[:, :, 1:].transpose(1, 2)
            first, patches = (
                self._entered(backbone, frames, token, seen) if first is None else (first + token, patches + seen)
            )
            first, patches = spatial(blocks[number], first, temporal(patches))
        return x, first, patches

    def embed(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        return self.embed_parts(backbone, pixels).mean(dim=1)

    def embed_parts(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        tokens, first, _ = self.states(backbone, pixels)
        frames = backbone.pool_image(self.joined(tokens, first), normalize=False)  # (B * T, D)
        return frames.unflatten(0, (-1, self.parts))

    def joined(self, tokens: Tensor, first: Tensor) -> Tensor:
        """(B * T, 1, W), the class token of each frame and the clip's, as what is pooled."""
        return tokens[:, :1] + first.repeat_interleave(self.parts, dim=0)

    def _entered(self, backbone: Backbone, frames: Tensor, token: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layer of the branch takes: positions and times are added, and the class token is averaged with
        the one that the tower starts from."""
        own = backbone.start_image(frames[:1])[:, :1]  # with its position
        places = backbone.image_positions().resized(backbone.image_grid(frames))
        patches = seen + places[backbone.image_prefix :, None] + self.time_embed.weight[: self.parts]
        return (token + own) / 2, patches


@dataclass(eq=False, kw_only=True)
class Stan(ClipTowerAdapter):
    """Revisiting Temporal Modeling for CLIP-based Image-to-Video Knowledge Transferring (Liu et al., 2023,
    arXiv 2301.11116), with attention in time.

    Beside the last `depth` blocks of the image tower stand as many layers, each of which takes what the tower's block
    and the layer before it give. In it each patch attends to the same patch of all frames, and then a copy of the
    tower's block attends within each frame. Its class token is added to that of every frame before they are pooled, and
    the frames' features are averaged. Both towers are trained, the branch at ten times their rate, with the logit scale
    as it is.

    Published for retrieval (MSR-VTT): the contrastive loss between clips and sentences, AdamW with a rate of 2e-6 and
    weight decay 0.05, gradients of norm 5 at most, 10 epochs, 12 frames. Here classes are told apart by cross-entropy
    on labelled clips, and by `loss="clip"` or on pairs it is the published loss. The domain sets the number of frames
    per clip (`--frames`).

    The layer after attention in time starts at zero, so that at first only the time embeddings matter.

    Several labels per clip: binary cross-entropy on the difference to the negative prompts.

    Classes with unequal numbers of clips count alike (`class_weight`); published is "none".

    Raises:
        ConfigError: an option out of range.
        CapabilityError: an image tower without blocks that can be copied or without a class token, or clips of more
            than 64 frames.

    Example:
        >>> adapter = build_adapter("stan", epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "batches of 32 (released: 128); the released schedule rises linearly over the whole run, here the learning "
        "rate rises over a tenth of the steps and falls along a cosine; float32 unless `amp` says otherwise; the "
        "paper's other module, convolution in time, is not included"
    )
    trains_scale: ClassVar[bool] = False
    part_positions: ClassVar[int | None] = PLACES
    default_epochs: ClassVar[int] = 10

    lr: float = 2e-6
    weight_decay: float = 0.05
    clip_grad: float | None = 5.0
    depth: int = option(4, "last blocks of the image tower, beside which the branch stands", low=1, high=1000)
    drop_path: float = option(
        0.1, "share of rows dropped in the last layer of the branch, rising evenly from 0", low=0, below=1
    )

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        return {**super()._settings_of_method(epochs), "betas": (0.9, 0.98)}

    def _joint(self, backbone: Backbone) -> Branch:
        self.check_part_count(self.frames)
        return Branch(backbone, self.frames, self.depth, self.drop_path)
