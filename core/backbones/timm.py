"""Image encoders of timm: `timm:<name>`, `timm:<name>.<tag>`, `timm:<name>@<file>`; `timm:hf-hub:<owner>/<name>` of
others (`timm_hub.py`); with `@random:<seed>` weights that nothing has trained.

PyTorch Image Models, 2019, github.com/huggingface/pytorch-image-models. Features are those before the classifier, and
pixels are made by timm's own data configuration of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from timm.layers import RotaryEmbeddingCat
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import nn

from ..contracts.images import ImageSize, as_image_size, height_and_width
from ..errors import ConfigError, DataError, UnknownNameError, did_you_mean
from .classifiers import Classifier, named_classifier
from .hub import hub_file
from .image_only import ImageModel, NamedEncoder, Weights, WholeTower, split_spec
from .last_stride import at_stride_one, is_timm_resnet
from .open_clip_timm import TimmMapTower, tower_class_of
from .preprocessing import Preprocess
from .timm_hub import CLASS_AND_PATCHES, PREFIX, ClassAndPatches, TimmHubModel
from .tower_steps import ImageTower
from .two_tower import fingerprint

MAPS = ("densenet", "efficientnet", "mobilenetv3", "nfnet", "regnet", "resnet", "resnetv2")
"""Modules of timm whose architectures average their last map, besides those that open_clip's models are made of."""
FILES = ("model.safetensors", "pytorch_model.bin")


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> TimmBackbone:
    """The backbone `timm:<rest>`; see `load_backbone`."""
    name, place = split_spec(rest, "timm")
    if name.startswith(PREFIX):
        given = Weights.of(place) if place else None
        hub, file = TimmHubModel.of(name, None if given is None else given.file)
        weights = Weights(file) if given is None else given
        return TimmBackbone(name, dict(hub.pixels), weights, spec, device, image_size, hub)
    config = _config(name)
    weights = Weights.of(place) if place else Weights(_published(name, config))
    return TimmBackbone(name, config, weights, spec, device, image_size)


