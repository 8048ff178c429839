"""What is done with the patches of all frames of a clip: PLLaVA's pooling."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vladapt.domains.video.adapters.pllava_pool import PoolingProjector

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("pllava-pool", "pllava_pool")
def pllava_pool(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Clips, one with fewer frames, and an image; the pooling alone."""
    grid, shape = tuple(ref.setting("frame_shape")), tuple(ref.setting("pooling_shape"))
    out, width = ref["w.linear_1.weight"].shape
    frames = ref.setting("num_frames")
    projector = PoolingProjector(width, out, frames, shape, released_repeats=True)
    projector.load_state_dict({name: ref[f"w.{name}"] for name in projector.state_dict()})
    counts = {"pooled": ("frames", ref["frames"].shape[0] // ref["pooled"].shape[0])}
    counts |= {"few_pooled": ("few_frames", ref["few_frames"].shape[0]), "image_pooled": ("image", 1)}
    for key, (given, count) in counts.items():
        patches = ref[given].unflatten(0, (-1, count)).unflatten(2, grid)  # (B, T, h, w, D)
        yield ref.check(projector(patches, torch.ones(patches.shape[:2], dtype=torch.bool)), key)
    patches = ref["frames"].unflatten(0, (-1, frames)).unflatten(2, grid)
    yield ref.check(projector.pooled(patches, torch.ones(patches.shape[:2], dtype=torch.bool)), "pool_only")


GROUPS = (pllava_pool,)
