"""CLIP's image tower with groups in it: the first blocks see patches, the last ones see groups.

SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (Luo et al., 2022, arXiv
2211.14813), section 3.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from ......core.contracts import Backbone, require
from ......core.training import truncated_starts
from ...losses.masked_decoder import KeptPlaces, keep_some, pre_norm_layer
from .group import Gathered, GroupsToPatches, SemanticGroup, quick_gelu

HEAD_WIDTH = 64
FIRST_SHARE = 10 / 12


class _Seen(NamedTuple):
    """What the tower makes of an image.

    Args:
        image: (B, D) features in the space of text, not normalised.
        groups: (B, G, D), likewise.
        gathered: how patches became groups.
        grid: (h, w) of the patches.
    """

    image: Tensor
    groups: Tensor
    gathered: Gathered
    grid: tuple[int, int]


class GroupingTower(nn.Module):
    """What SegCLIP adds to an image tower, and the passes through both. The backbone is the caller's, not a child.

    Tokens that stand before the patches are left out; the whole image is the maximum of its groups after the last
    block.

    Args:
        backbone: with "image_blocks".
        first_blocks: blocks that see patches; None is ten of twelve.
        groups, cross_layers, tau: of `SemanticGroup`.
        heads: of its attention; None is one for each 64 channels.
        reconstructs: whether there is a path back from groups to patches, for hidden ones.

    Raises:
        CapabilityError: the tower has no blocks. ConfigError: an option is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        first_blocks: int | None = None,
        groups: int = 8,
        cross_layers: int = 2,
        heads: int | None = None,
        tau: float = 0.9,
        reconstructs: bool = True,
    ):
        super().__init__()
        backbone.need("image_blocks")
        self._held = (backbone,)
        blocks = backbone.blocks("image")
        self.first_blocks = round(FIRST_SHARE * len(blocks)) if first_blocks is None else first_blocks
        known = 1 <= self.first_blocks <= len(blocks)
        require(known, "first_blocks", self.first_blocks, f"the image tower has {len(blocks)} blocks")
        self.width = blocks[0].ln_1.weight.shape[0]
        heads = max(1, self.width // HEAD_WIDTH) if heads is None else heads
        self.group = SemanticGroup(self.width, groups, heads, cross_layers, tau)
        if reconstructs:
            self.reconstruct = GroupsToPatches(groups)
            later = len(blocks) - self.first_blocks
            self.patch_blocks = nn.ModuleList(_block(self.width, heads) for _ in range(later))

    @property
    def backbone(self) -> Backbone:
        return self._held[0]

    def forward(self, pixels: Tensor) -> _Seen:
        """(B, 3, H, W), sides of whole patches."""
        gathered = self.group(self._first(self._patches(pixels)))
        groups = self.backbone.run_blocks("image", gathered.groups, self.first_blocks)
        image = self._project(groups.amax(dim=1, keepdim=True))[:, 0]
        return _Seen(image, self._project(groups), gathered, self.backbone.image_grid(pixels))

    def see_part(self, pixels: Tensor, hidden_share: float) -> tuple[Tensor, KeptPlaces]:
        """(B, K, W) of the patches that are not hidden, each from the groups it is in, and which they are.

        As released, a class token is counted as a patch that is never hidden.
        """
        patches = self._patches(pixels)
        count = max(1, int((patches.shape[1] + 1) * (1 - hidden_share)) - 1)
        kept = keep_some(count, patches.shape[:2], patches.device)
        x = self.reconstruct(self.group(self._first(kept.of(patches))))
        for block in self.patch_blocks:
            x = block(x)
        return x, kept

    def _patches(self, pixels: Tensor) -> Tensor:
        rows, columns = self.backbone.image_grid(pixels)
        first = self.backbone.image_prefix
        return self.backbone.embed_image(pixels)[:, first : first + rows * columns]

    def _first(self, patches: Tensor) -> Tensor:
        return self.backbone.run_blocks("image", patches, 0, self.first_blocks)

    def _project(self, tokens: Tensor) -> Tensor:
        return self.backbone.project(self.backbone.norm_tokens(tokens), normalize=False)


def _block(width: int, heads: int) -> Any:
    layer = pre_norm_layer(width, heads, activation=quick_gelu)
    layer.apply(truncated_starts)
    return layer
