"""Tiny models of the Segment Anything family with random weights, built offline, and their processors."""

from __future__ import annotations

import torch

PROMPTS = {"hidden_size": 32, "mask_input_channels": 4}
DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 8}


def tiny_sam(side: int = 64, seed: int = 0):
    """SAM and its processor."""
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": side, "patch_size": 16, "mlp_dim": 32, "window_size": 2, "global_attn_indexes": [1]}
    prompts = {**PROMPTS, "image_size": side, "patch_size": 16}
    config = SamConfig(
        vision_config={**vision, "num_pos_feats": 16}, prompt_encoder_config=prompts, mask_decoder_config=DECODER
    )
    processor = SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    return _seeded(SamModel, config, seed), SamProcessor(processor)


def tiny_sam2(side: int = 64, seed: int = 0):
    """SAM 2 and its processor."""
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    hiera = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [side, side]}
    hiera |= {"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64]}
    hiera |= {"num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 4, 4]}
    hiera |= {"global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4]}
    vision = {"backbone_config": hiera, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32}
    vision["backbone_feature_sizes"] = [[side // step] * 2 for step in (4, 8, 16)]
    prompts = {**PROMPTS, "image_size": side, "patch_size": 16}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=DECODER)
    processor = Sam2ImageProcessor(size={"height": side, "width": side})
    return _seeded(Sam2Model, config, seed), Sam2Processor(processor)


def sam3_vision(side: int = 56) -> dict:
    """SAM 3's encoder."""
    backbone = {"model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    backbone |= {"num_attention_heads": 2, "image_size": side, "patch_size": 14, "window_size": 2}
    backbone |= {"global_attn_indexes": [0], "pretrain_image_size": 28}
    grid = side // 14
    sizes = [[grid * 4] * 2, [grid * 2] * 2, [grid] * 2]
    return {"backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": sizes}


def tiny_tracker(side: int = 56, seed: int = 0):
    """SAM 3's tracker of images and its processor."""
    from transformers import Sam2Processor, Sam3ImageProcessor, Sam3TrackerConfig, Sam3TrackerModel

    prompts = {**PROMPTS, "image_size": side, "patch_size": 14}
    config = Sam3TrackerConfig(
        vision_config=sam3_vision(side), prompt_encoder_config=prompts, mask_decoder_config=DECODER
    )
    processor = Sam3ImageProcessor(size={"height": side, "width": side})
    return _seeded(Sam3TrackerModel, config, seed), Sam2Processor(processor)


TINY = {"sam": tiny_sam, "sam2": tiny_sam2, "sam3_tracker": tiny_tracker}


def _seeded(kind, config, seed: int):
    """Weights large enough for masks that are no constants."""
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() > 1:
                value.normal_(std=0.15)
    return model


def saved(folder, model, processor) -> str:
    """A folder as the hub holds one; as a place, hf:FOLDER."""
    model.save_pretrained(folder)
    getattr(processor, "image_processor", processor).save_pretrained(folder)
    return f"hf:{folder}"


WORDS = ("[PAD]", "[UNK]", "<start>", "<end>", "red", "blue", "star", "square", "visual", "object", "thing")


def sam3_config(side: int = 56):
    """Of SAM 3's detector."""
    from transformers import Sam3Config

    text = {"model_type": "clip_text_model", "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 32}
    text |= {"projection_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
    part = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "dropout": 0.0}
    return Sam3Config(
        vision_config=sam3_vision(side),
        text_config={**text, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},
        geometry_encoder_config={**part, "roi_size": 3},
        detr_encoder_config=part,
        detr_decoder_config={**part, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )


def tiny_sam3(side: int = 56, seed: int = 0):
    """SAM 3's detector and its processor, with a tokenizer of a few words."""
    from transformers import Sam3ImageProcessor, Sam3Model, Sam3Processor

    processor = Sam3Processor(Sam3ImageProcessor(size={"height": side, "width": side}), words())
    return _seeded(Sam3Model, sam3_config(side), seed), processor


def words():
    """A tokenizer of transformers that knows `WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<start>", 2), ("<end>", 3)]
    own.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]", bos_token="<start>", eos_token="<end>"
    )


def saved_sam3(folder, model, processor) -> str:
    """A folder as the hub holds one; as a place, hf:FOLDER."""
    processor.tokenizer.save_pretrained(folder)
    return saved(folder, model, processor)
