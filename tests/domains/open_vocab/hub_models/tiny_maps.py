"""Tiny random models of transformers that give maps or masks, built offline, and scenes to train them on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIDE = 64


def swin() -> dict[str, Any]:
    """A backbone of four levels."""
    return {
        "model_type": "swin",
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "drop_path_rate": 0.0,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "image_size": SIDE,
    }


def segformer() -> dict[str, Any]:
    return {
        "model_type": "segformer",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 16, 32, 32],
        "num_attention_heads": [1, 1, 2, 2],
        "mlp_ratios": [2, 2, 2, 2],
        "decoder_hidden_size": 32,
        "classifier_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    }


def upernet() -> dict[str, Any]:
    return {
        "model_type": "upernet",
        "backbone_config": {
            "model_type": "convnext",
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "hidden_size": 16,
        "auxiliary_in_channels": 16,
        "auxiliary_channels": 16,
    }


def dpt() -> dict[str, Any]:
    return {
        "model_type": "dpt",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": SIDE,
        "patch_size": 16,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16,
        "semantic_classifier_dropout": 0.0,
    }


def mask2former() -> dict[str, Any]:
    return {
        "model_type": "mask2former",
        "backbone_config": swin(),
        "feature_size": 32,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 32,
        "dim_feedforward": 32,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "num_attention_heads": 2,
        "num_queries": 8,
        "train_num_points": 128,
    }


def maskformer() -> dict[str, Any]:
    return {
        "model_type": "maskformer",
        "backbone_config": swin(),
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
        "decoder_config": {
            "model_type": "detr",
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "num_queries": 8,
            "dropout": 0.0,
        },
    }


def eomt() -> dict[str, Any]:
    return {
        "model_type": "eomt",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_blocks": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": SIDE,
        "patch_size": 8,
        "num_queries": 8,
        "num_upscale_blocks": 1,
        "num_register_tokens": 1,
        "train_num_points": 128,
    }


CLOSED = {make.__name__: make for make in (segformer, upernet, dpt, mask2former, maskformer, eomt)}
PIXELS = ("segformer", "upernet", "dpt")
QUERIES = ("mask2former", "maskformer", "eomt")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE, SHORTEST = {"height": SIDE, "width": SIDE}, {"shortest_edge": SIDE, "longest_edge": 4 * SIDE}
PROCESSORS = {
    "segformer": {"image_processor_type": "SegformerImageProcessor", "size": SQUARE, "do_reduce_labels": True},
    "upernet": {"image_processor_type": "SegformerImageProcessor", "size": SQUARE},
    "dpt": {"image_processor_type": "DPTImageProcessor", "size": SQUARE, "resample": 3},
    "mask2former": {"image_processor_type": "Mask2FormerImageProcessor", "size": SHORTEST, "size_divisor": 32},
    "maskformer": {"image_processor_type": "MaskFormerImageProcessor", "size": SHORTEST, "size_divisor": 32},
    "eomt": {"image_processor_type": "EomtImageProcessor", "size": {"shortest_edge": SIDE}, "do_split_image": True},
}


def written(folder: Path, name: str, names: Sequence[str], seed: int = 0, **options: Any) -> Path:
    """The folder of a model as the hub has it; `options` change its configuration."""
    import torch
    import transformers

    from vladapt.domains.open_vocab.hub_models.family import family_of

    family = family_of({**CLOSED[name](), **options}, len(names))
    config = family.transformers_config()
    config.id2label = dict(enumerate(names))
    config.label2id = {each: row for row, each in enumerate(names)}
    if name == "maskformer":
        config.use_auxiliary_loss = False  # as its checkpoints have it
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, family.model_class)(config)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSORS[name], **IMAGENET}), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return folder


def scenes(folder: Path, count: int = 8) -> Path:
    """COCO files of drawn images, a disc and a square each on grey noise, as train; as test the same but for one pixel,
    since copies may not be tested on."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    categories = [{"id": 1, "name": "red disc"}, {"id": 2, "name": "blue square"}]
    for split in ("train", "test"):
        images, annotations = [], []
        for number in range(count):
            picture, outlines = _scene(number)
            if split == "test":
                picture[0, 0] = 0
            Image.fromarray(picture).save(folder / f"{split}_{number}.png")
            images.append({"id": number, "file_name": f"{split}_{number}.png", "width": SIDE, "height": SIDE})
            for category, (x, y, side, outline) in enumerate(outlines, 1):
                flat = [round(float(value), 2) for corner in outline for value in corner]
                box = {"bbox": [x, y, side, side], "area": side * side, "segmentation": [flat], "iscrowd": 0}
                place = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
                annotations.append({**place, **box})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _scene(number: int):
    """(64, 64, 3) uint8, and left, upper edge, side and outline of the disc and of the square."""
    import numpy as np
    from PIL import Image, ImageDraw

    random = np.random.default_rng(number)
    picture = Image.fromarray(random.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8))
    outlines = []
    for category, colour in enumerate(((214, 40, 40), (38, 84, 214))):
        x = 4 + 32 * ((category + number) % 2) + int(random.integers(0, 6))
        y, side = int(random.integers(4, 36)), int(random.integers(18, 22))
        outline = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
        if category == 0:
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            outline = [(x + side / 2 * (1 + np.cos(angle)), y + side / 2 * (1 + np.sin(angle))) for angle in angles]
        ImageDraw.Draw(picture).polygon(outline, fill=colour)
        outlines.append((x, y, side, outline))
    return np.array(picture), outlines
