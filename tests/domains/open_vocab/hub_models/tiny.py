"""Tiny random models of transformers with closed heads, built offline, and their folders as the hub has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

SIDE = 64
NAMES = ("red circle", "blue square", "green star")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
RT_DETR = {"image_processor_type": "RTDetrImageProcessor", "do_normalize": False, **SQUARE}
RF_DETR = {"image_processor_type": "RfDetrImageProcessor", "do_pad": False, **SQUARE, **IMAGENET}
DETR = {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 48, "longest_edge": 80}, **IMAGENET}


def rt_detr_v2(names: Sequence[str] = NAMES, **options):
    """RT-DETRv2 of 0.2 million weights."""
    from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection

    return _built(RTDetrV2ForObjectDetection, RTDetrV2Config, names, {**_rt_options(), **options}), RT_DETR


def _rt_options():
    backbone = {
        "model_type": "rt_detr_resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    }
    return {
        "backbone_config": backbone,
        "encoder_in_channels": [8, 16, 16],
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "d_model": 32,
        "num_queries": 20,
        "decoder_in_channels": [32] * 3,
        "decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "num_denoising": 10,
    }


def _built(model_class, config_class, names: Sequence[str], options, seed: int = 0):
    torch.manual_seed(seed)
    labels = dict(enumerate(names))
    config = config_class(**options, id2label=labels, label2id={name: row for row, name in labels.items()})
    return model_class(config).eval()


def saved(folder: Path, model, processor, licence: str = "apache-2.0") -> Path:
    """The folder of a model as the hub has it."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# tiny\n", encoding="utf-8")
    return folder
