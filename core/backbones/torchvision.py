"""Image encoders of torchvision: `torchvision:<name>`, `torchvision:<name>@<file>`; with `@random:<seed>` weights that
nothing has trained.

Features are those before the last layer of the classifier, and pixels are made as torchvision prepares images for its
weights. Nothing is downloaded: without a file, the weights are looked for where torchvision keeps what it downloads.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from ..contracts.backbone import Block
from ..contracts.images import ImageSize, height_and_width
from ..errors import CapabilityError, DataError, UnknownNameError, did_you_mean
from .checkpoints import resize_positions
from .classifiers import Classifier, named_classifier
from .image_only import ImageModel, NamedEncoder, Weights, WholeTower, split_spec
from .last_stride import at_stride_one
from .preprocessing import Preprocess
from .separate_projections import packed_qkv
from .tower_steps import WITH_BLOCKS, ImageTower, pre_norm_block
from .two_tower import fingerprint

RESNET_CELL = 32


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> TorchvisionBackbone:
    """The backbone `torchvision:<rest>`; see `load_backbone`."""
    name, place = split_spec(rest, "torchvision")
    published = _published(name)
    weights = Weights.of(place) if place else Weights(_downloaded(name, published.DEFAULT))
    return TorchvisionBackbone(name, weights, spec, device, _transform(published, weights, image_size))


def rebuild(
    description: dict, weights: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> TorchvisionBackbone:
    """The backbone of weights that were trained here."""
    pixels = Preprocess(**description["pixels"])
    size = image_size or pixels.image_size
    backbone = TorchvisionBackbone(description["name"], Weights(weights), spec, device, _of_size(pixels, size))
    if description["last_stride"] == 1:
        backbone.set_last_stride()
    return backbone


class TorchvisionBackbone(NamedEncoder):
    """An encoder of torchvision.

    Args:
        name: of the architecture.
        weights: in place of random ones.
        spec: as the user wrote it.
        device: where the encoder goes when it is built.
        transform: how pixels are made.
    """

    family = "torchvision"

    def __init__(self, name: str, weights: Weights, spec: str, device: torch.device, transform: Preprocess):
        super().__init__()
        self.name, self.weights, self.spec, self.device, self.transform = name, weights, spec, device, transform
        self.licence = "none" if weights.file is None else "unknown"
        with torch.device("meta"):
            self.classifier, self.embed_dim = _classifier(models.get_model(name, weights=None), name)
            self.tower = TOWERS.get(type(models.get_model(name, weights=None)), WholeTower)
        self.is_resnet, self.capabilities = self.tower is ResNetMaps, self.tower.opens
        self.fingerprint = fingerprint("torchvision", name, weights.identity, transform.spec)

    @property
    def description(self) -> dict:
        return {"name": self.name, "pixels": asdict(self.transform), "last_stride": self.last_stride}

    def classifier_of_names(self) -> Classifier | None:
        if self.weights.file is None:
            return None
        names = _stated(models.get_model_weights(self.name), self.weights).meta.get("categories", ())
        return named_classifier([self.weights.file], (self.classifier,), names, self.embed_dim)

    def build_model(self) -> nn.Module:
        trunk = self.weights.load(self._encoder, self.name, (self.classifier,))
        if self.last_stride == 1:
            at_stride_one(trunk, self.spec)
        return ImageModel(trunk)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        trunk = self.model.visual.trunk
        if self.tower is VitSteps and tuple(pixels.shape[-2:]) != (trunk.image_size, trunk.image_size):
            return self.pool_image(self.run_blocks("image", self.embed_image(pixels)), normalize=False)
        return super().encode_pixels(pixels)

    def _encoder(self) -> nn.Module:
        """The architecture without the last layer of its classifier, with random weights."""
        model = models.get_model(self.name, weights=None)
        model.set_submodule(self.classifier, nn.Identity())
        return model


class ResNetMaps(ImageTower):
    """A ResNet, whose last map is averaged."""

    def __init__(self, visual: nn.Module):
        self.trunk = visual.trunk
        self.cell = RESNET_CELL // (2 if self.trunk.layer4[0].stride == 1 else 1)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        trunk, maps = self.trunk, []
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(pixels))))
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def hidden(self, pixels: Tensor) -> Tensor:
        return self.maps(pixels)[-1].mean(dim=(2, 3))

    def project(self, hidden: Tensor) -> Tensor:
        return self.trunk.fc(hidden)

    def pool_map(self, last: Tensor) -> Tensor:
        return self.project(torch.cat([last.mean(dim=(2, 3))[:, None], last.flatten(2).transpose(1, 2)], dim=1))

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        last = self.maps(pixels)[-1]
        return self.project(last.flatten(2).transpose(1, 2)), (last.shape[-2], last.shape[-1])


class VitSteps(ImageTower):
    """torchvision's vision transformer."""

    opens = WITH_BLOCKS
    prefix = 1

    def __init__(self, visual: nn.Module):
        self.trunk = visual.trunk
        self.blocks = [_vit_block(block) for block in self.trunk.encoder.layers]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        return pixels.shape[-2] // self.trunk.patch_size, pixels.shape[-1] // self.trunk.patch_size

    def start(self, pixels: Tensor) -> Tensor:
        trunk = self.trunk
        patches = trunk.conv_proj(pixels).flatten(2).transpose(1, 2)  # (B, P, W)
        x = torch.cat([trunk.class_token.expand(len(pixels), -1, -1), patches], dim=1)
        return x + resize_positions(trunk.encoder.pos_embedding[0], self.grid(pixels), self.prefix)

    def pool(self, x: Tensor) -> Tensor:
        return self.trunk.encoder.ln(x[:, 0])

    def project(self, hidden: Tensor) -> Tensor:
        return self.trunk.heads(hidden)


