"""PLLaVA's pooling of patches over time and space, with class texts that attend to the result.

Take it for clips where places in the frames matter and the towers stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Batch, FeatureSet, has, option
from ....core.errors import CapabilityError
from ._frames import average_of_unit, valid_first
from ._text_head import Clips, TextHeadAdapter, TunedText

ENTRIES = 1 << 26
"""Scores of pooled tokens for classes that are held at once, where no gradient is wanted."""


class PoolingProjector(nn.Module):
    """A linear layer, GELU and another linear layer on each patch, then adaptive average pooling over time and space.

    The second layer is applied to what is pooled, which gives the same and costs less.

    Args:
        width: D. out: E.
        frames: N that are pooled: of each clip from its first to its last in even steps, some of them several times
            where a clip has fewer.
        shape: (t, h', w') that they are pooled to.
        released_repeats: repeat each frame of a shorter clip int(N / n) + 1 times and cut what is more than N, as the
            released code does; its last frames may then be missing.
    """

    def __init__(self, width: int, out: int, frames: int, shape: tuple[int, int, int], released_repeats: bool = False):
        super().__init__()
        self.frames, self.shape, self.released_repeats = frames, tuple(shape), released_repeats
        self.linear_1, self.linear_2 = nn.Linear(width, out), nn.Linear(out, out)

    def forward(self, patches: Tensor, mask: Tensor) -> Tensor:
        """(B, T, h, w, D) and (B, T) bool, frames in front -> (B, t * h' * w', E), ordered by time, height, width."""
        hidden = self.pooled(F.gelu(self.linear_1(patches)), mask)  # (B, E, t, h', w')
        return self.linear_2(hidden.flatten(2).transpose(1, 2))

    def pooled(self, patches: Tensor, mask: Tensor) -> Tensor:
        """(B, T, h, w, E) and (B, T) bool -> (B, E, t, h', w'), bin i of m over n places those from floor(i n / m) to
        ceil((i + 1) n / m)."""
        chosen = self.chosen(mask.sum(dim=1))[..., None, None, None].expand(-1, -1, *patches.shape[2:])
        return F.adaptive_avg_pool3d(patches.gather(1, chosen).movedim(-1, 1), self.shape)

    def chosen(self, counts: Tensor) -> Tensor:
        """(B,) numbers of frames -> (B, N) which of them are pooled."""
        slots = torch.arange(self.frames, device=counts.device)
        if self.released_repeats:
            short = slots // (self.frames // counts[:, None] + 1)
            return torch.where(counts[:, None] < self.frames, short, slots)
        steps = slots.double() / max(1, self.frames - 1)
        return ((counts[:, None] - 1) * steps).round().long()


class PooledReading(nn.Module):
    """Scores of class texts: the averaged frames' cosines, and what the texts find among the pooled tokens.

    To each pooled token a learned vector of its place in time is added, which gives z; text c adds the sum over all of
    softmax(scale c . z) (c . z). The projector's last layer and the places start at 0, and so does what is added.

    Args:
        grid: (h, w) of a frame's patches.
        width, frames, shape: of `PoolingProjector`.
    """

    def __init__(self, width: int, grid: tuple[int, int], frames: int, shape: tuple[int, int, int]):
        super().__init__()
        self.width, self.grid = width, grid
        self.projector = PoolingProjector(width, width, frames, shape)
        self.places = nn.Parameter(torch.zeros(shape[0], width))
        nn.init.zeros_(self.projector.linear_2.weight)
        nn.init.zeros_(self.projector.linear_2.bias)

    def forward(self, seen: Tensor, mask: Tensor, text: Tensor, scale: float) -> Tensor:
        """(B, T, (1 + h * w) * D), each frame's feature before its patches, (B, T) bool and (C, D) -> (B, C)."""
        frames, patches = seen[..., : self.width], seen[..., self.width :].unflatten(2, (*self.grid, self.width))
        pooled = self.projector(patches, mask)  # (B, M, D)
        at_once = len(text)
        if not torch.is_grad_enabled():
            at_once = max(1, ENTRIES // (pooled.shape[0] * pooled.shape[1]))
        found = torch.cat([self._found(pooled, some, scale) for some in text.split(at_once)], dim=1)
        return average_of_unit(frames, mask) @ text.T + found

    def _found(self, pooled: Tensor, text: Tensor, scale: float) -> Tensor:
        places = self.places.repeat_interleave(pooled.shape[1] // len(self.places), dim=0)  # (M, D)
        similar = (pooled + places) @ text.T  # (B, M, C)
        return ((scale * similar).softmax(dim=1) * similar).sum(dim=1)


@dataclass(eq=False, kw_only=True)
class PllavaPool(TextHeadAdapter):
    """PLLaVA: Parameter-free LLaVA Extension from Images to Videos for Video Dense Captioning (Xu et al., 2024,
    arXiv 2404.16994): the patches of all frames go through a projector of two layers and are averaged over bins of time
    and space, 16 x 12 x 12 of them, whatever the number of patches.

    PLLaVA gives these tokens to a language model. Here class texts read them (ours): each looks at the tokens, to which
    learned vectors of their place in time are added, by a softmax of its similarities to them, and what it finds is
    added to its cosine to the averaged frames, the head `mean-pool`. The projector's last layer and the places start at
    0, so that before the first step scores are those of averaged frames. A residual of each class text is learned too
    (`tune_text`).

    Patches are stored, frame by frame, at the first fit; a line says how many GB that will be.

    Args:
        resources: "patch_tokens" of the support.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: samples without parts, a tower that gives no patch tokens, or patches of another grid than
            those of the fit.

    Example:
        >>> adapter = build_adapter("pllava-pool", epochs=5)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"patch_tokens": patches})
        >>> adapter.logits(Batch(parts=test.parts, patch_tokens=test_patches)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "class texts attend to the pooled tokens; there is no language model; a clip shorter than `frames` repeats "
        "frames over its whole length, where the released code may drop its last ones; shorter sides are not enlarged"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"parts", "patch_tokens"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"parts", "patch_tokens"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"image_tokens"})
    state: ClassVar[tuple[str, ...]] = (*TextHeadAdapter.state, "residual", "grid")
    rows_at_once: ClassVar[int] = 16

    tuned = has(TunedText)
    weight_decay: float = 0.01
    frames: int = option(16, "frames of each clip that are pooled", low=1, high=4096)
    pooled_frames: int = option(16, "bins of time that they are pooled to", low=1, high=4096)
    pooled_side: int = option(12, "bins of height and of width that patches are pooled to", low=1, high=1024)

    def _network(self, width: int) -> nn.Module:
        shape = (min(self.pooled_frames, self.frames), *(min(self.pooled_side, side) for side in self.grid))
        return PooledReading(width, tuple(self.grid), self.frames, shape)

    def _fit(self, support, classifier, *, resources, **how):
        self.grid = list(resources["patch_tokens"].grid)
        return super()._fit(support, classifier, resources=resources, **how)

    def _clips(self, support: FeatureSet, resources) -> Clips:
        tokens = resources["patch_tokens"]

        def clips(index: Tensor) -> tuple[Tensor, Tensor]:
            patches = tokens.rows(index).to(support.features.device)
            return _seen(support.parts[index], support.parts_mask[index], patches)

        return clips

    def _cosines(self, network: nn.Module, frames: Tensor, mask: Tensor, text: Tensor) -> Tensor:
        return network(frames, mask, text, self.logit_scale)

    def _logits(self, batch: Batch) -> Tensor:
        if batch.patch_tokens is None:
            raise CapabilityError(f"adapter '{self.name}' looks at patches; pass Batch(patch_tokens=...)")
        if (grid := list(batch.patch_tokens.shape[2:4])) != self.grid:
            sizes = f"was fitted on {self.grid[0]} x {self.grid[1]} patches, these are {grid[0]} x {grid[1]}"
            raise CapabilityError(f"adapter '{self.name}' {sizes}; use the backbone and image size of the fit")
        return self._scores(*_seen(batch.parts, batch.parts_mask, batch.patch_tokens))


def _seen(frames: Tensor, mask: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (B, T, D) with a mask and patches (B, T, h, w, D) -> (B, T, (1 + h * w) * D), those that are there in
    front, and the mask of that."""
    return valid_first(torch.cat([frames, patches.flatten(2)], dim=-1), mask)
