"""Image encoders of torchgeo: `torchgeo:<name>`, `torchgeo:<Class>_Weights.<NAME>`, either with `@<file>`, or with
`@random:<seed>` for weights that nothing has trained.

TorchGeo: deep learning with geospatial data, 2021, arXiv 2111.08872. Bands enter by their wavelengths or their names,
features are those before a classifier. Nothing is downloaded: without a file, the weights are looked for where torch
keeps what torchgeo downloads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import timm
import torch
from torch import Tensor, nn
from torchgeo import models
from torchvision.models import WeightsEnum
from torchvision.transforms import v2

from ..contracts.images import ImageSize, InputChannels, as_image_size, height_and_width
from ..errors import CapabilityError, ConfigError, DataError, UnknownNameError, did_you_mean
from .channels import UNCHANGED, BandPreprocess
from .checkpoints import resize_positions
from .image_only import ImageModel, NamedEncoder, Weights, split_spec
from .last_stride import at_stride_one
from .preprocessing import Preprocess
from .spec_options import Resolution
from .torchgeo_bands import COLOURS, SENTINEL_2, BandInputs, BandsTaken, band_inputs
from .torchgeo_towers import (
    JOINT,
    OPTICAL,
    SAR,
    BandMapTower,
    BandTower,
    BandVitTower,
    CopernicusTower,
    CromaJointTower,
    CromaTower,
    DofaTower,
    PanopticonTower,
    ScaleMaeTower,
)
from .two_tower import fingerprint

SIDE = 224
TYPICAL_MEAN, TYPICAL_STD = (0.45,), (0.25,)
"""Of bands whose percentiles 2 and 98 are 0 and 1, for encoders that were trained on standardised bands and state no
statistics."""
OPTICAL_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
SAR_BANDS = ("VV", "VH")
RADAR_LOW, RADAR_HIGH = -30.0, 0.0
"""Backscatter in dB that is 0 and 1 in pixels (`--stretch -30,0`)."""
LARGEST_8_BIT, REFLECTANCE = 255.0, 10000.0
"""What a pixel of 1 is in the units of published statistics: of 8 bits, and Sentinel-2's reflectance of 1."""
CLASSIFIERS = ("head", "fc", "mask_token")


@dataclass(frozen=True)
class Architecture:
    """An encoder.

    Args:
        build: makes it with random weights.
        tower: its steps.
        bands: that it takes.
        width: of its features.
        size: side of its images.
        patch: side that images must be a multiple of; 1 for any.
        optional: names of weights that a file may lack.
        lenient: whether a file may hold further weights, as torchgeo has it.
        resize: side that images are squashed to before the crop; None: the shortest side becomes that of the crop.
        resolution: ground sample distance in metres where none is given; 0 for an encoder that knows none.
        weights: published ones.
    """

    build: Callable[[], nn.Module]
    tower: type[BandTower]
    bands: BandsTaken
    width: int
    size: int = SIDE
    patch: int = 1
    optional: tuple[str, ...] = ("fc_norm.weight", "fc_norm.bias", "norm.weight", "norm.bias")
    lenient: bool = False
    resize: int | None = None
    resolution: float | None = 0.0
    weights: WeightsEnum | None = None


STANDARDISED = BandsTaken(mean=TYPICAL_MEAN, std=TYPICAL_STD)


def _dofa(name: str, width: int, patch: int = 16) -> Architecture:
    build = partial(getattr(models, name), num_classes=0)
    return Architecture(build, DofaTower, STANDARDISED, width, patch=patch)


