"""TESTA: an image tower that attends along time and space and merges frames and patches from block to block.

Take it for long clips with a GPU, of whose frames most look alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ....core.backbones import JointParts
from ....core.contracts import Backbone, Batch, FitReport, TrainingImages, option
from ....core.errors import CapabilityError, DataError
from ....core.training import TrainingResult, TrainingSettings
from ._clip_towers import ClipTowerAdapter, need_class_token
from ._divided_attention import TemporalAttention, divided

FRAME_SHARE, PATCH_SHARE = 1 / 32, 12 / 196
"""Published: how many of the frames and of the patches that a clip has at first are merged in a block."""


def schedule(count: int, inflection: float, blocks: int) -> list[int]:
    """How many tokens are merged in each block, `count` on average: alike in all at 0, from 2 `count` falling to 0 at
    -1, rising from 0 at 1; rounded down."""
    return [int(value) for value in _ramp(int(count * (1 - inflection)), count, blocks)]


def uneven(mean: float, inflection: float, blocks: int) -> list[int]:
    """The same of a mean that is no whole number: rounded so that the sums up to each block are as near as can be."""
    gone = [round(value) for value in accumulate(_ramp(mean * (1 - inflection), mean, blocks), initial=0.0)]
    return [after - before for before, after in pairwise(gone)]


def _ramp(first: float, mean: float, blocks: int) -> list[float]:
    step = 2 * (mean - first) / max(1, blocks - 1)
    return [first + step * block for block in range(blocks)] if blocks > 1 else [mean]


class AggregatingFrames(JointParts):
    """Attention in time beside each block of an image tower, and which tokens are merged in each.

    Args:
        backbone: whose image tower it stands beside.
        frames: T.
        merge_frames, merge_patches: how many in a block; None: the published shares.
        inflection: of `schedule`.

    Attributes:
        aggregates: False merges nothing.

    Raises:
        CapabilityError: no class token, or blocks that normalise sums.
    """

    def __init__(
        self,
        backbone: Backbone,
        frames: int,
        merge_frames: int | None = None,
        merge_patches: int | None = None,
        inflection: float = 0.0,
    ):
        super().__init__(frames)
        need_class_token(backbone, "testa")
        blocks = backbone.blocks("image")
        if any(block.attended is None for block in blocks):
            raise CapabilityError(
                f"adapter 'testa' merges tokens behind attention, and the blocks of backbone '{backbone.spec}' "
                "normalise its sums; use a CLIP"
            )
        height, width = backbone.image_grid(backbone.blank_image())
        asked = ((merge_frames, frames, FRAME_SHARE), (merge_patches, height * width, PATCH_SHARE))
        counts = [
            uneven(share * have, inflection, len(blocks)) if given is None else schedule(given, inflection, len(blocks))
            for given, have, share in asked
        ]
        self.merges: list[tuple[int, int]] = list(zip(*counts))
        self.aggregates = True
        self.temporal = nn.ModuleList(TemporalAttention.beside(block) for block in blocks)
        self.time_embed = nn.Parameter(torch.zeros(1, frames, blocks[0].ln_1.weight.shape[0]))

    def tokens(self, backbone: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) -> class tokens (B, W) and what is left of the patches, (B, T', L', W)."""
        x = backbone.embed_image(pixels.flatten(0, 1)).unflatten(0, (-1, self.parts))  # (B, T, 1 + L, W)
        first, patches, sizes = x[:, 0, 0], x[:, :, 1:] + self.time_embed[:, :, None], None
        for block, temporal, merges in zip(backbone.blocks("image"), self.temporal, self.merges):
            merges = merges if self.aggregates else (0, 0)
            first, patches, sizes = divided(block, temporal, first, patches, sizes, merges)
        return first, patches

    def pooled(self, backbone: Backbone, first: Tensor, patches: Tensor) -> Tensor:
        """What `tokens` gives -> (B, D)."""
        return backbone.pool_image(torch.cat([first[:, None], patches.flatten(1, 2)], dim=1), normalize=False)

    def embed(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        return self.pooled(backbone, *self.tokens(backbone, pixels))


@dataclass(frozen=True)
class Cost:
    """Of one clip: patch tokens behind the last block, and floating-point operations of the image tower."""

    tokens: int
    flops: int


@torch.no_grad()
def tower_cost(backbone: Backbone, aggregates: bool) -> Cost:
    """Counted by torch, of matrix products and convolutions, on a blank clip."""
    joint: AggregatingFrames = backbone.joint
    before, joint.aggregates = joint.aggregates, aggregates
    clip = backbone.blank_image().to(backbone.device).expand(joint.parts, -1, -1, -1)[None]
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # whose products can be counted
            first, patches = joint.tokens(backbone, clip)
            joint.pooled(backbone, first, patches)
    finally:
        joint.aggregates = before
    return Cost(patches.shape[1] * patches.shape[2], counter.get_total_flops())


@dataclass(eq=False, kw_only=True)
class Testa(ClipTowerAdapter):
    """TESTA: Temporal-Spatial Token Aggregation for Long-form Video-Language Understanding (Ren et al., 2023,
    arXiv 2310.19060).

    Each block of the image tower attends over time, patch by patch, and then over space, frame by frame, with one class
    token for the whole clip (TimeSformer's divided attention). In between tokens are merged: behind attention in time
    the frames whose patches are most alike, by vote of all patches; behind attention in space the most similar patches
    of each frame. What tokens are compared by are the keys of that attention; a merged token is the mean of those that
    went into it. So later blocks see fewer and fewer tokens, and long clips cost less.

    Published are 1 frame and 12 patches per block, of 32 frames of 14 x 14 patches; by default as large a share of what
    a clip and tower have is merged. At most half of the tokens go in one block. Attention in time starts as a copy of
    the block's own attention with a last layer of zeros, times as zeros: without merging, a clip of one frame has the
    features of an image, exactly.

    Published for retrieval: the contrastive and the matching loss between videos and texts, AdamW with a rate of 1e-5
    and weight decay 0.05, 10 epochs. Here classes are told apart by cross-entropy on labelled clips; `loss="clip"` or
    pairs give the contrastive loss. The domain sets the number of frames per clip (`--frames`).

    Notes say what share of tokens and of operations is left, and what accuracy is lost on val (on the training clips,
    where there is no val) against the same weights without merging.

    Several labels per clip: binary cross-entropy on the difference to the negative prompts.

    Classes with unequal numbers of clips count alike (`class_weight`); published is "none".

    Raises:
        ConfigError: an option out of range.
        CapabilityError: an image tower without transformer blocks or without a class token.

    Example:
        >>> adapter = build_adapter("testa", epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "a CLIP's towers instead of BLIP's; neither matching loss nor queue; proportional attention, which no released "
        "script enables, is not included; float32 unless `amp` says otherwise"
    )
    default_epochs: ClassVar[int] = 10

    weight_decay: float = 0.05
    merge_frames: int | None = option(None, "frames merged in each block; none: 1 in 32", low=0, high=4096)
    merge_patches: int | None = option(
        None, "patches of each frame merged in each block; none: 12 in 196", low=0, high=65_536
    )
    inflection: float = option(
        0.0, "merges over the blocks: -1 falling to none, 0 constant, 1 rising from none", low=-1, high=1
    )

    def _joint(self, backbone: Backbone) -> AggregatingFrames:
        return AggregatingFrames(backbone, self.frames, self.merge_frames, self.merge_patches, self.inflection)

    def _report(self, done: TrainingResult, settings: TrainingSettings, notes: list[str]) -> FitReport:
        """With what merging leaves."""
        report = super()._report(done, settings, notes)
        less, whole = (tower_cost(self._made, aggregates) for aggregates in (True, False))
        shares = {"tokens kept": less.tokens / whole.tokens, "FLOPs kept": less.flops / whole.flops}
        report.chosen.update(shares)
        report.notes.append(
            f"Merging leaves {less.tokens:,} of {whole.tokens:,} patch tokens of a clip ({shares['tokens kept']:.1%}) "
            f"and {less.flops / 1e9:,.3g} of {whole.flops / 1e9:,.3g} GFLOPs of the image tower "
            f"({shares['FLOPs kept']:.1%})"
        )
        return report

    def _fit(self, support, classifier, *, resources, **how) -> FitReport:
        report = super()._fit(support, classifier, resources=resources, **how)
        images = self._in_whole_clips(resources["images"])
        on = f"val ({len(images.val)} clips)" if images.val else f"the {len(images.items)} training clips"
        images = images if images.val else replace(images, val=images.items)
        metric = "macro AUROC" if self.multilabel_ else "accuracy"
        try:
            merged, unmerged = (self._score(images, aggregates) for aggregates in (True, False))
        except DataError:  # unreadable, or a label that all clips have: the fit stands
            report.notes.append(f"What merging costs in {metric} could not be measured on {on}")
            return report
        report.chosen[f"{metric} lost"] = lost = unmerged - merged
        report.notes.append(
            f"On {on} the {metric} is {merged:.1%} with merging and {unmerged:.1%} by the same weights without: "
            f"{100 * lost:.1f} points lost"
        )
        return report

    def _score(self, images: TrainingImages, aggregates: bool) -> float:
        """On val, by the class texts of the fit."""
        self._made.joint.aggregates = aggregates
        try:
            return self._val_score(self._of_features, self._made, images)
        finally:
            self._made.joint.aggregates = True

    def _of_features(self, unit: Tensor) -> Tensor:
        return self._logits(Batch(features=unit))
