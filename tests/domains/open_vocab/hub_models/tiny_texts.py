"""Tiny models of transformers whose classes are texts, with processor and tokenizer, written as a hub's folder is."""

from __future__ import annotations

import string
from pathlib import Path

import torch

WORDS = ("red", "green", "blue", "square", "circle", "triangle", "st", "bernard", "photo", "of", "bad", "the")
SIDE = 64


def bert_tokenizer():
    """Letters and a few words, with the numbers of the special tokens that Grounding DINO has in its code."""
    from transformers import BertTokenizer

    names = {number: f"[unused{number}]" for number in range(1030)}
    names |= {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1010: ",", 1012: ".", 1029: "?"}
    signs = string.ascii_lowercase + string.digits
    vocab = {name: number for number, name in names.items()}
    for name in (*WORDS, *signs, *(f"##{sign}" for sign in signs), "-", "(", ")"):
        vocab.setdefault(name, len(vocab))
    return BertTokenizer(vocab=vocab)


def clip_tokenizer(length: int):
    """Letters and a few words; the end's number is the largest, which CLIP's towers pool by."""
    from transformers import CLIPTokenizer

    signs = string.ascii_lowercase + string.digits + ".,-?!"
    vocab = {"!": 0}
    for sign in signs:
        vocab.setdefault(sign, len(vocab))
        vocab.setdefault(f"{sign}</w>", len(vocab))
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            joined = parts[0] + parts[1]
            if (pair := f"{parts[0]} {parts[1]}") not in merges:
                merges.append(pair)
            vocab.setdefault(joined, len(vocab))
            parts = [joined, *parts[2:]]
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    pairs = [tuple(pair.split()) for pair in merges]
    return CLIPTokenizer(vocab=vocab, merges=pairs, pad_token="!", model_max_length=length)


def _swin(side: int = SIDE) -> dict:
    return {
        "model_type": "swin",
        "image_size": side,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "drop_path_rate": 0.0,
        "out_indices": [2, 3, 4],
    }


def grounding_config(model_type: str = "mm-grounding-dino", **options):
    """Of Grounding DINO, mmdet's by default."""
    from transformers import AutoConfig

    text = {
        "model_type": "bert",
        "vocab_size": 1200,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    sizes = {
        "d_model": 64,  # two channels per group, for levels of one pixel
        "num_queries": 20,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_n_points": 2,
        "decoder_n_points": 2,
        "num_feature_levels": 4,
        "dropout": 0.0,
        "fusion_droppath": 0.0,
    }
    return AutoConfig.for_model(model_type, backbone_config=_swin(), text_config=text, **{**sizes, **options})


def owl_config(model_type: str = "owlv2", **options):
    """Of OWL-ViT or OWLv2."""
    from transformers import AutoConfig

    tokens = clip_tokenizer(16)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **sizes,
        "vocab_size": len(tokens),
        "max_position_embeddings": 16,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": 0,
    }
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    return AutoConfig.for_model(model_type, text_config=text, vision_config=vision, projection_dim=32, **options)


def omdet_config(**options):
    """Of OmDet-Turbo."""
    from transformers import AutoConfig

    tokens = clip_tokenizer(77)
    text = {
        "model_type": "clip_text_model",
        "vocab_size": len(tokens),
        "hidden_size": 48,
        "intermediate_size": 32,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": 0,
    }
    sizes = {
        "image_size": SIDE,
        "apply_layernorm_after_vision_backbone": False,
        "text_projection_in_dim": 48,
        "text_projection_out_dim": 48,
        "task_encoder_hidden_dim": 48,
        "class_embed_dim": 48,
        "num_queries": 20,
        "encoder_hidden_dim": 32,
        "vision_features_channels": [32, 32, 32],
        "encoder_in_channels": [16, 32, 64],
        "encoder_attention_heads": 2,
        "encoder_dim_feedforward": 32,
        "decoder_hidden_dim": 32,
        "decoder_num_heads": 2,
        "decoder_num_layers": 2,
        "decoder_dim_feedforward": 32,
        "decoder_num_points": 2,
    }
    return AutoConfig.for_model("omdet-turbo", backbone_config=_swin(), text_config=text, **{**sizes, **options})


def processor_of(model_type: str, side: int = SIDE):
    """With images of `side` pixels."""
    import transformers as hf

    square = {"height": side, "width": side}
    if model_type in ("mm-grounding-dino", "grounding-dino"):
        images = hf.GroundingDinoImageProcessor(size={"shortest_edge": side, "longest_edge": 2 * side})
        return hf.GroundingDinoProcessor(images, bert_tokenizer())
    if model_type == "owlv2":
        return hf.Owlv2Processor(hf.Owlv2ImageProcessor(size=square), clip_tokenizer(16))
    if model_type == "owlvit":
        images = hf.OwlViTImageProcessor(size=square, crop_size=square)
        return hf.OwlViTProcessor(images, clip_tokenizer(16))
    images = hf.DetrImageProcessor(size=square, do_pad=False)
    return hf.OmDetTurboProcessor(images, clip_tokenizer(77))


def config_of(model_type: str, **options):
    """Of any type here."""
    if model_type.startswith("owl"):
        return owl_config(model_type, **options)
    return omdet_config(**options) if model_type == "omdet-turbo" else grounding_config(model_type, **options)


def model_of(model_type: str, **options):
    """With random weights, in evaluation."""
    from transformers import AutoModelForZeroShotObjectDetection

    torch.manual_seed(0)
    return AutoModelForZeroShotObjectDetection.from_config(config_of(model_type, **options)).eval()


def write_folder(model_type: str, folder: Path, **options) -> Path:
    """A folder as of the hub: configuration, weights, processor, tokenizer."""
    model_of(model_type, **options).save_pretrained(folder)
    processor_of(model_type).save_pretrained(folder)
    return folder
