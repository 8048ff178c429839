"""Backbones of transformers: `hf:<repo id or folder>`.

CLIP (arXiv 2103.00020), MetaCLIP 2 (arXiv 2507.22062), SigLIP (arXiv 2303.15343), SigLIP 2 (arXiv 2502.14786),
Chinese-CLIP (arXiv 2211.01335), AltCLIP (arXiv 2211.06679), ALIGN (arXiv 2102.05918), and the towers of the detectors
OWL-ViT (arXiv 2205.06230) and OWLv2 (arXiv 2306.09683). Image towers alone are those of
`hf_image_only.py`.

Code that comes with a repository is never run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from ..contracts.images import ImageSize, InputChannels, as_image_size
from ..errors import CapabilityError, DataError
from .checkpoints import copy_files
from .classifiers import Classifier, named_classifier, named_labels
from .hf_image_only import ClipVisionTower, Dinov2Tower, Dinov3Tower, StagesTower, VitTower
from .hf_source import TOKENIZER_FILES, HfSource, find_source, hf_tokenizer, quiet, weight_files
from .hf_towers import (
    AlignImageTower,
    BertTextTower,
    ClipImageTower,
    ClipTextTower,
    NaflexImageTower,
    OwlImageTower,
    RobertaTextTower,
    SiglipImageTower,
    SiglipTextTower,
)
from .image_only import SCALE
from .native_aspect import NativeAspect
from .spec_options import Patches
from .tower_steps import ImageTower, TextTower
from .two_tower import TwoTower, fingerprint

TOWERS: dict[str, tuple[type[ImageTower], type[TextTower] | None]] = {
    "clip": (ClipImageTower, ClipTextTower),
    "metaclip_2": (ClipImageTower, ClipTextTower),
    "altclip": (ClipImageTower, RobertaTextTower),
    "chinese_clip": (ClipImageTower, BertTextTower),
    "siglip": (SiglipImageTower, SiglipTextTower),
    "siglip2": (NaflexImageTower, SiglipTextTower),
    "align": (AlignImageTower, BertTextTower),
    "owlvit": (OwlImageTower, ClipTextTower),
    "owlv2": (OwlImageTower, ClipTextTower),
    "dinov2": (Dinov2Tower, None),
    "dinov2_with_registers": (Dinov2Tower, None),
    "dinov3_vit": (Dinov3Tower, None),
    "dinov3_convnext": (StagesTower, None),
    "vit": (VitTower, None),
    "deit": (VitTower, None),
    "clip_vision_model": (ClipVisionTower, None),
    "siglip_vision_model": (SiglipImageTower, None),
    "convnext": (StagesTower, None),
    "convnextv2": (StagesTower, None),
    "resnet": (StagesTower, None),
    "swin": (StagesTower, None),
    "swinv2": (StagesTower, None),
}
COMPANIONS = (
    *TOKENIZER_FILES,
    *("tokenizer_config.json", "special_tokens_map.json", "merges.txt", "added_tokens.json"),
    *("preprocessor_config.json", "processor_config.json", "README.md"),
)
UNPOOLED = frozenset({"vit", "deit"})
"""Kinds whose feature is the class token itself."""
OF_CLASSES = ("classifier", "classifier.1")
"""What the classifiers of images are called; a ResNet's stands behind a layer that flattens."""
# Before transformers 4.31 CLIP's configurations named this end-of-text token, which no text has.
LEGACY_EOS = 2


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> HfBackbone:
    """The backbone `hf:<rest>`; see `load_backbone`."""
    return HfBackbone(find_source(rest, image_size), spec, device)


