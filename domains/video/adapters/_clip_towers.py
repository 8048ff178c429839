"""Base of the methods that train towers on clips: batches of B clips of T frames, by the training of all towers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.backbones import JointParts
from ....core.contracts import Backbone, ClassWeighting, FitReport, Loss, TrainingImages, has
from ....core.errors import CapabilityError, DataError
from ....core.training import PixelScores, TowerAdapter, TowerLayers, TrainingSource, TrainingTask
from ..transforms import EachFrame, as_frames
from ._mixing import END_SHARE, Mixing

TRIES = 20
"""Clips that are tried for one that can be read."""


@dataclass(eq=False, kw_only=True)
class ClipTowerAdapter(TowerAdapter):
    """A method says how its image tower sees the frames of a clip together (`_joint`). The rest is `full`: both towers,
    or the image tower alone, are trained in a copy by cross-entropy on scaled cosines of clips and class prompts,
    frames travel in 8 bits, and what was learned goes into another copy by `adapted`, whose features are of clips.

    A clip gives as many frames as the first one of the training does: one that has another number gives those at
    round(linspace(0, T - 1, frames)), so that a shorter one repeats some. An image is a clip of one frame.

    Attributes:
        frames: of a clip.
        head_loss: of a head that reads the frames of clips and is trained with the towers; None: clips are told apart
            by their own vectors.
        head_rate: what that head learns at, as a multiple of the rate of the towers.
        gives_frames: whether a head reads the frames.

    Class attributes:
        trains_text: whether the text tower is trained.
        trains_scale: whether the logit scale (and bias) is.
        mixing: a part of those that are trained as X-CLIP is: clips of a batch are mixed, and AdamW goes down a cosine
            to a hundredth of the rate.
    """

    backbone_needs: ClassVar[frozenset[str]] = frozenset({"image_blocks"})
    state: ClassVar[tuple[str, ...]] = (*TowerAdapter.state, "frames")
    trains_text: ClassVar[bool] = True
    trains_scale: ClassVar[bool] = True
    mixing: ClassVar[Mixing | None] = None

    weighting = has(ClassWeighting)
    head_loss: Loss | None = field(init=False, default=None, repr=False)
    head_rate: float = field(init=False, default=1.0, repr=False)
    gives_frames: bool = field(init=False, default=False, repr=False)

    @abstractmethod
    def _joint(self, backbone: Backbone) -> JointParts | None:
        """What hangs on the image tower to see `frames` of them together, its weights at their start; None: each frame
        is encoded by itself and the features are averaged."""

    def _choose(self, backbone: Backbone) -> list[str]:
        self._hang(backbone)
        TowerLayers(backbone).set_trainable()
        if not self.trains_text:
            TowerLayers(backbone).freeze({"text"})
        if not self.trains_scale:
            for name, parameter in backbone.model.named_parameters(recurse=False):
                parameter.requires_grad_(parameter.requires_grad and name not in PixelScores.SCALES)
        return []

    def _put(self, backbone: Backbone) -> None:
        if (joint := self._hang(backbone)) is not None:
            joint.requires_grad_(False)
        super()._put(backbone)

    def _hang(self, backbone: Backbone) -> JointParts | None:
        """What now hangs on the image tower."""
        if (joint := self._joint(backbone)) is None:
            return None
        joint.gives_parts = self.gives_frames
        return joint.attach(backbone)

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        settings = {**super()._settings_of_method(epochs), "head_rate": self.head_rate}
        return settings if self.mixing is None else {**settings, "betas": (0.9, 0.98), "end_lr": END_SHARE * self.lr}

    def _completed(self, task: TrainingTask, base: Backbone, images: TrainingImages | None) -> TrainingTask:
        task = super()._completed(task, base, images)
        if self.mixing is not None and images is not None and self.loss is None and not self.multilabel_:
            task = self.mixing.completed(task, self.default_loss, len(images.prompts))
        if self.head_loss is None:
            return task
        identity = {**task.identity, "head": self.head_loss.identity}
        return replace(task, own={"head": self.head_loss}, identity=identity)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        given = {"val": val, "unlabeled": unlabeled, "backbone": backbone, "seed": seed}
        resources = {**resources, "images": self._in_whole_clips(resources["images"])}
        return super()._fit(support, classifier, resources=resources, **given)

    def _in_whole_clips(self, images: TrainingImages) -> TrainingImages:
        """The images whose pixels, but for training, are clips of `frames` in one crop."""
        transform = images.eval_transform
        middle = replace(transform, crops=1) if isinstance(transform, EachFrame) else transform
        return replace(images, eval_transform=lambda decoded: as_frames(middle(decoded), self.frames))

    def _train(self, task: TrainingTask, epochs: int, backbone: Backbone, on_val, place, seed: int) -> FitReport:
        view = task.view
        self.frames = _frames_of(task.source, view)
        task = replace(task, view=lambda decoded, drawn: as_frames(view(decoded, drawn), self.frames))
        return super()._train(task, epochs, backbone, on_val, place, seed)


class FixedTexts(PixelScores):
    """Base of logits of clips by class texts that no step changes.

    Args:
        text: (C, D), as a method makes them of prompts.
        negative: (C, D) of texts that say the class is absent, or None.
    """

    def __init__(self, text: Tensor, negative: Tensor | None):
        super().__init__()
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("negative", negative, persistent=False)

    @abstractmethod
    def cosines(self, backbone: Backbone, clips: Tensor, text: Tensor) -> Tensor:
        """(B, T, 3, H, W) clips and (C, D) texts -> (B, C)."""

    def forward(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        clips = pixels if pixels.ndim == 5 else pixels[:, None]
        rows = self.text if self.negative is None else torch.cat([self.text, self.negative])
        scores = backbone.logit_scale.float() * self.cosines(backbone, clips, rows)
        if self.negative is not None:
            return scores[:, : len(self.text)] - scores[:, len(self.text) :]
        return scores if backbone.logit_bias is None else scores + backbone.logit_bias


def _frames_of(source: TrainingSource, view: Callable[[Any, int], Tensor]) -> int:
    """How many frames the first readable clip of a training has; 1 of an image.

    Raises:
        DataError: none of the first can be read.
    """
    for row in range(min(TRIES, len(source))):
        try:
            pixels = view(source.image(row), 0)
        except DataError as error:
            unread = error
        else:
            return len(pixels) if pixels.ndim == 4 else 1
    raise unread


def need_class_token(backbone: Backbone, who: str) -> None:
    """Raise the CapabilityError of a method that reads the class token, where the image tower has not just that one
    before its patches."""
    if backbone.image_prefix != 1:
        raise CapabilityError(
            f"adapter '{who}' reads the class token of each frame, and backbone '{backbone.spec}' has "
            f"{backbone.image_prefix} such tokens in its image tower; use a CLIP"
        )
