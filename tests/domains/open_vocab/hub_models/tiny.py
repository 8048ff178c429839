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


def rt_detr(names: Sequence[str] = NAMES, **options):
    """RT-DETR."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    return _built(RTDetrForObjectDetection, RTDetrConfig, names, {**_rt_options(), **options}), RT_DETR


def d_fine(names: Sequence[str] = NAMES, **options):
    """D-FINE of 0.3 million weights."""
    from transformers import DFineConfig, DFineForObjectDetection

    own = {**_rt_options(), **_hgnet(), "max_num_bins": 8, "lqe_hidden_dim": 8, "encoder_in_channels": [16, 16]}
    own |= {"feat_strides": [8, 16], "num_feature_levels": 2, "decoder_in_channels": [32] * 2}
    own |= {"decoder_n_points": [2, 2], "encode_proj_layers": [1], "depth_mult": 0.34, "hidden_expansion": 0.5}
    return _built(DFineForObjectDetection, DFineConfig, names, {**own, **options}), RT_DETR


def deimv2(names: Sequence[str] = NAMES, **options):
    """DEIMv2 with HGNetv2."""
    from transformers import Deimv2Config, Deimv2ForObjectDetection

    own = {**_rt_options(), **_hgnet(), "max_num_bins": 8, "lqe_hidden_dim": 8, "encoder_in_channels": [16, 16]}
    own |= {"feat_strides": [8, 16], "num_feature_levels": 2, "decoder_in_channels": [32] * 2}
    own |= {"decoder_n_points": [2, 2], "encode_proj_layers": [1], "depth_mult": 0.34, "hidden_expansion": 0.5}
    return _built(Deimv2ForObjectDetection, Deimv2Config, names, {**own, **options}), RT_DETR


def _hgnet():
    backbone = {
        "model_type": "hgnet_v2",
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 16, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 16, 16],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_downsample": [False, True, True, True],
        "stage_light_block": [False, False, True, True],
        "stage_kernel_size": [3, 3, 3, 3],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "embedding_size": 8,
        "hidden_sizes": [16, 16, 16, 16],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage2", "stage3"],
    }
    return {"backbone_config": backbone}


def lw_detr(names: Sequence[str] = NAMES, **options):
    """LW-DETR."""
    from transformers import LwDetrConfig, LwDetrForObjectDetection

    backbone = {
        "model_type": "lw_detr_vit",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "pretrain_image_size": SIDE,
        "patch_size": 8,
        "num_windows": 4,
        "window_block_indices": [0],
        "out_indices": [1, 2],
        "mlp_ratio": 2,
    }
    own = {"backbone_config": backbone, "projector_scale_factors": [1.0], **_lw_options()}
    processor = {"image_processor_type": "DeformableDetrImageProcessor", "do_pad": False, **SQUARE, **IMAGENET}
    return _built(LwDetrForObjectDetection, LwDetrConfig, names, {**own, **options}), processor


def rf_detr(names: Sequence[str] = NAMES, masks: bool = False, **options):
    """RF-DETR of 0.1 million weights, for boxes, or for boxes and masks."""
    import transformers

    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
        "num_windows": 2,
        "out_features": ["stage1", "stage2"],
        "mlp_ratio": 2,
    }
    own = {"backbone_config": backbone, **_lw_options(), "dropout": 0.0, "intermediate_size": 32}
    own |= {"mask_downsample_ratio": 4}
    kind = "RfDetrForInstanceSegmentation" if masks else "RfDetrForObjectDetection"
    return _built(getattr(transformers, kind), transformers.RfDetrConfig, names, {**own, **options}), RF_DETR


def rf_detr_masks(names: Sequence[str] = NAMES, **options):
    """RF-DETR for boxes and masks."""
    return rf_detr(names, masks=True, **options)


def _lw_options():
    return {
        "d_model": 32,
        "decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "decoder_self_attention_heads": 2,
        "decoder_cross_attention_heads": 2,
        "decoder_n_points": 2,
        "num_queries": 20,
        "group_detr": 2,
        "c2f_num_blocks": 1,
    }


def detr(names: Sequence[str] = NAMES, **options):
    """DETR."""
    from transformers import DetrConfig, DetrForObjectDetection

    return _built(DetrForObjectDetection, DetrConfig, names, {**_detr_options(), **options}), DETR


def conditional_detr(names: Sequence[str] = NAMES, **options):
    """Conditional DETR."""
    from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection

    own = {**_detr_options(), **options}
    processor = {**DETR, "image_processor_type": "ConditionalDetrImageProcessor"}
    return _built(ConditionalDetrForObjectDetection, ConditionalDetrConfig, names, own), processor


def deformable_detr(names: Sequence[str] = NAMES, **options):
    """Deformable DETR."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    backbone = {**_resnet(), "out_features": ["stage2", "stage3", "stage4"]}
    own = {**_detr_options(), "backbone_config": backbone, "num_feature_levels": 4, "encoder_n_points": 2}
    own |= {"decoder_n_points": 2, "with_box_refine": True, "disable_custom_kernels": True}
    processor = {**DETR, "image_processor_type": "DeformableDetrImageProcessor"}
    return _built(DeformableDetrForObjectDetection, DeformableDetrConfig, names, {**own, **options}), processor


def _resnet():
    return {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage4"],
    }


def _detr_options():
    return {
        "backbone_config": _resnet(),
        "use_timm_backbone": False,
        "d_model": 32,
        "num_queries": 12,
        "encoder_layers": 1,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "dropout": 0.0,
    }


def yolos(names: Sequence[str] = NAMES, **options):
    """YOLOS."""
    from transformers import YolosConfig, YolosForObjectDetection

    own = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": [48, 80],
        "num_detection_tokens": 12,
    }
    processor = {**DETR, "image_processor_type": "YolosImageProcessor"}
    return _built(YolosForObjectDetection, YolosConfig, names, {**own, **options}), processor