def _croma(name: str, width: int, kind: str) -> Architecture:
    sides = {OPTICAL: OPTICAL_BANDS, SAR: SAR_BANDS, JOINT: (*SAR_BANDS, *OPTICAL_BANDS)}
    modalities = (SAR, OPTICAL) if kind == JOINT else (kind,)
    sensors = {OPTICAL: SENTINEL_2, SAR: ("sar",), JOINT: ("sar", *SENTINEL_2)}[kind]
    build = partial(getattr(models, name), modalities=modalities)
    tower = CromaJointTower if kind == JOINT else CromaTower
    taken = BandsTaken(sides[kind], sensors)
    return Architecture(build, tower, taken, width, size=120, patch=8, optional=("attn_bias",), lenient=True)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "dofa_small_patch16_224": partial(_dofa, "dofa_small_patch16_224", 384),
    "dofa_base_patch16_224": partial(_dofa, "dofa_base_patch16_224", 768),
    "dofa_large_patch16_224": partial(_dofa, "dofa_large_patch16_224", 1024),
    "dofa_huge_patch14_224": partial(_dofa, "dofa_huge_patch14_224", 1280, 14),
    "scalemae_large_patch16": lambda: Architecture(
        partial(models.scalemae_large_patch16, num_classes=0),
        ScaleMaeTower,
        BandsTaken(COLOURS, (), False, *IMAGENET),
        1024,
        patch=16,
        optional=("pos_embed",),
        lenient=True,
        resolution=1.0,
    ),
    "panopticon_vitb14": lambda: Architecture(models.panopticon_vitb14, PanopticonTower, STANDARDISED, 768, patch=14),
    "copernicusfm_base": lambda: Architecture(
        models.copernicusfm_base,
        CopernicusTower,
        replace(STANDARDISED, bandwidths=True),
        768,
        patch=16,
        resolution=None,
    ),
    **{
        f"croma_{size}{suffix}": partial(_croma, f"croma_{size}", width, kind)
        for size, width in (("base", 768), ("large", 1024))
        for suffix, kind in (("", OPTICAL), (".optical", OPTICAL), (".sar", SAR), (".joint", JOINT))
    },
}
"""What has a name of its own; ResNets and vision transformers are named by their weights, which say their bands."""


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> TorchGeoBackbone:
    """The backbone `torchgeo:<rest>`; see `load_backbone`."""
    name, place = split_spec(rest, "torchgeo")
    architecture = architecture_of(name)
    weights = Weights.of(place) if place else Weights(_downloaded(name, architecture.weights))
    return TorchGeoBackbone(name, architecture, weights, spec, device, image_size)


