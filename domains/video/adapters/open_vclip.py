"""Open-VCLIP: attention to neighbouring frames, and weights between CLIP's and the trained ones.

Take it for clips with a GPU, where classes that were never seen are to be named too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.backbones import JointParts
from ....core.contracts import Backbone, Batch, Block, FitReport, TrainingImages, option, require
from ....core.prompts import encoded_classes
from ....core.training import TrainingResult, TrainingSettings, TrainingTask
from ._clip_towers import ClipTowerAdapter, FixedTexts

RATIOS = tuple(step / 10 for step in range(11))
DEFAULT_RATIO = 0.5
PLAIN_MEAN = (0.0, 1e9)
"""Of epochs: a Gaussian so wide that all count alike."""
WARMUP_SHARE = 2 / 22
END_SHARE = 0.01


class NeighbouringFrames(JointParts):
    """The image tower, whose attention looks at the tokens of the frames before and after as well. It has no weights.
    A clip's feature is the mean of its frames' unit features, so that its cosines are the means of theirs.

    Args:
        frames: T.
    """

    def embed(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        def attention(index: int, block: Block, x: Tensor) -> Tensor:
            return block.out(windowed(block.qkv(x), block.num_heads, self.parts))

        x = backbone.run_blocks("image", backbone.embed_image(pixels.flatten(0, 1)), attention=attention)
        return backbone.pool_image(x).unflatten(0, (-1, self.parts)).mean(dim=1)


def windowed(qkv: Tensor, heads: int, frames: int) -> Tensor:
    """Attention of frames over the tokens of the next frame, of the one before and of their own.

    Where there is no such frame its keys and values are zero: they take part in the softmax, as published.

    Args:
        qkv: (B * T, L, 3 W) stacked queries, keys and values.
        frames: T.

    Returns:
        (B * T, L, W).
    """
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B * T, H, L, W / H)

    def widened(x: Tensor) -> Tensor:
        clips = x.unflatten(0, (-1, frames))  # (B, T, H, L, W / H)
        none = torch.zeros_like(clips[:, :1])
        after, before = torch.cat([clips[:, 1:], none], dim=1), torch.cat([none, clips[:, :-1]], dim=1)
        return torch.cat([after, before, clips], dim=3).flatten(0, 1)  # (B * T, H, 3 L, W / H)

    mixed = F.scaled_dot_product_attention(query, widened(key), widened(value))
    return mixed.transpose(1, 2).flatten(2)


class MeanCosines(FixedTexts):
    """Logits of clips as the means of their frames', by unit texts."""

    def cosines(self, backbone: Backbone, clips: Tensor, text: Tensor) -> Tensor:
        return backbone.encode_image(clips, normalize=False) @ text.T