def _vit_block(block: nn.Module) -> Block:
    return pre_norm_block(
        ln_1=block.ln_1,
        qkv=partial(packed_qkv, block.self_attention),
        out=block.self_attention.out_proj,
        ln_2=block.ln_2,
        mlp=block.mlp,
        num_heads=block.num_heads,
        module=block,
        of=_vit_block,
    )


TOWERS: dict[type[nn.Module], type[ImageTower]] = {models.ResNet: ResNetMaps, models.VisionTransformer: VitSteps}
"""Architectures that are opened."""


def _published(name: str) -> type[models.WeightsEnum]:
    """What torchvision knows of the weights of an architecture.

    Raises:
        UnknownNameError: it has no such classifier of images.
    """
    names = models.list_models(module=models)
    if name not in names:
        raise UnknownNameError(f"torchvision has no architecture '{name}'; {did_you_mean(name, names)}")
    return models.get_model_weights(name)


def _downloaded(name: str, weights: models.WeightsEnum) -> Path:
    """The file of published weights where torchvision downloads to.

    Raises:
        DataError: it is not there.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        raise DataError(
            f"backbone 'torchvision:{name}': its weights are not in {file.parent}; download {weights.url} and give "
            f"torchvision:{name}@FILE (or torchvision:{name}@random:0 to start from nothing)"
        )
    return file


def _stated(published: type[models.WeightsEnum], weights: Weights) -> models.WeightsEnum:
    """The published weights that a file is named as, else the present ones."""
    name = "" if weights.file is None else weights.file.name
    return next((each for each in published if Path(each.url).name == name), published.DEFAULT)


def _transform(published: type[models.WeightsEnum], weights: Weights, image_size: ImageSize | None) -> Preprocess:
    """As torchvision prepares images for the weights that a file is named as, else for its present ones."""
    stated = _stated(published, weights).transforms()
    crop, resize = stated.crop_size[0], stated.resize_size[0]
    pixels = Preprocess(
        image_size=crop,
        mean=tuple(stated.mean),
        std=tuple(stated.std),
        interpolation=stated.interpolation.value,
        resize=resize if resize > crop else None,
    )
    return pixels if image_size is None else _of_size(pixels, image_size)


def _of_size(pixels: Preprocess, size: ImageSize) -> Preprocess:
    """For images of another size, with the same margin around the crop."""
    share = min(height_and_width(size)) / min(pixels.sides)
    return replace(pixels, image_size=size, resize=None if pixels.resize is None else round(pixels.resize * share))


def _classifier(model: nn.Module, name: str) -> tuple[str, int]:
    """The last linear layer of a model, and how wide the features are that it takes.

    Raises:
        CapabilityError: it classifies by something else.
    """
    layers = [(each, layer) for each, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise CapabilityError(
            f"backbone 'torchvision:{name}' has no linear classifier whose input would be its features; use another"
        )
    return layers[-1][0], layers[-1][1].in_features