def rebuild(
    description: dict, weights: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> TimmBackbone:
    """The backbone of weights that were trained here."""
    name, size = description["name"], image_size or as_image_size(description["image_size"])
    hub = TimmHubModel(**description["hub"]) if "hub" in description else None
    config = _config(name) if hub is None else dict(hub.pixels)
    backbone = TimmBackbone(name, config, Weights(weights), spec, device, size, hub)
    if description["last_stride"] == 1:
        backbone.set_last_stride()
    return backbone


class TimmBackbone(NamedEncoder):
    """An encoder of timm.

    Args:
        name: of the architecture, with a tag or without.
        config: timm's `pretrained_cfg` of it.
        weights: in place of random ones.
        spec: as the user wrote it.
        device: where the encoder goes when it is built.
        image_size: of its images; by default that of its weights.
        hub: what the repository of the hub says that publishes it, where timm does not.

    Raises:
        DataError: images are prepared in a way that is not known here.
    """

    family = "timm"

    def __init__(
        self,
        name: str,
        config: Any,
        weights: Weights,
        spec: str,
        device,
        image_size: ImageSize | None,
        hub: TimmHubModel | None = None,
    ):
        super().__init__()
        self.name, self.weights, self.spec, self.device, self.hub = name, weights, spec, device, hub
        self.licence = "none" if weights.file is None else config.get("license") or "unknown"
        if hub is not None and weights.file is not None:
            self.licence = hub.licence
        self.encoder = partial(_encoder, name) if hub is None else hub.encoder
        with torch.device("meta"):
            skeleton = self.encoder()
        self.embed_dim = getattr(skeleton, "head_hidden_size", None) or skeleton.num_features
        self.pooled = hub is not None and hub.pool == CLASS_AND_PATCHES
        self.embed_dim *= 1 + self.pooled
        self.transform = _transform(name, config, image_size)
        self.native_size = as_image_size(tuple(config.get("input_size", (3, 224, 224))[1:]))
        self.classifiers, self.config = _names(config.get("classifier")), config
        architecture = name if hub is None else hub.architecture
        module = timm.models.model_entrypoint(architecture.partition(".")[0]).__module__
        self.tower = WholeTower if self.pooled else tower_class(module, skeleton)
        self.capabilities, self.is_resnet = self.tower.opens, is_timm_resnet(architecture)
        self.turned = self.tower.turned
        built = name if hub is None else [hub.architecture, dict(hub.arguments), hub.pool]
        self.fingerprint = fingerprint("timm", built, weights.identity, self.transform.spec)

    @property
    def description(self) -> dict:
        facts = {"name": self.name, "image_size": self.image_size, "last_stride": self.last_stride}
        return facts if self.hub is None else {**facts, "hub": self.hub.description}

    def classifier_of_names(self) -> Classifier | None:
        if self.weights.file is None or len(self.classifiers) != 1:
            return None
        return named_classifier([self.weights.file], self.classifiers, _class_names(self.config), self.embed_dim)

    def build_model(self) -> nn.Module:
        trunk = self.weights.load(self.encoder, self.name, self.classifiers)
        if self.image_size != self.native_size and hasattr(trunk, "set_input_size"):
            try:
                trunk.set_input_size(img_size=height_and_width(self.image_size))
            except (AssertionError, ValueError, RuntimeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ConfigError(
                    f"image_size={self.image_size} does not fit backbone '{self.spec}': {reason}"
                ) from error
        if self.last_stride == 1:
            at_stride_one(trunk, self.spec)
            trunk.feature_info[-1]["reduction"] //= 2
        model = ImageModel(trunk)
        if self.pooled:
            model.visual.head = ClassAndPatches(trunk.num_prefix_tokens)
        return model


def _class_names(config: dict[str, Any]) -> Sequence[str]:
    """Names of the classes of the published classifier, as timm's own lists have them; none where they do not."""
    if config.get("label_names"):
        return config["label_names"]
    subset = infer_imagenet_subset(config)
    if subset is None:
        return ()
    info = ImageNetInfo(subset)
    return [info.index_to_description(each) for each in range(info.num_classes())]


def _encoder(name: str) -> nn.Module:
    """The architecture without a classifier, with random weights; asks no network."""
    return timm.create_model(name, pretrained=False, num_classes=0)


def _config(name: str) -> dict[str, Any]:
    """What timm knows of the weights that a name stands for.

    Raises:
        UnknownNameError: there is no such architecture or tag.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownNameError(
            f"timm has no architecture '{architecture}'; {did_you_mean(architecture, timm.list_models())}"
        )
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UnknownNameError(f"timm has no weights '{tag}' of {architecture}; {did_you_mean(tag, tags)}")
    config = timm.get_pretrained_cfg(name)
    return {} if config is None else config.to_dict()


def _published(name: str, config: dict[str, Any]) -> Path:
    """The file of the published weights: cached, else downloaded.

    Raises:
        DataError: there are none, or they can not be had.
    """
    local_way = f"give timm:{name}@FILE with its {FILES[0]} (or timm:{name}@random:0 to start from nothing)"
    if not config.get("hf_hub_id"):
        raise DataError(f"backbone 'timm:{name}': timm publishes no weights of it on the hub; {local_way}")
    return hub_file(config["hf_hub_id"], _names(config.get("hf_hub_filename")) or FILES, local_way)


def _transform(name: str, config: dict[str, Any], image_size: ImageSize | None) -> Preprocess:
    """As timm makes pixels where nothing is trained; of another size, with the same margin around the crop."""
    stated = resolve_data_config(pretrained_cfg=config)
    size = image_size or as_image_size(tuple(stated["input_size"][1:]))
    if stated["crop_mode"] not in ("center", "squash"):
        raise DataError(
            f"backbone 'timm:{name}': its images are prepared by crop mode '{stated['crop_mode']}', which is not "
            "supported; use another encoder"
        )
    side = min(height_and_width(size))
    margin = math.floor(side / stated["crop_pct"])
    return Preprocess(
        image_size=size,
        mean=stated["mean"],
        std=stated["std"],
        interpolation=stated["interpolation"],
        mode="squash" if stated["crop_mode"] == "squash" else "shortest",
        resize=margin if margin > side else None,
    )


def tower_class(module: str, model: nn.Module) -> type[ImageTower]:
    """How an encoder is opened.

    Args:
        module: of timm, which holds its architecture.
    """
    if module.removeprefix("timm.models.") in MAPS:
        return TimmMapTower
    opened = tower_class_of(module)
    return WholeTower if opened is None or (opened is not TimmMapTower and not _has_usual_blocks(model)) else opened


def _has_usual_blocks(transformer: nn.Module) -> bool:
    """Whether its blocks are those that the steps of timm's transformers repeat: no norms or gates in attention that
    these do not know, nothing in parallel, no positions but those of patches."""
    block = transformer.blocks[0]
    if type(block) is EvaBlock:
        return type(transformer.rope) in (type(None), RotaryEmbeddingCat) and getattr(block.attn, "gate", None) is None
    inner = [getattr(getattr(block, "attn", None), each, None) for each in ("q_norm", "k_norm", "norm", "gate")]
    return type(block) is Block and all(each is None or isinstance(each, nn.Identity) for each in inner)


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
