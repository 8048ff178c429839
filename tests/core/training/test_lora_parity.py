"""CLIP-LoRA beside its released code: the tiny CLIP of open_clip, and the same weights in transformers."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from vladapt.core.backbones.load import load_backbone
from vladapt.core.training.lora import add_lora, load_lora_state, merge_lora

pytest.importorskip("peft", reason="extra fine-tune is not installed")


def transformers_folder(folder, parity_dir):
    """The tiny CLIP under the names of transformers."""
    import transformers

    given, state = json.loads((parity_dir / "tiny_clip.json").read_text()), {}
    vision, text = given["vision_cfg"], given["text_cfg"]
    same = {"hidden_act": "quick_gelu", "projection_dim": given["embed_dim"]}
    config = transformers.CLIPConfig(
        projection_dim=given["embed_dim"],
        text_config={
            **same, "hidden_size": text["width"], "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"],
            "vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"], "eos_token_id": 2,
        },
        vision_config={
            **same, "hidden_size": vision["width"], "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
        },
    )  # fmt: skip
    whole = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final": "text_model.final_layer_norm",
        "visual.transformer.resblocks": "vision_model.encoder.layers",
        "transformer.resblocks": "text_model.encoder.layers",
    }
    inside = {
        ".ln_1.": ".layer_norm1.", ".ln_2.": ".layer_norm2.", ".mlp.c_fc.": ".mlp.fc1.", ".mlp.c_proj.": ".mlp.fc2.",
        ".attn.": ".self_attn.",
    }  # fmt: skip
    for name, value in load_file(parity_dir / "tiny_clip.safetensors").items():
        if name == "visual.proj":
            state["visual_projection.weight"] = value.T.contiguous()
        elif name == "text_projection":
            state["text_projection.weight"] = value.T.contiguous()
        elif name == "logit_scale":
            state[name] = value
        else:
            old = next(old for old in whole if name.startswith(old))
            name = whole[old] + name[len(old) :]
            for here, there in inside.items():
                name = name.replace(here, there)
            if "in_proj_" in name:
                for part, piece in zip("qkv", value.chunk(3)):
                    state[name.replace("in_proj_", f"{part}_proj.")] = piece.clone()
            else:
                state[name] = value
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return f"hf:{folder}"


@pytest.fixture(params=["open_clip", "transformers"])
def tiny_clip(request, parity_dir, tmp_path):
    """The reference code's tiny CLIP, and the names of its six attentions, text first."""
    if request.param == "open_clip":
        spec = f"open_clip:{parity_dir / 'tiny_clip.json'}@{parity_dir / 'tiny_clip.safetensors'}"
        places = [f"{tower}transformer.resblocks.{i}.attn" for tower in ("", "visual.") for i in range(3)]
    else:
        spec = transformers_folder(tmp_path, parity_dir)
        places = [f"{tower}_model.encoder.layers.{i}.self_attn" for tower in ("text", "vision") for i in range(3)]
    return load_backbone(spec, "cpu"), places


def test_equals_the_reference_code_in_values_and_gradients(tiny_clip, parity_dir):
    tower, places = tiny_clip
    given = load_file(parity_dir / "dev" / "clip_lora.safetensors")
    tolerance = json.loads((parity_dir / "dev" / "clip_lora.json").read_text())["tolerance"]
    add_lora(tower, dropout=0.0)
    named = {
        f"{place}.{part}_proj.lora_{matrix}": given[f"layer{i}_{part}_{matrix}"]
        for i, place in enumerate(places)
        for part in "qkv"
        for matrix in "AB"
    }
    load_lora_state(tower, named)
    tower.model.train()
    image, text = tower.encode_image(given["pixels"], False), tower.encode_text(given["tokens"], False)
    torch.testing.assert_close(image, given["image_features_train"], **tolerance)
    torch.testing.assert_close(text, given["text_features_train"], **tolerance)
    logits = tower.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    loss = F.cross_entropy(logits, given["labels"])
    torch.testing.assert_close(loss, given["loss"], **tolerance)
    loss.backward()
    gradient = {name: p.grad for name, p in tower.model.named_parameters() if p.grad is not None}
    assert len(gradient) == len(named)
    for layer, part, matrix in ((0, "q", "A"), (0, "v", "B"), (5, "q", "A"), (5, "v", "B")):
        found = gradient[f"{places[layer]}.{part}_proj.lora_{matrix}.lora.weight"]
        torch.testing.assert_close(found, given[f"grad_layer{layer}_{part}_{matrix}"], **tolerance)

    merge_lora(tower)
    tower.model.eval()
    torch.testing.assert_close(tower.encode_image(given["pixels"], False), given["image_features_merged"], **tolerance)
    torch.testing.assert_close(tower.encode_text(given["tokens"], False), given["text_features_merged"], **tolerance)
    attention = tower.model.get_submodule(places[0])
    weight = attention.in_proj_weight[:64] if hasattr(attention, "in_proj_weight") else attention.q_proj.weight
    torch.testing.assert_close(weight, given["merged_q_weight_layer0"], **tolerance)
