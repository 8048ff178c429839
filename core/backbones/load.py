"""A backbone from its spec: the alias of a published model (`biomedclip`), `embedded`, `open_clip:...`, `hf:...`, a
folder as published, or the `model.safetensors` of a training."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.families import FAMILIES, OFFERED, PROJECTED
from ..contracts.images import RGB, ImageSize, InputChannels, as_image_size, height_and_width
from ..errors import CapabilityError, ConfigError, DataError
from ..registry import build_backbone, catalogue, load_adapter
from ..runtime.files import replacing
from ..runtime.reading import read_json
from .channels import divided_channels, input_layer
from .checkpoints import file_digests
from .finders import ANSWERS, FINDER, FinderBackbone, KeptLoss, kept_tensors, loss_in_words
from .heads import FAMILY as HEADS
from .heads import HeadBackbone
from .hub import NOT_CACHED
from .module import given_again
from .prompted import CHILD, TowerPrompts
from .spec_options import MERGE, OPTIONS, PATCHES, Patches, Reduction, Resolution, SpecOption
from .specs import (
    FILE,
    alias_of,
    find_published,
    is_fine_tuned,
    licence_line,
    missing_package,
    spec_family,
    split_options,
)


def load_backbone(
    spec: str = "embedded",
    device: str | torch.device = "auto",
    image_size: ImageSize | None = None,
    channels: InputChannels | None = None,
) -> Backbone:
    """The backbone that `spec` names, its towers not yet built.

    Args:
        spec: an alias of `published.json`, or "family" or "family:rest"; see `FAMILIES`. Or the path of a folder as
            open_clip or transformers publish it, or of a `model.safetensors` that a training wrote. With "#merge=R" at
            the end its image tower merges R tokens in each block (`Reduction`); with "#patches=N" images keep their
            aspect ratio, of towers that take any (`Patches`); with "#res=M" a pixel is M metres on the ground, of
            towers that want to know (`Resolution`).
        device: "auto" is the GPU where there is one, else the CPU; or any torch device.
        image_size: side of the square the image tower takes, or (height, width), where it is to differ from the
            model's own.
        channels: of the images, where they have more than three: the image tower is widened for them. Three of them
            count where it takes bands by what they are.

    Raises:
        UnknownNameError: no family, architecture or tag has that name; the message has the nearest ones.
        ConfigError: the spec, the device or the size is not usable.
        DataError: a file is missing or damaged, or a remote model cannot be reached.
        CapabilityError: the family's library is not installed, or the tower takes other channels.
    """
    spec, option = split_options(str(spec))
    if option is not None:
        return _with_option(spec, option, device, image_size, channels)
    image_size = as_image_size(image_size)
    if image_size is not None and min(height_and_width(image_size)) < 1:
        raise ConfigError(f"image_size={image_size} is not usable; give a side in pixels, or height and width")
    if spec in OFFERED:
        return _widened(given_again(spec, resolve_device(device), image_size), channels)
    trained, entry = is_fine_tuned(spec), find_published(spec)
    family, rest = ("", "") if trained else spec_family(spec)
    target = resolve_device(device)
    try:
        if trained:
            return _widened(build_fine_tuned(spec, target, image_size), channels)
        if family == PROJECTED:
            return _projected(spec, load_backbone(rest, device, image_size, channels))
        if family not in FAMILIES:
            return _widened(_of_package(family, rest, image_size), channels).to(target)
        module = importlib.import_module(f".{family}", __package__)
        backbone = module.build(rest, spec=spec, device=target, image_size=image_size)
        if entry is not None:
            backbone.licence = entry.licence
        return _widened(backbone, channels)
    except DataError as error:
        if entry is None or NOT_CACHED not in str(error):
            raise
        reason = str(error).partition("; ")[0]
        raise DataError(
            f"backbone {spec}: {reason}; fetch it on a machine that has one with: {entry.fetch_command()}"
        ) from error
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith(__package__):
            raise
        raise missing_package(spec, family, error.name) from None


def _with_option(spec: str, option: SpecOption, device, image_size, channels) -> Backbone:
    """The backbone of a spec whose image tower merges tokens, takes images of any aspect ratio, or knows how large a
    pixel is on the ground."""
    name = next(name for name, kind in OPTIONS.items() if isinstance(option, kind))
    whole = f"{spec}#{name}={option}"
    backbone = load_backbone(spec, device, None if isinstance(option, Patches) else image_size, channels)
    if isinstance(option, Resolution):
        backbone.set_resolution(option)
        backbone.spec = whole
        return backbone
    for other, trained in ((MERGE, getattr(backbone, "reduction", None)), (PATCHES, getattr(backbone, "native", None))):
        if trained is not None:
            raise ConfigError(f"backbone '{whole}': was trained with #{other}={trained}, which stays; omit #{name}")
    if isinstance(option, Reduction):
        backbone.merge_tokens(option)
    else:
        backbone.keep_aspect(option)
        _check_size(image_size, backbone)
    backbone.spec = whole
    return backbone


def _check_size(image_size: ImageSize | None, backbone: Backbone) -> None:
    """Raise the ConfigError of a size that is asked of images of any aspect ratio."""
    if image_size not in (None, backbone.image_size):
        raise ConfigError(f"image_size={image_size}: backbone '{backbone.spec}' takes images of any; omit image_size")


def _projected(spec: str, towers: Backbone) -> Backbone:
    """The towers through their finder."""
    if towers.finder is None:
        raise ConfigError(
            f"backbone {spec}: was trained by no loss that finds images by more than its towers; omit projected:"
        )
    return FinderBackbone(towers, spec)


def _of_package(family: str, rest: str, image_size: ImageSize | None) -> Backbone:
    """The backbone of a family that another package brings (`vladapt.backbones`)."""
    backbone = build_backbone(catalogue.backbones()[family], rest)
    if image_size not in (None, backbone.image_size):
        raise ConfigError(
            f"image_size={image_size}: backbone '{backbone.spec}' takes {backbone.image_size}; give that, or omit "
            "image_size"
        )
    return backbone


def _widened(backbone: Backbone, channels: InputChannels | None) -> Backbone:
    """The backbone for images of these channels; one that was trained on others is refused."""
    if channels is None or (backbone.channels is not None and len(backbone.channels) == len(channels)):
        return backbone
    if len(channels) == RGB and not backbone.by_band:
        return backbone
    if backbone.channels is not None:
        has = ", ".join(backbone.channels.names)
        raise CapabilityError(
            f"--backbone {backbone.spec}: takes {len(backbone.channels)} channels ({has}), the images have "
            f"{len(channels)} ({', '.join(channels.names)}); give images of the same channels"
        )
    backbone.widen(channels)
    return backbone


def announce_terms(spec: str, tell: Callable[[str], None]) -> None:
    """Say before a published model is downloaded that its licence forbids commercial use, or that it is gated.

    Args:
        spec: of a backbone; nothing is said of what lies here already, which `announced` does.
        tell: takes the line.
    """
    entry = find_published(alias_of(split_options(spec)[0]) or "")
    if entry is None or not (entry.gated or entry.non_commercial) or entry.is_cached():
        return
    line = licence_line(entry.licence, spec) or f"Backbone {spec}: its weights are under {entry.licence}"
    gate = f"; its terms are to be accepted at https://huggingface.co/{entry.id} first" if entry.gated else ""
    tell(f"{line}{gate}")


def announced(backbone: Backbone, tell: Callable[[str], None]) -> Backbone:
    """The backbone, after one line where its licence forbids commercial use.

    Args:
        tell: takes the line, before anything is computed.
    """
    if (line := licence_line(backbone.licence, backbone.spec)) is not None:
        tell(line)
    return backbone


def resolve_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"--device {device}: no such device; give auto, cpu, cuda or cuda:0") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: this torch sees no GPU; give --device cpu or install torch for CUDA")
    return target


# The file holds the weights under the names of their own library and, in its header, what else the family needs to
# build the towers; beside it lies what that library itself reads, so that it can load the folder too.

FORMAT = 1
KEPT = (*FAMILIES, HEADS)
"""Families whose backbones a training writes."""
ADAPTER = "adapter.safetensors"
"""The fitted head of a run, beside the file that names its backbone."""
PREFIX = "vladapt.text_prefix"
PROMPTS = "vladapt.prompts."
FURTHER = "vladapt.further_channels"
"""In the file only where the training gave texts a prefix, the towers tokens, or the images further channels, or where
its loss finds images and texts; other libraries have no place for these."""


def save_fine_tuned(backbone: Backbone, folder: str | Path) -> Path:
    """Write the towers; a reader sees the old file or the whole new one.

    Returns:
        The path of the weights, which is a backbone's spec.

    Raises:
        CapabilityError: the backbone cannot say how it is built again.
    """
    if backbone.description is None or backbone.family not in KEPT:
        raise CapabilityError(f"backbone '{backbone.spec}' cannot be saved: it has no description of its towers")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    answers = {name: loss_in_words(loss) for name, loss in backbone.answers.items()}
    header = {
        "format": FORMAT,
        "family": backbone.family,
        "trained_from": {"spec": backbone.spec, "fingerprint": backbone.fingerprint},
        "licence": backbone.licence,
        "description": backbone.description,
        **({} if backbone.channels is None else {"channels": backbone.channels.facts}),
        **({} if (reduction := getattr(backbone, "reduction", None)) is None else {MERGE: str(reduction)}),
        **({} if (native := getattr(backbone, "native", None)) is None else {PATCHES: str(native)}),
        **({} if backbone.finder is None else {"finder": loss_in_words(backbone.finder)}),
        **({"answers": answers} if answers else {}),
        **({"compares": backbone.compares} if answers or not backbone.compares else {}),
    }
    state = {
        name.replace(f"{CHILD}.", PROMPTS, 1) if name.startswith(f"{CHILD}.") else name: value
        for name, value in backbone.model.state_dict().items()
    }
    if isinstance(backbone, HeadBackbone):
        state = {}  # what was learned is in the adapter's own file
    elif backbone.channels is not None and backbone.input_layer() is not None:
        layer, _ = input_layer(backbone.model, backbone.spec, len(backbone.channels))
        state = divided_channels(state, layer, FURTHER)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    if getattr(backbone, "text_prefix", None) is not None:
        state[PREFIX] = backbone.text_prefix.detach().cpu().contiguous().clone()
    state |= {name: value.detach().cpu().contiguous().clone() for name, value in kept_tensors(backbone).items()}
    path = folder / FILE
    with replacing(path) as partial:
        save_file(state, str(partial), metadata={"format": "pt", "vladapt": json.dumps(header)})
        backbone.save_companions(folder)
    return path


def build_fine_tuned(spec: str, device: torch.device, image_size: ImageSize | None) -> Backbone:
    """The backbone of a file that `save_fine_tuned` wrote, its towers not yet built.

    Raises:
        DataError: no such file, damaged, or not one of ours.
        CapabilityError: the library of its family is not installed.
    """
    path = Path(spec).expanduser()
    path = path / FILE if path.is_dir() else path
    header = _header(path)
    _check_unchanged(path)
    family = header["family"]
    rebuild = _through_head if family == HEADS else import_module(f".{family}", __package__).rebuild
    try:
        backbone: Any = rebuild(header["description"], path, spec=spec, device=device, image_size=image_size)
        if "channels" in header:
            backbone.channels = replace(InputChannels.of_facts(header["channels"]), start=InputChannels.TRAINED)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"--backbone {path}: its header is damaged ({error}); train it again, or copy it") from error
    with safe_open(str(path), framework="pt") as f:
        names = set(f.keys())
        backbone.text_prefix = f.get_tensor(PREFIX) if PREFIX in names else None
        tokens = {name.removeprefix(PROMPTS): f.get_tensor(name) for name in names if name.startswith(PROMPTS)}
        backbone.further = f.get_tensor(FURTHER) if FURTHER in names else None
        tensors = {name: f.get_tensor(name) for name in names if name.startswith((FINDER, ANSWERS))}
    _with_kept_losses(backbone, header, tensors, device, f"--backbone {path}")
    backbone.prompts = TowerPrompts.of(tokens) if tokens else None
    if MERGE in header and backbone.reduction is None:  # of joined towers the image tower's spec may say it
        backbone.merge_tokens(Reduction.of(header[MERGE]))
    if PATCHES in header:
        backbone.keep_aspect(Patches.of(header[PATCHES]))
        _check_size(image_size, backbone)
    return backbone


def _with_kept_losses(
    backbone: Backbone, header: dict[str, Any], tensors: dict[str, Tensor], device: torch.device, place: str
) -> None:
    """The losses that the header names, built of the tensors that are theirs."""

    def built(words: str, start: str, claim: str) -> Any:
        own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        return KeptLoss(words, own).built(device, place, claim)

    if "finder" in header:
        backbone.finder = built(header["finder"], FINDER, "finds")
    answers = header.get("answers", {})
    if not isinstance(answers, dict):
        raise DataError(f"{place}: its header is damaged; train it again, or copy it")
    backbone.answers = {name: built(words, f"{ANSWERS}{name}.", "answers") for name, words in answers.items()}
    backbone.compares = header.get("compares") is not False


def _through_head(
    description: dict[str, Any], path: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> Backbone:
    """The backbone of a `HeadBackbone`'s description, seen through the fitted adapter beside the file that has it.

    Raises:
        DataError: there is no such adapter, or it compares no samples with texts.
        CapabilityError: its backbone is not installed here, or another one.
    """
    file = path.parent / ADAPTER
    if not file.is_file():
        raise DataError(f"--backbone {path}: needs {file.name} beside it; copy the whole folder of the run")
    base = load_backbone(description["backbone"], device, image_size or as_image_size(description["image_size"]))
    adapter = load_adapter(file, base)
    made = adapter.adapted(base)
    if not isinstance(made, HeadBackbone):
        raise DataError(f"{file}: adapter '{adapter.name}' compares no samples with texts; copy the run again")
    made.spec = spec
    return made


def _check_unchanged(path: Path) -> None:
    """Raise the DataError of weights that are not what the run beside them was written with."""
    digests = None
    with suppress(DataError, AttributeError):  # no run, or none that says it
        digests = read_json(path.parent / "run.json").get("sha256")
    if isinstance(digests, dict) and digests.get(path.name) not in (None, *file_digests([path])):
        raise DataError(f"--backbone {path}: damaged or replaced, its sha256 is not that of its run; copy it again")


def _header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"--backbone {path}: no such file; give the {FILE} that a training wrote")
    try:
        with safe_open(str(path), framework="pt") as f:
            header = json.loads((f.metadata() or {}).get("vladapt", "null"))
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"--backbone {path}: not a readable safetensors file ({error}); copy it again") from error
    if not isinstance(header, dict) or {"format", "family", "description"} - set(header):
        raise DataError(
            f"--backbone {path}: a safetensors file that no training of vladapt wrote; "
            "give open_clip:<arch or config.json>@<file>, or hf:<folder>"
        )
    if header["format"] != FORMAT:
        raise DataError(f"--backbone {path}: format {header['format']}, this version reads {FORMAT}; train it again")
    if header["family"] not in KEPT:
        raise DataError(
            f"--backbone {path}: of family '{header['family']}', which this version does not know; upgrade vladapt"
        )
    return header
