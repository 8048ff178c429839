"""CLIP-LoRA beside its released code: the tiny CLIP of open_clip, and the same weights in transformers."""

import json

import pytest
from parity_checks.towers import check_lora, lora
from safetensors.torch import load_file, save_file

from vladapt.core.backbones.load import load_backbone

pytest.importorskip("peft", reason="extra fine-tune is not installed")


def transformers_folder(folder, config_file, weights):
    """The tiny CLIP under the names of transformers."""
    import transformers

    given, state = json.loads(config_file.read_text()), {}
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
    for name, value in load_file(weights).items():
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


@pytest.mark.parametrize("family", ["open_clip", "transformers"])
def test_equals_the_reference_code_in_values_and_gradients(references, parity, tmp_path, family):
    for ref in references(lora):
        files = parity.tower_files(ref)
        if family == "open_clip":
            spec, attention = f"open_clip:{files[0]}@{files[1]}", "{}transformer.resblocks.{}.attn"
        else:
            spec, attention = transformers_folder(tmp_path, *files), "{}_model.encoder.layers.{}.self_attn"
        towers = {"text": "", "image": "visual."} if family == "open_clip" else {"text": "text", "image": "vision"}
        backbone = load_backbone(spec, "cpu")
        places = [attention.format(name, i) for kind, name in towers.items() for i in range(len(backbone.blocks(kind)))]
        for check in check_lora(ref, backbone, places):
            assert check.share <= 1, check
