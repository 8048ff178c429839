"""ActionCLIP: temporal heads on frame features, trained by a KL loss on the classes that a batch shares.

Take it for clips on stored frame features, to compare heads of time with papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Part, has, option
from ._axes import FeatureAxes
from ._frames import POSITIONS, masked_mean
from ._text_head import TextHeadAdapter, TextHeadStep
from ._transformer import Transformer, as_clip4clip_starts, heads_of, positions_table
from .clip4clip import SequenceLSTM

SHARPNESS = 10.0
"""What the 0 and 1 of the ground truth are multiplied by before their softmax."""


class TransformerHead(nn.Module):
    """Transf: positions, blocks, the input added, the mean."""

    def __init__(self, width: int, layers: int, heads: int, axes: Tensor | None = None):
        super().__init__()
        self.axes = FeatureAxes(axes)
        self.frame_position_embeddings = positions_table(width)
        self.transformer = Transformer(width, layers, heads)
        self.apply(partial(as_clip4clip_starts, gain=self.axes.gain))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        placed = self.axes.enter(frames) + self.frame_position_embeddings.weight[: frames.shape[1]]
        return masked_mean(self.axes.replaced(frames, self.transformer(placed, mask)) + frames, mask)


class LSTMHead(SequenceLSTM):
    """LSTM: one layer, the input added, the mean."""

    def averaged(self, frames: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(frames, mask)


class ConvolutionHead(nn.Module):
    """Conv_1D: each channel convolved over time, a quarter of them starting as a shift back, a half as they are, a
    quarter as a shift forth; the input added, the mean.

    Args:
        as_released: read (B, T, D) as (B, D, T) without transposing, so that channels and times mix.
    """

    def __init__(self, width: int, as_released: bool):
        super().__init__()
        self.as_released = as_released
        self.shift = nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False)
        start, quarter = torch.zeros(width, 1, 3), width // 4
        start[:quarter, 0, 0] = 1.0
        start[quarter : quarter + width // 2, 0, 1] = 1.0
        start[width - quarter :, 0, 2] = 1.0
        self.shift.weight = nn.Parameter(start)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = frames.shape
        channels = frames.reshape(batch, width, length) if self.as_released else frames.mT
        return masked_mean(self.shift(channels).mT + frames, mask)


@dataclass(frozen=True, kw_only=True)
class VideoHeader(Part):
    """Which network makes a video feature of the frames, as options."""

    sim_header: str = option("Transf", "how frames are read", choices=("Transf", "LSTM", "Conv_1D"))
    layers: int = option(6, "blocks of the transformer", low=1, high=48)

    @property
    def places(self) -> int | None:
        """How many frames it has learned positions for."""
        return POSITIONS if self.sim_header == "Transf" else None

    def network(
        self, width: int, axes: Tensor | None = None, heads: int | None = None, released_conv: bool = False
    ) -> nn.Module:
        """A new network for features D = `width` wide, or for axes (D, W) of them: (frames, mask) -> (B, D).

        Args:
            heads: of the attention; None: one for each 64 channels.
            released_conv: as of `ConvolutionHead`.
        """
        if self.sim_header == "Conv_1D":
            return ConvolutionHead(width, released_conv)
        width = width if axes is None else axes.shape[1]
        if self.sim_header == "LSTM":
            return LSTMHead(width, axes)
        return TransformerHead(width, self.layers, heads_of(width, heads), axes)


@dataclass(eq=False, kw_only=True)
class ActionClip(TextHeadAdapter):
    """ActionCLIP: A New Paradigm for Video Action Recognition (Wang, Xing and Liu, 2021, arXiv 2109.08472).

    The head `sim_header` makes a video feature of the frames: Transf (published default, 6 blocks), LSTM or Conv_1D.
    Its meanP learns nothing and is `mean-pool` with `unit_frames=false`; its Transf_cls is not included.

    A batch of B clips with the texts of their classes is a B x B matrix of scaled cosines. Its ground truth is 1 where
    two have one class; the loss is KL(softmax(10 truth) || softmax(scores)) of its rows and of its columns, averaged,
    the sum over entries divided by B. Where all classes of a batch differ, the truth is still soft: 10 against 0.

    Published is a training of both towers with the head (AdamW, 5e-6 and ten times that for the head, weight decay
    0.2, 50 epochs of which 5 rise, batches of 128), with one of 16 templates drawn at each step, which is
    `action-clip-towers`. Here towers are frozen, and the texts are the classifier's mean over its templates.

    Raises:
        ConfigError: an option out of range, or heads that do not divide the width.
        CapabilityError: several labels per clip, samples without parts, or clips of more than 77 frames.

    Example:
        >>> adapter = build_adapter("action-clip", sim_header="LSTM", epochs=5)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "towers stay frozen, and the mean of the templates replaces one drawn at each step; Conv_1D transposes frames "
        "and channels, which the released code does not (`released_conv`)"
    )
    multilabel: ClassVar[bool] = False
    on_axes: ClassVar[bool] = True
    published: ClassVar[dict] = {"epochs": 50, "batch_size": 128, "lr": 5e-5}

    header = has(VideoHeader)
    heads: int | None = option(None, "attention heads; none: one for each 64 channels", low=1, high=256)
    released_conv: bool = option(False, "let Conv_1D mix channels and times, as the released code does")

    @property
    def part_positions(self) -> int | None:  # type: ignore[override]  # by an option
        return self.header.places

    def _network(self, width: int) -> nn.Module:
        return self.header.network(width, self.axes, self.heads, self.released_conv)

    def _step_loss(self, step: TextHeadStep) -> Tensor:
        scores = self._scores(step.frames, step.mask)
        scores = scores if step.priors is None else scores + step.priors
        return shared_class_loss(scores[:, step.labels], step.labels)


def shared_class_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean of both directions of `shared_class_kl`.

    Args:
        scores: (B, B) scaled cosines of clips with the texts of their classes.
        labels: (B,).
    """
    return (shared_class_kl(scores, labels) + shared_class_kl(scores.T, labels)) / 2


def shared_class_kl(scores: Tensor, labels: Tensor) -> Tensor:
    """KL divergence of each row's softmax from that of ten times who shares its class, summed, over B."""
    truth = (labels[:, None] == labels).to(scores.dtype)
    return F.kl_div(scores.log_softmax(dim=1), (SHARPNESS * truth).softmax(dim=1), reduction="batchmean")
