"""What is done with the patches of all frames of a clip: PLLaVA's pooling, TESTA's aggregation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from vladapt.core.backbones.token_merging import TokenMerge
from vladapt.core.backbones.tower_steps import pre_norm_block
from vladapt.domains.video.adapters._divided_attention import TemporalAttention, divided
from vladapt.domains.video.adapters.pllava_pool import PoolingProjector
from vladapt.domains.video.adapters.testa import schedule

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


@compares("testa", "testa")
def testa_merging(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Patches of each frame, and frames by the votes of their patches, with and without a class token's place."""
    merge = TokenMerge.matching(ref["patch.metric"], ref.setting("r_patch"), protected=1)
    for suffix, sizes in (("_first", None), ("", ref["patch.size"])):
        x, sizes = merge.means(ref["patch.x"], sizes)
        yield ref.check(x, f"patch.merged{suffix}")
        yield ref.check(sizes, f"patch.sizes{suffix}")
    yield ref.check(merge(_identity(ref["patch.x"]), "amax"), "patch.source")
    for name, left, spared in (("ct1", "cap_tokens", 1), ("ct0", "cap_tokens_ct0", 0)):
        how = {"together": True, "spared": spared}
        merge = TokenMerge.matching(ref["frame.metric"], ref.setting("r_frame"), **how)
        x, sizes = merge.means(ref["frame.x"], ref["frame.size"])
        yield ref.check(x, f"frame.merged_{name}")
        yield ref.check(sizes, f"frame.sizes_{name}")
        yield ref.check(merge(_identity(ref["frame.x"]), "amax"), f"frame.source_{name}")
        most = TokenMerge.matching(ref["frame.metric"], ref["frame.x"].shape[2], **how)
        yield ref.check(torch.tensor(most(ref["frame.x"]).shape[2]), f"frame.{left}")
    for key, count, inflection in ref.keys(r"schedule_r(\d+)_i(-?[\d.]+)"):
        yield ref.check(torch.tensor(schedule(int(count), float(inflection), len(ref[key]))), key)


@compares("testa", "testa")
def testa_block(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """A whole block, whose first merges have no sizes before them."""
    x, width = ref["block.x"], ref["block.x"].shape[2]
    block, temporal = _testa_block(ref, width)
    frames_merged, patches_merged = ref.setting("block_r")
    frames = int(ref["block.T"]) + frames_merged
    patches = x[:, 1:].unflatten(1, (-1, frames)).transpose(1, 2)  # (B, T, L, W)
    first, patches, sizes = divided(block, temporal, x[:, 0], patches, None, (frames_merged, patches_merged))
    yield ref.check(torch.tensor(patches.shape[1]), "block.T")
    yield ref.check(torch.tensor(patches.shape[2]), "block.L")
    for suffix in ("", "_prop"):
        yield ref.check(torch.cat([first[:, None], patches.transpose(1, 2).flatten(1, 2)], dim=1), f"block.y{suffix}")
        yield ref.check(sizes, f"block.size{suffix}")


def _testa_block(ref: Reference, width: int):
    """The fixture's weights as a block of a tower and what stands beside it."""
    heads, hidden = ref.setting("heads"), ref["w.mlp.fc1.weight"].shape[0]
    parts = {"norm1": nn.LayerNorm(width), "norm2": nn.LayerNorm(width), "attn.proj": nn.Linear(width, width)}
    parts |= {"mlp.fc1": nn.Linear(width, hidden), "mlp.fc2": nn.Linear(hidden, width)}
    parts["attn.qkv"] = nn.Linear(width, 3 * width)
    temporal = TemporalAttention(width, heads)
    beside = {"temporal_norm1": temporal.temporal_norm1, "temporal_fc": temporal.temporal_fc}
    beside |= {"temporal_attn.qkv": temporal.qkv, "temporal_attn.proj": temporal.proj}
    for name, layer in {**parts, **beside}.items():
        layer.load_state_dict({key: ref[f"w.{name}.{key}"] for key in ("weight", "bias")})
    block = pre_norm_block(
        ln_1=parts["norm1"],
        qkv=parts["attn.qkv"],
        out=parts["attn.proj"],
        ln_2=parts["norm2"],
        mlp=nn.Sequential(parts["mlp.fc1"], nn.GELU(), parts["mlp.fc2"]),
        num_heads=heads,
    )
    return block, temporal


def _identity(x: torch.Tensor) -> torch.Tensor:
    """(B, G, n, n): each token as itself."""
    return torch.eye(x.shape[2]).expand(*x.shape[:3], -1)


GROUPS = (pllava_pool, testa_merging, testa_block)
