"""A packaged config without its weights, and for small images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict

from vladapt.domains.open_vocab.plans.plan import SYNCED_NORMS

SIDE = 128
"""Height and width of the images in pixels, where a model does not ask for others."""
WEIGHTS = ("pretrained", "checkpoint", "teacher_ckpt", "load_from", "class_embed_path")
QUERIES = sum((SIDE // stride) ** 2 for stride in (8, 16, 32, 64))
OF_ONE_SIZE = ("BEiT", "MAE")
"""Backbones with a position for each pair of patches."""
LARGER = {"PAAHead": 256, "LADHead": 256, "LRASPPHead": 512}
"""Heads -> the side they need: two fit mixtures to the losses of many boxes, one pools 49 x 49 pixels of features."""
REGIONS = {"num": 64, "nms_pre": 200, "max_per_img": 100}
"""The most regions that are sampled, suppressed and kept per image, by the options of mmdet that say how many."""
PADDING = ("SegDataPreProcessor", "BatchFixedSizePad")
"""What makes images of a batch as large as it says."""


def reduce_config(config: Config, language_model: str) -> None:
    """Take the weights out, make windows and padding as large as the images, bound the number of regions, and make
    norms that are shared over processes plain ones.

    Args:
        config: changed in place.
        language_model: a folder; it takes the place of BERT's name on the hub.
    """
    side = side_of(config)
    for part in parts(config.model):
        for key in WEIGHTS:
            if isinstance(part.get(key), str):
                part[key] = None
        if part.get("pretrained") is True:  # of timm
            part["pretrained"] = False
        if is_pretrained(part.get("init_cfg")):
            part["init_cfg"] = None
        if "lang_model_name" in part:
            part["lang_model_name"] = language_model
        for key, most in REGIONS.items():
            if isinstance(part.get(key), int):
                part[key] = min(part[key], most)
        if part.get("mode") == "slide":
            part.update(crop_size=(side, side), stride=(side, side))
        if part.get("type") in SYNCED_NORMS:
            part["type"] = "BN"
        if part.get("type") in OF_ONE_SIZE:
            part["img_size"] = (side, side)
        if part.get("type") in PADDING and part.get("size"):
            part["size"] = (side, side)
    if "language_model" in config.model:
        config.model.language_model.name = language_model


def side_of(config: Config) -> int:
    """Height and width of the images: `SIDE`, or what the anchors of an SSD are laid out for; more where a head needs
    it, or where more queries are chosen among the pixels of features than the smaller image has.
    """
    sides = [LARGER[part["type"]] for part in parts(config.model) if part.get("type") in LARGER]
    if any(part.get("num_queries", 0) > QUERIES for part in parts(config.model)):
        sides.append(2 * SIDE)
    return max(sides, default=least(config, "input_size", SIDE))


def parts(tree: Any) -> Iterator[ConfigDict]:
    """Each dictionary in a tree of dictionaries and lists, the outer ones first."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from parts(branch)


def is_pretrained(init_cfg: Any) -> bool:
    each = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return any(isinstance(one, dict) and (one.get("type") == "Pretrained" or "checkpoint" in one) for one in each)


def least(config: Config, key: str, otherwise: int) -> int:
    """The smallest whole number that a key has anywhere in the model."""
    return min((part[key] for part in parts(config.model) if isinstance(part.get(key), int)), default=otherwise)
