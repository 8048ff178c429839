"""Image towers that merge tokens, and those that take images of any aspect ratio."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import torch
from timm.models.vision_transformer import VisionTransformer
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

from vladapt.core.backbones.image_only import Visual
from vladapt.core.backbones.native_aspect import fitting_grid, packed, unpacked
from vladapt.core.backbones.open_clip_timm import TimmVitTower
from vladapt.core.backbones.spec_options import Reduction
from vladapt.core.backbones.token_merging import MergedTokens, TokenMerge

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("token-merging", "tome")
def matchings(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Without a class token, with one, with a second one for distillation, and where fewer can go than asked for."""
    x, metric, count = ref["tokens"], ref["metric"], ref.setting("r")
    for name, protected, asked in (("plain", 0, count), ("class", 1, count), ("distill", 2, count), ("clamped", 1, 99)):
        merge = TokenMerge.matching(metric, asked, protected=protected, ordered=protected > 0)
        means, sizes = merge.means(x, None)
        source = merge.source(x.shape[1])
        mean = merge(x, "mean")
        made = {"merged_mean": mean, "wavg": means, "size": sizes, "source": source}
        released = source if protected < 2 else replace(merge, protected=0).source(x.shape[1])
        made["unmerged"] = mean.gather(1, released[..., None].expand(-1, -1, x.shape[2]))
        for key, value in made.items():
            yield ref.check(value, f"{name}.{key}")


@compares("token-merging", "tome")
def schedules(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """r of each block, as the fixture words it."""
    made = [Reduction.of(_spelt(words)).per_block(ref["schedule"].shape[1]) for words in ref.setting("schedules")]
    yield ref.check(torch.tensor(made), "schedule")


@compares("token-merging", "tome")
def tower(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """timm's vision transformer with merging in its blocks."""
    steps, count = _tower(ref), ref.setting("vr")
    yield ref.check(steps.project(steps.hidden(ref["images"])), "vit.full")
    for key, spec in (("merged", f"{count}"), ("no_prop", f"{count}:plain"), ("decreasing", f"{count}:-1")):
        steps.reduction = Reduction.of(spec)
        yield ref.check(steps.project(steps.hidden(ref["images"])), f"vit.{key}")
        tokens = MergedTokens(steps.reduction, steps.prefix)
        tokens.through(steps.blocks, steps.embed(ref["images"]), [])
        if key == "merged":
            yield ref.check(tokens.sizes, "vit.size")
            yield ref.check(tokens.source, "vit.source")
        if key == "decreasing":
            yield ref.check(torch.tensor(tokens.sizes.shape[1]), "vit.decreasing_tokens")


@compares("native-aspect", "naflex")
def native_aspect(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """How many patches images become, where these are, and what they hold; positions are those of the installed
    transformers."""
    patch, most = ref.setting("patch"), ref.setting("max_num_patches")
    grids = torch.tensor([fitting_grid(*size, patch, most) for size in ref["sizes"].tolist()])
    yield ref.check(grids, "spatial_shapes")
    yield ref.check(grids * patch, "target_size")
    made = Siglip2VisionEmbeddings.resize_positional_embeddings(ref["position_table"], grids, max_length=most)
    yield ref.check(made, "positions")
    row = packed(ref["image"][0], patch, most)[None]
    patches, mask, _ = unpacked(row, patch)
    yield ref.check(patches[0], "padded")
    yield ref.check(mask[0], "pad_mask")
    yield ref.check(patches[0, : len(ref["patches"])], "patches")


def _tower(ref: Reference) -> TimmVitTower:
    weights = {name: ref[key] for key, name in ref.keys(r"w\.vit\.(.+)")}
    model = VisionTransformer(
        img_size=ref.setting("img"),
        patch_size=weights["patch_embed.proj.weight"].shape[-1],
        embed_dim=ref.setting("dim"),
        depth=ref.setting("depth"),
        num_heads=ref.setting("heads"),
        mlp_ratio=ref.setting("mlp_ratio"),
        num_classes=ref.setting("num_classes"),
    )
    model.load_state_dict(weights)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.eps = ref.setting("layer_norm_eps")
    return TimmVitTower(Visual(model.eval()))


def _spelt(words: str) -> str:
    """A schedule of the fixture as it stands in a spec."""
    numbers = re.findall(r"-?\d*\.?\d+", words)
    if words.startswith("["):
        return "/".join(numbers)
    return ":".join(numbers) if words.startswith("(") else numbers[-1]


GROUPS = (matchings, schedules, tower, native_aspect)
DEVIATIONS = {
    "token-merging": "attention pooling and the mean over tokens weigh each token by its size, and registers are "
    "protected as a class token is, neither of which the released code has; with a distillation token its unmerging "
    "takes the tokens for those of another order, where ours copies each back to where its source says; merging every "
    "k-th token is not included",
}
