"""ActionCLIP end to end: both towers and a temporal head, by a KL loss on the classes that a batch shares.

Take it for clips with a GPU and hundreds of clips per class, where the towers may change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....core.backbones import JointParts
from ....core.contracts import Backbone, Batch, Loss, TrainingImages, has, option
from ....core.errors import CapabilityError
from ....core.prompts import encoded_classes
from ....core.training import TrainingTask
from ._clip_towers import ClipTowerAdapter
from .action_clip import VideoHeader, shared_class_loss


class HeadedFrames(JointParts):
    """Each frame through the image tower by itself, and a head that makes a video feature of all.

    Args:
        frames: T.
        head: (B, T, D) and (B, T) bool -> (B, D).
        rate: of the head, as a multiple of that of the towers.
    """

    def __init__(self, frames: int, head: nn.Module, rate: float):
        super().__init__(frames)
        self.head, self.rate = head, rate

    def embed(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        x = backbone.run_blocks("image", backbone.embed_image(pixels.flatten(0, 1)))
        frames = backbone.pool_image(x, normalize=False).unflatten(0, (-1, self.parts))  # (B, T, D)
        return self.head(frames, torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device))


class SharedClassLoss(Loss):
    """`shared_class_loss` of the clips of a batch with the texts of their classes."""

    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "labels", "logit_scale"})

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        scores, labels = out["logit_scale"] * out["image_features"] @ out["text_features"].T, out["labels"]
        if out.get("class_priors") is not None:
            scores = scores + out["class_priors"][labels]
        return {"loss": shared_class_loss(scores, labels)}


@dataclass(eq=False, kw_only=True)
class ActionClipTowers(ClipTowerAdapter):
    """ActionCLIP: A New Paradigm for Video Action Recognition (Wang, Xing and Liu, 2021, arXiv 2109.08472), trained as
    published: the head of `action-clip` on the frames of an image tower that learns with it, and the text tower.

    In each step a clip goes with one text of its class, made of the next template. The loss is that of `action-clip`:
    the KL divergence of the softmax of a batch's scaled cosines from that of ten times who shares a class, of rows and
    of columns. The head learns at `f_ratio` times the rate of the towers. A test clip has the mean, over the
    templates, of its probabilities.

    Published, and the defaults here: AdamW at 5e-6 with weight decay 0.2 and ten times that rate for the head, 50
    epochs of which 5 rise, a cosine, batches of 128. The domain sets the number of frames per clip (`--frames`).

    Raises:
        ConfigError: an option out of range.
        CapabilityError: several labels per clip, an image tower without transformer blocks, or clips of more than 77
            frames.

    Example:
        >>> adapter = build_adapter("action-clip-towers", epochs=1, batch_size=4, sim_header="LSTM")
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "the domain's prompts, crops and colours instead of the published ones, most of which the recipe takes; of "
        "these prompts one follows the other (released: drawn); no weight decay on vectors, but in the recipe; float32 "
        "unless `amp` says otherwise"
    )
    multilabel: ClassVar[bool] = False
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})
    state: ClassVar[tuple[str, ...]] = (*ClipTowerAdapter.state, "of_templates")
    default_loss: ClassVar[str] = "clip"
    default_epochs: ClassVar[int] = 50
    of_templates: Tensor | None = field(init=False, default=None, repr=False)

    batch_size: int = 128
    lr: float = 5e-6
    weight_decay: float = 0.2
    header = has(VideoHeader)
    f_ratio: float = option(10.0, "rate of the head, as a multiple of that of the towers", above=0)

    @property
    def part_positions(self) -> int | None:  # type: ignore[override]  # by an option
        return self.header.places

    def _joint(self, backbone: Backbone) -> HeadedFrames:
        self.check_part_count(self.frames)
        return HeadedFrames(self.frames, self.header.network(backbone.embed_dim), self.f_ratio)

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        return {**super()._settings_of_method(epochs), "betas": (0.9, 0.98)}

    def _completed(self, task: TrainingTask, base: Backbone, images: TrainingImages | None) -> TrainingTask:
        task = super()._completed(task, base, images)
        return task if self.loss is not None else replace(task, own={"shared-classes": SharedClassLoss()})

    def _name_classes(self, towers: Backbone, prompts: Sequence[Sequence[str]], negative) -> None:
        super()._name_classes(towers, prompts, negative)
        count = min(map(len, prompts))
        rows = [encoded_classes(towers, [texts[place : place + 1] for texts in prompts]) for place in range(count)]
        self.of_templates = torch.stack(rows)  # (K, C, D)

    def _logits(self, batch: Batch) -> Tensor:
        if self.weights is None or self.of_templates is None:
            return super()._logits(batch)
        scores = self.logit_scale * torch.einsum("nd,kcd->nkc", self._unit(batch), self.of_templates)
        return scores.log_softmax(dim=-1).logsumexp(dim=1) - log(scores.shape[1])

    def fit_pairs(self, source, backbone: Backbone, **how: Any):
        raise CapabilityError(
            f"adapter '{self.name}' learns from labelled clips, not from pairs; give clip4clip with train_towers"
        )
