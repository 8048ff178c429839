"""What DenseCLIP's segmentor and detector share: scores beside maps, and configs that fit the number of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from ......core.contracts import require
from ......core.errors import CapabilityError, ConfigError
from ......registry import MODELS
from ....vocabulary import Classes, NamedClasses, Vocabulary
from .matching import PixelTextMatching

HEADS = ("decode_head", "auxiliary_head", "bbox_head", "mask_head", "mask_iou_head", "query_head")
HOLDERS = ("roi_head",)
CROSS_ENTROPY = {"type": "mmseg.CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4}


class WithScores(NamedClasses):
    """A model around maps of DenseCLIP's tower, beside one of which stand the score maps of its classes.

    Attributes:
        backbone, matching: of `build_tower` and `build_matching`.
        score_concat_index: the map that the scores go to, if `concat_scores`.
        tau: what scores are divided by in their own loss.
    """

    def build_scores(self, backbone: str, classes: Classes, tower, matching, concat: bool, index: int | None, tau):
        """Set the attributes, of the options of these names.

        Raises:
            ConfigError: an option is not usable. CapabilityError: the tower has no maps, or takes no prompts.
        """
        require(tau > 0, "tau", tau, "give a number above 0")
        self.backbone, self.tau, self.concat_scores = build_tower(backbone, tower), tau, concat
        self.score_concat_index = checked_level(index, self.backbone)
        self.matching = build_matching(backbone, classes, self.backbone.embed_dim, matching)

    def neck_over_maps(self, neck: Mapping[str, Any]) -> dict[str, Any]:
        """As `fitted_neck`, over the maps and the scores that stand beside one of them."""
        count, index = len(self.matching.prompts), self.score_concat_index if self.concat_scores else None
        return fitted_neck(neck, with_scores(self.backbone.out_channels, count, index))

    def beside_scores(self, maps: Sequence[Tensor], scores: Tensor) -> Sequence[Tensor]:
        """What the neck reads."""
        return with_score_maps(maps, scores, self.score_concat_index) if self.concat_scores else maps


def build_tower(spec: str, options: Mapping[str, Any] | None) -> nn.Module:
    """DenseCLIP's image tower with `options`."""
    return MODELS.build({"type": "vladapt.DenseCLIPBackbone", "backbone": spec, **(options or {})})


def build_matching(spec: str, classes: Classes, embed_dim: int, options: Mapping[str, Any] | None) -> PixelTextMatching:
    """The pixel-text matching with `options`, its classes read by their names alone."""
    return PixelTextMatching(spec, Vocabulary.of(classes, "name"), embed_dim, **(options or {}))


def checked_level(score_concat_index: int | None, tower: nn.Module) -> int:
    """The map that scores go to, the tower's own choice where none is named; ConfigError if there is no such map."""
    index, levels = tower.score_level if score_concat_index is None else score_concat_index, len(tower.out_channels)
    known = 0 <= index < levels
    require(known, "score_concat_index", score_concat_index, f"the backbone has maps 0 to {levels - 1}")
    return index


def with_score_maps(maps: Sequence[Tensor], scores: Tensor, index: int) -> list[Tensor]:
    """The maps, (B, C, h, w) scores appended to the channels of the one at `index`, brought to its size."""
    joined = list(maps)
    if scores.shape[2:] != joined[index].shape[2:]:
        scores = F.interpolate(scores, size=joined[index].shape[2:], mode="bilinear", align_corners=False)
    joined[index] = torch.cat([joined[index], scores.to(joined[index].dtype)], dim=1)
    return joined


def with_scores(channels: Sequence[int], classes: int, index: int | None) -> list[int]:
    """Channels of the maps once the scores are beside that at `index`; None leaves them as they are."""
    return [count + (classes if level == index else 0) for level, count in enumerate(channels)]


def fitted_neck(neck: Mapping[str, Any], channels: Sequence[int]) -> dict[str, Any]:
    """The config of a neck over maps of so many channels, which it may leave out.

    Raises:
        ConfigError: it names others.
    """
    named = neck.get("in_channels")
    if named is not None and list(named) != list(channels):
        raise ConfigError(
            f"neck.in_channels={list(named)} does not fit: the maps, with the score maps of the classes, have "
            f"{list(channels)} channels; give these, or omit in_channels"
        )
    return {**neck, "in_channels": list(channels)}


def fit_classes(config: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """A config whose heads know the number of classes; they may leave it out.

    Raises:
        ConfigError: a head names another one.
    """
    fitted = dict(config)
    for name in HEADS:
        head = fitted.get(name)
        if isinstance(head, Mapping):
            fitted[name] = _fitted_head(name, head, classes)
        elif isinstance(head, (list, tuple)):
            fitted[name] = [_fitted_head(name, part, classes) for part in head]
    for name in HOLDERS:
        if isinstance(fitted.get(name), Mapping):
            fitted[name] = fit_classes(fitted[name], classes)
    return fitted


def refuse_other_number(model: nn.Module, head: nn.Module, vocabulary: Vocabulary) -> None:
    """Raise the CapabilityError of a model that cannot take so many classes.

    Args:
        model: with `matching` and `concat_scores`.
        head: what classifies behind the maps.
    """
    before, now = len(model.matching.prompts), len(vocabulary)
    if now == before or (not model.concat_scores and any(_takers(head))):
        return
    reason = (
        "its score maps are channels of what the neck reads" if model.concat_scores else "its head's classes are fixed"
    )
    raise CapabilityError(
        f"{type(model).__name__} was built for {before} classes and cannot take {now}: {reason}; give {before} names, "
        "or train with concat_scores=False and a head that classifies by text"
    )


def _fitted_head(name: str, head: Mapping[str, Any], classes: int) -> dict[str, Any]:
    if head.get("num_classes", classes) != classes:
        raise ConfigError(
            f"{name}.num_classes={head['num_classes']}, but {classes} classes are named; omit num_classes"
        )
    return {**head, "num_classes": classes}


def _takers(module: nn.Module) -> Iterator[bool]:
    return (True for part in module.modules() if isinstance(part, NamedClasses))


@MODELS.register_module()
class IdentityHead(BaseDecodeHead):
    """A decode head without parameters. As published its cross-entropy has weight 0.4.

    Args:
        num_classes: channels of what comes in.
        loss_decode, options: as of every decode head.
    """

    def __init__(self, num_classes: int, loss_decode: dict | list | None = None, **options: Any):
        super().__init__(
            in_channels=num_classes,
            channels=num_classes,
            num_classes=num_classes,
            loss_decode=loss_decode or CROSS_ENTROPY,
            **{"dropout_ratio": 0, "init_cfg": None, **options},
        )
        self.conv_seg = None

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, h, w), unchanged."""
        return inputs