def rebuild(
    description: dict, weights: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> HfBackbone:
    """The backbone of weights that were trained here, with the configuration beside them."""
    size = image_size or as_image_size(description["image_size"])
    return HfBackbone(find_source(str(weights.parent), size), spec, device)


class HfBackbone(TwoTower):
    """A model of transformers.

    Args:
        source: its configuration, files and preprocessing.
        spec: as the user wrote it.
        device: where its towers go when they are built.
    """

    family = "hf"
    native: Patches | None = None
    """How many patches images become that keep their aspect ratio; None: they are squares."""

    def __init__(self, source: HfSource, spec: str, device: torch.device):
        super().__init__()
        self.source, self.spec, self.device = source, spec, device
        self.transform, self.licence, self.has_text = source.transform, source.licence, source.has_text
        self.embed_dim, self.context_length = source.embed_dim, source.context_length
        self.capabilities, self.turned = _capabilities(source.kind), TOWERS[source.kind][0].turned
        self.fingerprint = fingerprint("hf", source.stated, source.digests, source.transform.spec)

    @property
    def logit_scale(self) -> Tensor:
        if self.source.kind == "align":
            return 1 / self.model.temperature.reshape(())
        if not self.has_text:
            return torch.tensor(SCALE)
        return super().logit_scale

    @property
    def description(self) -> dict:
        """What the folder's own files do not say."""
        return {"kind": self.source.kind, "image_size": self.image_size}

    def save_companions(self, folder: Path) -> None:
        """The configuration and the files of tokenizer and preprocessing."""
        self.model.config.save_pretrained(folder)
        copy_files(self.source.folder, folder, COMPANIONS)

    def keep_aspect(self, patches: Patches) -> None:
        if self.source.kind != "siglip2" or self.channels is not None:
            super().keep_aspect(patches)
        self.native, self._towers = patches, None
        self.transform = NativeAspect.of(self.transform, self.source.config.vision_config.patch_size, patches.most)
        self.in_rows = True
        self.fingerprint = fingerprint("hf", ["native aspect"], self.fingerprint, self.transform.spec)
        self.capabilities = self.capabilities - {"image_blocks", "image_tokens", "feature_maps"}

    def widen(self, channels: InputChannels) -> None:
        if self.native is not None:
            raise CapabilityError(f"backbone '{self.spec}' takes pictures of three channels alone; omit #patches")
        super().widen(channels)

    def build_model(self) -> nn.Module:
        folder = self.source.folder
        try:
            with quiet():
                model, info = transformers.AutoModel.from_pretrained(
                    folder,
                    config=self.source.config,
                    local_files_only=True,
                    trust_remote_code=False,
                    weights_only=True,
                    output_loading_info=True,
                    **({"add_pooling_layer": False} if self.source.kind in UNPOOLED else {}),
                )
        except Exception as error:  # transformers, safetensors and torch raise many kinds for a bad file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"{folder}: its weights cannot be read ({reason}); copy or download them again") from error
        missing = sorted(key for key in info["missing_keys"] if not key.endswith("position_ids"))
        if missing:
            few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise DataError(
                f"{folder}: the weights do not match config.json, {len(missing)} are missing ({few}); put both files "
                "of one model there"
            )
        return model

    def classifier_of_names(self) -> Classifier | None:
        if self.has_text:
            return None
        names = named_labels(self.source.stated.get("id2label") or {})
        return named_classifier(weight_files(self.source.folder), OF_CLASSES, names, self.embed_dim)

    def build_towers(self, model: nn.Module) -> tuple[ImageTower, TextTower | None]:
        image, text = TOWERS[self.source.kind]
        opened = image(model)
        if isinstance(opened, NaflexImageTower):
            opened.native = self.native is not None
        return opened, None if text is None else text(model)

    def build_tokenizer(self) -> Callable[[list[str]], Tensor]:
        return hf_tokenizer(self.source.folder, self.context_length)

    def token_mask(self, tokens: Tensor) -> Tensor:
        text = self.source.config.text_config
        tower = TOWERS[self.source.kind][1]
        if tower.masked:
            return tokens != text.pad_token_id
        if not tower.causal:
            return torch.ones_like(tokens, dtype=torch.bool)
        marks = tokens if text.eos_token_id == LEGACY_EOS else (tokens == text.eos_token_id).int()
        return torch.arange(tokens.shape[1], device=tokens.device) <= marks.argmax(dim=1, keepdim=True)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        if self.source.kind == "siglip2":
            patches, mask, grid = self._image.patches(pixels)
            inputs = {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": grid}
            return _features(self.model.get_image_features(**inputs))
        if "image_blocks" in self.capabilities and self.image_size != self.source.trained_size:
            return self.pool_image(self.run_blocks("image", self.embed_image(pixels)), normalize=False)
        if not self.has_text:
            made = self.model(pixel_values=pixels)
            pooled = made.last_hidden_state[:, 0] if self.source.kind in UNPOOLED else made.pooler_output
            return pooled.flatten(1)  # of a ResNet (B, D, 1, 1)
        return _features(self.model.get_image_features(pixel_values=pixels))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        mask = self.token_mask(tokens).long() if "trim" in self.capabilities else None
        return _features(self.model.get_text_features(input_ids=tokens, attention_mask=mask))


def _capabilities(kind: str) -> frozenset[str]:
    image, text = TOWERS[kind]
    capabilities = {"hidden", "image_tokens", "feature_maps"}
    if text is not None:
        capabilities |= {"prompt", "text_blocks"}
    if image not in (AlignImageTower, StagesTower):
        capabilities.add("image_blocks")
    if text is not None and (text.causal or text.masked):
        capabilities.add("trim")
    return frozenset(capabilities)


def _features(output) -> Tensor:
    """transformers 4 gives the tensor, 5 an output with it."""
    return output if isinstance(output, Tensor) else output.pooler_output