def rebuild(
    description: dict, weights: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> TorchGeoBackbone:
    """The backbone of weights that were trained here."""
    name, size = description["name"], image_size or as_image_size(description["image_size"])
    backbone = TorchGeoBackbone(name, architecture_of(name), Weights(weights), spec, device, size)
    backbone.resolution = description["resolution"]
    if description["last_stride"] == 1:
        backbone.set_last_stride()
    return backbone


class TorchGeoBackbone(NamedEncoder):
    """An encoder of torchgeo.

    Args:
        name: of the architecture, or of published weights.
        architecture: what it is.
        weights: in place of random ones.
        spec: as the user wrote it.
        device: where the encoder goes when it is built.
        image_size: of its images; by default its own.

    Attributes:
        by_band: it takes bands by what they are, also where there are three of them.
        resolution: ground sample distance of the images in metres; 0 where it makes no difference, None if unknown.

    Raises:
        ConfigError: the size is no multiple of its patches.
    """

    family = "torchgeo"
    by_band = True

    def __init__(
        self, name: str, architecture: Architecture, weights: Weights, spec: str, device, image_size: ImageSize | None
    ):
        super().__init__()
        self.name, self.architecture, self.weights, self.spec = name, architecture, weights, spec
        self.device, self.embed_dim = device, architecture.width
        self.licence = "none" if weights.file is None else "unknown"
        self.resolution = architecture.resolution
        self.transform = _transform(architecture, image_size, spec)
        self.is_resnet, self.capabilities = architecture.tower is BandMapTower, architecture.tower.opens
        self.fingerprint = fingerprint("torchgeo", [name, self.resolution], weights.identity, self._pixels())

    @property
    def description(self) -> dict:
        facts = {"image_size": self.image_size, "resolution": self.resolution, "last_stride": self.last_stride}
        return {"name": self.name, **facts}

    # Bands ------------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> BandInputs:
        """How the channels of an image enter.

        Raises:
            CapabilityError, ConfigError: as `band_inputs`.
        """
        return band_inputs(self.architecture.bands, self.channels, self.spec)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        inputs = self.inputs
        return inputs.mean, inputs.std

    def preprocess(self, train: bool = False) -> BandPreprocess:
        return BandPreprocess(replace(self.transform, train=train), *self.statistics())

    def widen(self, channels: InputChannels) -> None:
        if self._model is not None:
            raise CapabilityError(f"backbone '{self.spec}' is built already; load it again for other bands")
        self.channels = replace(channels, start=InputChannels.TRAINED)
        inputs = self.inputs
        bands = [inputs.places, inputs.wavelengths, inputs.bandwidths]
        self.fingerprint = fingerprint(self.family, bands, self.fingerprint, {})

    def widen_model(self, model: nn.Module) -> None:
        """Nothing: its weights are those of any bands that it takes."""

    def input_layer(self) -> None:
        """None: it was not widened."""

    def decode_fast(self) -> NoReturn:
        raise CapabilityError(f"--fast-decode: backbone '{self.spec}' takes bands, not photographs; omit it")

    def notes_on_channels(self) -> list[str]:
        return [self.inputs.note, *([] if self.resolution == 0 else [self._resolution_note()])]

    def check_channels(self, who: str, trains: bool = False) -> None:
        """Nothing: no band starts at zero."""

    # Resolution -------------------------------------------------------------------------------------------------

    def set_resolution(self, resolution: Resolution) -> None:
        if self.resolution == 0:
            super().set_resolution(resolution)
        if self._model is not None:
            raise CapabilityError(f"backbone '{self.spec}' is built already; load it again for another resolution")
        self.resolution = resolution.metres
        self.fingerprint = fingerprint(self.family, ["resolution", resolution.metres], self.fingerprint, {})

    def _resolution_note(self) -> str:
        if self.resolution is None:
            return "The encoder takes the ground sample distance as unknown; give it in metres with #res=METRES."
        return f"The encoder takes a pixel for {self.resolution:g} m on the ground (#res=METRES)."

    # Towers -----------------------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        self.inputs  # noqa: B018 - refuses bands before anything is built
        architecture = self.architecture
        trunk = self.weights.load(
            architecture.build, self.name, CLASSIFIERS, architecture.optional, partial(_named_as_built, architecture)
        )
        if isinstance(trunk, models.ScaleMAE):
            trunk.res = self.resolution
        elif architecture.tower is BandVitTower and self.image_size != architecture.size:
            trunk.set_input_size(img_size=height_and_width(self.image_size))
        if self.last_stride == 1:
            at_stride_one(trunk, self.spec)
            trunk.feature_info[-1]["reduction"] //= 2
        return ImageModel(trunk)

    def build_towers(self, model: nn.Module) -> tuple[BandTower, None]:
        return self.architecture.tower(model.visual, self.inputs, self.resolution), None

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        tower = self._image
        assert isinstance(tower, BandTower)
        return tower.whole(pixels)

    def merge_tokens(self, reduction: Any) -> None:
        if self.architecture.tower is CromaTower:
            raise CapabilityError(
                f"backbone '{self.spec}' weighs patches by their distance, and merged tokens lie nowhere; omit #merge"
            )
        super().merge_tokens(reduction)

    def _pixels(self) -> dict[str, Any]:
        bands = self.architecture.bands
        return {**self.transform.spec, "mean": list(bands.mean), "std": list(bands.std)}


def architecture_of(name: str) -> Architecture:
    """What a name stands for: an architecture's own, or that of published weights.

    Raises:
        UnknownNameError: neither. CapabilityError: weights of something that is no encoder, or not opened here.
    """
    if name in ARCHITECTURES:
        made = ARCHITECTURES[name]()
        plain = name.partition(".")[0]
        return replace(made, weights=next(iter(_published().get(plain, ())), None))
    by_name = {str(weights): (model, weights) for model, known in _published().items() for weights in known}
    if name not in by_name:
        near = did_you_mean(name, [*ARCHITECTURES, *by_name])
        raise UnknownNameError(f"torchgeo has no encoder '{name}'; {near}")
    model, weights = by_name[name]
    if model in ARCHITECTURES:
        return replace(ARCHITECTURES[model](), weights=weights)
    if not model.startswith(("resnet", "vit_")):
        raise CapabilityError(
            f"backbone 'torchgeo:{name}': {model} is not supported; give DOFA, Scale-MAE, CROMA, Panopticon, "
            "Copernicus-FM, or weights of a ResNet or ViT"
        )
    return _of_timm(model, weights)


def _published() -> Mapping[str, Sequence[WeightsEnum]]:
    """Architecture -> its published weights."""
    weights_of = {}
    for model in models.list_models():
        try:
            weights_of[model] = list(models.get_model_weights(model))
        except KeyError:  # none are published
            continue
    return weights_of


def _of_timm(model: str, weights: WeightsEnum) -> Architecture:
    """A ResNet or vision transformer of timm, as its weights say."""
    count, sizes = (
        weights.meta["in_chans"],
        {"img_size": weights.meta["img_size"]} if "img_size" in weights.meta else {},
    )
    create = partial(timm.create_model, model, in_chans=count, num_classes=0, **sizes)
    with torch.device("meta"):
        skeleton = create()
    is_vit = model.startswith("vit_")
    size = skeleton.patch_embed.img_size[0] if is_vit else _crop(weights) or SIDE
    return Architecture(
        create,
        BandVitTower if is_vit else BandMapTower,
        _bands_of(weights, count),
        skeleton.num_features,
        size=size,
        patch=skeleton.patch_embed.patch_size[0] if is_vit else 1,
        resize=next((step.size[0] for step in _steps(weights) if isinstance(step, v2.Resize)), None),
        weights=weights,
    )


def _bands_of(weights: WeightsEnum, count: int) -> BandsTaken:
    """The bands of published weights, and the statistics that their transforms normalise by, of pixels in 0..1."""
    name = weights.name
    codes = tuple(weights.meta.get("bands") or (COLOURS if count == len(COLOURS) else ()))
    sensors = {"SENTINEL2": SENTINEL_2, "SENTINEL1": ("sar",), "LANDSAT_OLI": ("landsat-8",)}
    of = next((bands for start, bands in sensors.items() if name.startswith(start)), ())
    mean, std, first = torch.zeros(count), torch.ones(count), None
    for step in _steps(weights):
        if isinstance(step, v2.Normalize):  # ((x - mean) / std - m) / s
            mean, std = mean + std * torch.tensor(step.mean), std * torch.tensor(step.std)
            first = step if first is None else first
    low, unit = 0.0, LARGEST_8_BIT
    if name.startswith("SENTINEL1"):
        low, unit = RADAR_LOW, RADAR_HIGH - RADAR_LOW
    elif first is None or max(*first.mean, *first.std) > LARGEST_8_BIT:
        units = [LARGEST_8_BIT if value == LARGEST_8_BIT else REFLECTANCE for value in std.tolist()]
        unit = torch.tensor(units)
    return BandsTaken(codes, of, False, tuple(((mean - low) / unit).tolist()), tuple((std / unit).tolist()))


def _steps(weights: WeightsEnum) -> Sequence[nn.Module]:
    transforms = weights.transforms
    return list(transforms) if isinstance(transforms, nn.Sequential) else [transforms]


def _crop(weights: WeightsEnum) -> int | None:
    sizes = [step.size[0] for step in _steps(weights) if isinstance(step, (v2.CenterCrop, v2.Resize))]
    return sizes[-1] if sizes else None


def _downloaded(name: str, weights: WeightsEnum | None) -> Path:
    """The file of published weights where torchgeo downloads to.

    Raises:
        DataError: it is not there, or none is published.
    """
    local_way = f"give torchgeo:{name}@FILE (or torchgeo:{name}@random:0 to start from nothing)"
    if weights is None:
        raise DataError(f"backbone 'torchgeo:{name}': torchgeo publishes no weights of it; {local_way}")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        raise DataError(
            f"backbone 'torchgeo:{name}': its weights are not in {file.parent}; download {weights.url} and {local_way}"
        )
    return file


def _transform(architecture: Architecture, image_size: ImageSize | None, spec: str) -> Preprocess:
    """As the weights have it; of another size, with the same margin around the crop."""
    size = image_size or architecture.size
    if any(side % architecture.patch for side in height_and_width(size)):
        raise ConfigError(
            f"image_size={size} does not fit backbone '{spec}', whose patches have {architecture.patch} pixels; give a "
            "multiple"
        )
    side = min(height_and_width(size))
    margin = None if architecture.resize is None else round(architecture.resize * side / architecture.size)
    mode = "shortest" if architecture.resize is None else "squash"
    resize = margin if margin is not None and margin > side else None
    return Preprocess(size, UNCHANGED[0], UNCHANGED[1], interpolation="bilinear", mode=mode, resize=resize)


def _named_as_built(architecture: Architecture, module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of the built encoder, without what it does not have, their positions at its grid."""
    names = module.state_dict()
    if isinstance(module, models.Panopticon):
        state = {key if key.startswith("model.") else f"model.{key}": value for key, value in state.items()}
        state.pop("model.mask_token", None)
    key = "model.pos_embed" if isinstance(module, models.Panopticon) else "pos_embed"
    if key in state and key in names and state[key].shape != names[key].shape:
        side = round((names[key].shape[1] - 1) ** 0.5)
        state[key] = resize_positions(state[key][0], (side, side), 1)[None]
    if architecture.lenient:
        state = {key: value for key, value in state.items() if key in names}
    return state