@dataclass(eq=False, kw_only=True)
class OpenVclip(ClipTowerAdapter):
    """Open-VCLIP: Transforming CLIP to an Open-vocabulary Video Model via Interpolated Weight Optimization (Weng et
    al., 2023, arXiv 2302.00624).

    The image tower's attention looks at the tokens of the next frame and of the one before beside its own frame's; a
    frame that is not there gives keys and values of zero, which take part in the softmax, as released. No weights are
    added. A clip's logits are the means of its frames'. The image tower and the logit scale are trained by
    cross-entropy, and class texts stay as they are, so that classes to come are named by CLIP's own text tower. Three
    things keep the weights near CLIP's:

    * In each step a ~ U(`sample_range`) is drawn, and to the gradient `loss_ratio` times that at a CLIP + (1 - a) now
      is added, not multiplied by 1 - a, as released.
    * The weights at the ends of the epochs from `average_from` on are averaged.
    * What is kept is r CLIP + (1 - r) average, r (`patching_ratio`) of 0, 0.1, ..., 1 chosen on val: of the best the
      one nearest to 0.5; without val it is 0.5, that of the released example.

    Published for Kinetics: a rate of 3.33e-6, weight decay 0.01, 22 epochs, 2 of warm-up, a cosine down to a hundredth,
    batches of 64 clips of 8 frames, no augmentation but crops and flips. The domain sets the number of frames per clip
    (`--frames`).

    With zeros in the place of the missing frames, a clip of one frame is not what the tower makes of an image.

    Several labels per clip: binary cross-entropy on the difference to the negative prompts.

    Classes with unequal numbers of clips count alike (`class_weight`); published is "none".

    Raises:
        ConfigError: an option out of range.
        CapabilityError: the image tower has no transformer blocks.

    Example:
        >>> adapter = build_adapter("open-vclip", epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "the share of CLIP in the saved weights is chosen on val if there is one (released: given); the domain's "
        "prompts instead of the 28 published ones. The fixture covers the weights; attention over neighbours is "
        "checked against explicit loops"
    )
    trains_text: ClassVar[bool] = False
    ema: ClassVar[None] = None  # no option: the average is that of the epochs
    default_epochs: ClassVar[int] = 22

    batch_size: int = 64
    lr: float = 3.33e-6
    weight_decay: float = 0.01
    warmup: float = WARMUP_SHARE
    sample_range: tuple[float, float] = option(
        (0.0, 0.6), "share of CLIP in the weights of the second gradient, (smallest, largest)", low=0, high=1
    )
    loss_ratio: float = option(0.5, "weight of the second gradient; 0: none", low=0, high=100)
    average_from: int = option(
        2, "first epoch whose weights are averaged, the last one at the latest", low=1, high=100_000
    )
    patching_ratio: float | None = option(
        None, "share of CLIP in the kept weights; none: chosen on val, else 0.5", low=0, high=1
    )

    def __post_init__(self):
        super().__post_init__()
        low, high = self.sample_range
        require(low <= high, "sample_range", self.sample_range, "give the smaller share first")

    def _joint(self, backbone: Backbone) -> NeighbouringFrames:
        return NeighbouringFrames(self.frames)

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        averaged = {"epoch_average": PLAIN_MEAN, "average_from": min(self.average_from, epochs)}
        return {**super()._settings_of_method(epochs), "end_lr": END_SHARE * self.lr, **averaged}

    def _completed(self, task: TrainingTask, base: Backbone, images: TrainingImages | None) -> TrainingTask:
        task, start = super()._completed(task, base, images), dict(base.model.named_parameters())
        if images is not None:
            task = replace(task, class_scores=self._scores(base, task.class_prompts, task.negative_prompts))
        return task.with_pass_between(self.loss_ratio, *self.sample_range, start) if self.loss_ratio else task

    def _scores(self, towers: Backbone, prompts, negative) -> MeanCosines:
        absent = None if negative is None else encoded_classes(towers, negative)
        return MeanCosines(encoded_classes(towers, prompts), absent).to(towers.device)

    def _train(self, task: TrainingTask, epochs: int, backbone: Backbone, on_val, place, seed: int) -> FitReport:
        self._on_val = on_val
        return super()._train(task, epochs, backbone, on_val, place, seed)

    def _learned(self, trained: Backbone, base: Backbone) -> dict[str, Tensor]:
        start = dict(base.model.named_parameters())
        average = {name: parameter.detach().clone() for name, parameter in trained.model.named_parameters()}

        def score(share: float) -> float:
            trained.put_tensors(patched(start, average, share))
            return on_val(trained)

        on_val, self._on_val = self._on_val, None
        self._kept = chosen_share(self.patching_ratio, None if on_val is None else score)
        trained.put_tensors(patched(start, average, self._kept))
        return super()._learned(trained, base)

    def _report(self, done: TrainingResult, settings: TrainingSettings, notes: list[str]) -> FitReport:
        report = super()._report(done, settings, notes)
        report.chosen["patching_ratio"] = self._kept
        return report

    def _unit(self, batch: Batch) -> Tensor:
        """Means of unit features, which are shorter than 1: as `MeanCosines` has them."""
        if batch.features is not None:
            return batch.features.float()
        if batch.pixels is None or self._made is None:
            return super()._unit(batch)  # which says what is missing
        with torch.no_grad():
            return self._made.encode_image(batch.pixels, normalize=False)


def patched(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """share * start + (1 - share) * trained, of every weight."""
    return {name: torch.lerp(value, start[name].to(value), share) for name, value in trained.items()}


def chosen_share(given: float | None, score: Callable[[float], float] | None) -> float:
    """The share that is given, or of `RATIOS` the best on val; of several the one nearest to 0.5, then the smaller."""
    if given is not None or score is None:
        return DEFAULT_RATIO if given is None else given
    scores = {share: score(share) for share in RATIOS}
    return min(RATIOS, key=lambda share: (-scores[share], abs(share - DEFAULT_RATIO)))
