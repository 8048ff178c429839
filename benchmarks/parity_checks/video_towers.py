"""Image towers that see the frames of a clip together: X-CLIP, STAN and Open-VCLIP."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt import Backbone, load_backbone
from vladapt.core.training.hooks import EpochAverageHook
from vladapt.core.training.tower_weights import BetweenWeights
from vladapt.domains.video.adapters.open_vclip import PLAIN_MEAN, patched
from vladapt.domains.video.adapters.stan import Branch
from vladapt.domains.video.adapters.x_clip import CommunicatingFrames

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
QKV = ("q_proj", "k_proj", "v_proj")
OPEN_CLIP = {
    "class_embedding": "class_embedding",
    "patch_embedding.weight": "conv1.weight",
    "position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "visual_projection.weight": "proj",
}
"""Names of transformers' image tower -> open_clip's."""


@compares("x-clip", "xclip_video")
def x_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Tower and integration; the prompt block on inputs of its own."""
    frames, layers = ref.setting("frames"), (ref.setting("prompt_layers"), _count(ref, "w.mit.resblocks."))
    vision = {"layers": ref.setting("layers"), "width": ref.setting("width"), "patch_size": ref.setting("patch")}
    vision |= {"head_width": ref.setting("width") // ref.setting("heads"), "image_size": ref.setting("input")}
    backbone = _clip(vision, ref.setting("output_dim"))
    joint = CommunicatingFrames(backbone, frames, layers[1], layers[0], alpha=0.1).attach(backbone).eval()
    tower, own = _under(ref, "w.visual."), {}
    for name in [name for name in tower if ".message_" in name]:
        number, _, part = name.removeprefix("transformer.resblocks.").partition(".")
        own[f"messages.{number}.{part}"] = tower.pop(name)
    own |= {f"mit.{name}": value for name, value in _under(ref, "w.mit.").items()}
    own |= {f"prompts_generator.{name}": value for name, value in _under(ref, "w.prompt.").items()}
    _load(backbone.model.visual, tower)
    _load(joint, own, free=("prompts_visual_ln.weight", "prompts_visual_ln.bias", "prompts_visual_proj"))
    with torch.no_grad():
        clips = ref["pixels"].unflatten(0, (-1, frames))
        tokens = joint.tokens(backbone, clips)
        yield ref.check(backbone.pool_image(tokens, normalize=False), "cls_features")
        yield ref.check(tokens[:, backbone.image_prefix :], "patch_features")
        yield ref.check(joint.embed(backbone, clips), "mit_output")
        yield ref.check(joint.prompts_generator(ref["text"], ref["prompt_visual"]), "prompt_output")


@compares("stan", "stan")
def stan(ref: Reference, f: Fixtures) -> Iterator[Check]:
    width = ref.setting("hidden")
    vision = {"layers": ref.setting("layers"), "width": width, "patch_size": ref.setting("patch")}
    vision |= {"head_width": width // ref.setting("heads"), "image_size": ref.setting("image")}
    backbone = _clip(vision | {"mlp_ratio": ref.setting("intermediate") / width}, ref.setting("projection"))
    _load(backbone.model.visual, _as_open_clip(_under(ref, "w."), "layers."))
    clips = ref["video"].transpose(1, 2)  # (B, T, 3, H, W)
    joint = Branch(backbone, clips.shape[1], ref.setting("depth"), drop_path=0.1).attach(backbone).eval()
    _load(joint, _branch(ref))
    with torch.no_grad():
        tokens, first, patches = joint.states(backbone, clips)
        yield ref.check(tokens, "clip_state")
        yield ref.check(torch.cat([first, patches.flatten(1, 2)], dim=1), "branch_state")
        yield ref.check(backbone.norm_tokens(joint.joined(tokens, first))[:, 0], "cls_tokens")
        yield ref.check(backbone.encode_image(clips, normalize=False), "output")


@compares("open-vclip", "open_vclip")
def open_vclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The average of epochs, what is kept of it, and the gradient of a step."""
    first, last = ref.setting("wa_start"), ref.setting("wa_end")
    names = [key.removeprefix("clip.") for key in ref.tensors if key.startswith("clip.")]
    clip, towers = _under(ref, "clip."), nn.ParameterDict({name: ref[f"epoch1.{name}"].clone() for name in names})
    average = {name: value.clone() for name, value in clip.items()}
    hook = EpochAverageHook(average, PLAIN_MEAN, first)
    for epoch in range(1, last + 1):
        towers.load_state_dict(_under(ref, f"epoch{epoch}."))
        hook.after_train_epoch(SimpleNamespace(epoch=epoch - 1, model=SimpleNamespace(towers=towers)))
    for name in names:
        yield ref.check(average[name], f"swa.{name}")
    for key, percent, name in ref.keys(r"patched(\d+)\.(.+)"):
        yield ref.check(patched(clip, _under(ref, "swa."), int(percent) / 100)[name], key)
    towers.load_state_dict(_under(ref, "epoch1."))
    between = BetweenWeights(clip, ref.setting("loss_ratio"), float(ref["alpha"]), float(ref["alpha"]))

    def loss() -> Tensor:
        return F.cross_entropy(ref["x"] @ towers["a"].T + towers["b"], ref["y"])

    loss().backward()
    with between.moved(towers, np.random.default_rng(0)):
        (between.ratio * loss()).backward()
    for name in ("a", "b"):
        yield ref.check(towers[name].grad, f"iwo_grad_{name}")


def _clip(vision: Mapping, width: int) -> Backbone:
    """A CLIP of open_clip with QuickGELU, its weights random."""
    config = {"embed_dim": width, "quick_gelu": True, "vision_cfg": dict(vision), "text_cfg": TEXT}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.json"
        path.write_text(json.dumps(config))
        backbone = load_backbone(f"open_clip:{path}@random:0", device="cpu")
        _ = backbone.model
    return backbone


def _branch(ref: Reference) -> dict[str, Tensor]:
    """The branch's own weights under our names."""
    state = {"time_embed.weight": ref["w.STAN_time_embed.weight"]}
    for name, value in _under(ref, "w.STAN_T_layers.").items():
        state[f"temporal.{name.replace('self_attn.', '')}"] = value
    for name, value in _blocks(_under(ref, "w.STAN_S_layers.")).items():
        number, _, part = name.partition(".")
        state[f"spatial.{number}.layer.{part}"] = value
    return state


def _as_open_clip(weights: Mapping[str, Tensor], blocks: str) -> dict[str, Tensor]:
    """An image tower of transformers as open_clip holds it."""
    inside = {name.removeprefix(blocks): value for name, value in weights.items() if name.startswith(blocks)}
    state = {f"transformer.resblocks.{name}": value for name, value in _blocks(inside).items()}
    for theirs, ours in OPEN_CLIP.items():
        for name in (name for name in weights if name == theirs or name.startswith(f"{theirs}.")):
            value = weights[name]
            state[name.replace(theirs, ours)] = value.T if ours == "proj" else value
    return state


def _blocks(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NUMBER.NAME of transformers' layers as of open_clip's blocks."""
    renamed = {"self_attn.out_proj": "attn.out_proj", "layer_norm": "ln_"}
    renamed |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    state: dict[str, Tensor] = {}
    for name, value in weights.items():
        if any(f".{part}." in name for part in QKV):
            continue
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        state[name] = value
    for number in sorted({name.partition(".")[0] for name in weights}):
        for kind in ("weight", "bias"):
            parts = [weights[f"{number}.self_attn.{part}.{kind}"] for part in QKV]
            state[f"{number}.attn.in_proj_{kind}"] = torch.cat(parts)
    return state


def _under(ref: Reference, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): ref[key] for key in ref.tensors if key.startswith(prefix)}


def _count(ref: Reference, prefix: str) -> int:
    """How many blocks have weights under a prefix."""
    return len({name.partition(".")[0] for name in _under(ref, prefix)})


def _load(module: nn.Module, state: Mapping[str, Tensor], free: tuple[str, ...] = ()) -> None:
    """All weights of a module but some that the comparison does not reach."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    if set(missing) != set(free) or unexpected:
        raise KeyError(f"weights of {type(module).__name__}: missing {missing[:3]}, not known {unexpected[:3]}")


GROUPS = (x_clip, stan, open_vclip)
