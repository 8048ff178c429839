"""Rate and weight decay of each weight of a type, as its authors fine-tune it, where parts of it have their own."""

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

from mmengine.optim import build_optim_wrapper
from torch import nn

from vladapt.domains.open_vocab.hub_models.family import Family, family_of, plain_config
from vladapt.domains.open_vocab.hub_models.starting import _schedule

from . import tiny_maps, tiny_texts

BLOCKS = tiny_maps.eomt()["num_hidden_layers"]
EMBEDDINGS = tuple(
    f"model.transformer_module.{name}" for name in ("queries_embedder", "queries_features", "level_embed")
)
NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)


def of_grounding(towers):
    return lambda name, norm: (towers if "backbone" in name else 1e-4, 1e-4)


def of_owl(name, norm):
    return 5e-5 * (0.04 if name.startswith(("owlv2.text_", "owlvit.text_")) else 1), 0.0


def of_mask2former(name, norm):
    spared = norm or "relative_position_bias_table" in name or name.startswith(EMBEDDINGS)
    return 1e-5 if name.startswith("model.pixel_level_module.encoder.") else 1e-4, 0.0 if spared else 0.05


def of_eomt(name, norm):
    block = {"embeddings": 0, **{f"layers.{number}": number for number in range(BLOCKS)}}
    depth = next((number for start, number in block.items() if name.startswith(f"{start}.")), BLOCKS - 1)
    return 1e-4 * 0.8 ** (BLOCKS - 1 - depth), 0.05


def of_segformer(name, norm):
    return 6e-4 if name.startswith("decode_head.") else 6e-5, 0.0 if norm else 0.01


def of_dpt(name, norm):
    return 1e-5 if name.startswith("dpt.") else 1e-4, 0.0 if norm else 0.01


def of_maskformer(name, norm):
    spared = norm or "relative_position_bias_table" in name or "queries_embedder" in name
    return 6e-5, 0.0 if spared else 0.01


RULES = {
    "mm-grounding-dino": of_grounding(0.0),
    "grounding-dino": of_grounding(1e-5),
    "owlv2": of_owl,
    "owlvit": of_owl,
    "mask2former": of_mask2former,
    "maskformer": of_maskformer,
    "upernet": of_maskformer,
    "eomt": of_eomt,
    "segformer": of_segformer,
    "dpt": of_dpt,
}


def family_of_tiny(kind: str) -> Family:
    if kind in tiny_maps.CLOSED:
        swin = {"backbone_config": tiny_maps.swin()} if kind == "upernet" else {}
        return family_of({**tiny_maps.CLOSED[kind](), **swin}, 3)
    return family_of(plain_config(tiny_texts.config_of(kind).to_dict()), 0)


@pytest.mark.parametrize("kind", RULES)
def test_each_weight_has_the_rate_and_the_decay_of_its_part(kind):
    family = family_of_tiny(kind)
    model = family.build()
    wrapper = build_optim_wrapper(model, _schedule(family.rates)["optim_wrapper"])
    groups = {id(group["params"][0]): group for group in wrapper.optimizer.param_groups}
    norms = {id(weight) for part in model.modules() if isinstance(part, NORMS) for weight in part.parameters()}
    assert norms
    pairs = set()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            group = groups.pop(id(weight))
            assert (group["lr"], group["weight_decay"]) == pytest.approx(RULES[kind](name, id(weight) in norms)), name
            pairs.add((group["lr"], group["weight_decay"]))
    assert not groups and len(pairs) > 1
