"""CLIP4Clip: a transformer, an LSTM or a cross encoder over the frame features of a clip.

Take it to find clips by sentences, on thousands of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ....core.contracts import Backbone, option
from ._axes import FeatureAxes
from ._frames import POSITIONS, average_of_unit
from ._matching import matching_loss
from ._pairs import PairTextHead
from ._text_head import TextHeadStep
from ._text_tokens import Sentences
from ._transformer import (
    QuickGELU,
    Transformer,
    as_clip4clip_starts,
    heads_of,
    positions_table,
    take_text_blocks,
)

PAIR_TOKENS = 1 << 16
"""Tokens of clips with texts that go through the cross encoder at once, where no gradient is wanted."""


class SequenceTransformer(nn.Module):
    """seqTransf: learned positions are added, blocks run over the frames, their input is added; then the average."""

    def __init__(self, width: int, layers: int, heads: int, axes: Tensor | None = None):
        super().__init__()
        self.axes = FeatureAxes(axes)
        self.frame_position_embeddings = positions_table(width)
        self.transformerClip = Transformer(width, layers, heads)
        self.apply(partial(as_clip4clip_starts, gain=self.axes.gain))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        placed = self.axes.enter(frames) + self.frame_position_embeddings.weight[: frames.shape[1]]
        return average_of_unit(self.axes.replaced(frames, self.transformerClip(placed, mask)) + frames, mask)


class SequenceLSTM(nn.Module):
    """seqLSTM: one layer as wide as the frames, its input added; then the average."""

    def __init__(self, width: int, axes: Tensor | None = None):
        super().__init__()
        self.axes = FeatureAxes(axes)
        self.lstm_visual = nn.LSTM(width, width, batch_first=True)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        read = self.lstm_visual(self.axes.enter(frames))[0]  # frames behind the last change nothing
        return self.averaged(self.axes.leave(read) + frames, mask)

    def averaged(self, frames: Tensor, mask: Tensor) -> Tensor:
        return average_of_unit(frames, mask)


class TightTransformer(nn.Module):
    """tightTransf: blocks over the text and the frames together, a pooler on the text's place, a number per pair."""

    def __init__(self, width: int, layers: int, heads: int, axes: Tensor | None = None):
        super().__init__()
        self.axes = FeatureAxes(axes)
        self.position_embeddings = positions_table(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_pool = nn.LayerNorm(width, eps=1e-12)
        self.dense, self.activation = nn.Linear(width, width), QuickGELU()
        self.similarity_dense = nn.Linear(width, 1)
        self.apply(partial(as_clip4clip_starts, gain=self.axes.gain))

    def forward(self, frames: Tensor, mask: Tensor, text: Tensor) -> Tensor:
        """(B, T, D), (B, T) and texts (C, D) -> (B, C) logits."""
        frames, text = self.axes.enter(frames), self.axes.enter(text)
        each = text[:, None, None].expand(-1, len(frames), 1, -1)  # (C, B, 1, D)
        pairs = torch.cat([each, frames.expand(len(text), -1, -1, -1)], dim=2).flatten(0, 1)  # (C * B, 1 + T, D)
        there = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1).repeat(len(text), 1)
        placed = pairs + self.position_embeddings.weight[: pairs.shape[1]]
        pooled = self.activation(self.dense(self.ln_pool(self.transformer(placed, there)[:, 0])))
        return self.similarity_dense(pooled).view(len(text), len(frames)).T


@dataclass(eq=False, kw_only=True)
class Clip4clip(PairTextHead):
    """CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval (Luo et al., 2021, arXiv 2104.08860):
    its three ways to look at the order of frames, on stored features. Its meanP is `mean-pool`.

    seqTransf (`sim_header`, the default) and seqLSTM give a video feature that is compared with the class texts;
    tightTransf reads each text with the frames and gives the logit of the pair itself. Blocks and positions start from
    the first ones of the text tower where that has CLIP's kind of blocks as wide as its features, else as the released
    code starts what it has no weights for.

    Published is a training of both towers with the head (rate 1e-4 for the head, 5 epochs, batches of 128 pairs, a
    rise of 10 % and a cosine, weight decay 0.2, gradients of norm 1 at most) on pairs of a clip and a sentence, by the
    cross-entropy both ways within a batch. On pairs (`--task retrieval`) it is that with `train_towers`, else of the
    head alone. Where clips have classes, towers are frozen: it is the cross-entropy of a clip with all classes and that
    of a class in the batch with the clips, spread over those that it has. The defaults are 60 epochs at 1e-3, since
    positions that start at 0.02 have to grow in a few hundred steps.

    Raises:
        ConfigError: an option out of range, or heads that do not divide the width.
        CapabilityError: samples without parts, or clips of more than 77 frames.

    Example:
        >>> adapter = build_adapter("clip4clip", sim_header="seqLSTM", epochs=5)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "towers stay frozen unless `train_towers` says otherwise, clips may have classes instead of sentences, AdamW "
        "instead of BertAdam, 60 epochs at 1e-3 instead of 5 at 1e-4; seqLSTM and tightTransf have no fixture: checked "
        "against the modules, written directly"
    )
    optional: ClassVar[frozenset[str]] = frozenset({"text_encoder"})
    on_axes: ClassVar[bool] = True
    published: ClassVar[dict] = {"epochs": 5, "batch_size": 128, "lr": 1e-4}

    sim_header: str = option("seqTransf", "how frames are read", choices=("seqTransf", "seqLSTM", "tightTransf"))
    layers: int = option(4, "blocks of a transformer", low=1, high=48)
    heads: int | None = option(None, "attention heads; none: one for each 64 channels", low=1, high=256)

    @property
    def part_positions(self) -> int | None:  # type: ignore[override]  # by an option
        """Of the positions in tightTransf the text takes one."""
        return {"seqTransf": POSITIONS, "tightTransf": POSITIONS - 1}.get(self.sim_header)

    def _network(self, width: int) -> nn.Module:
        width = self._inner_width(width)
        if self.sim_header == "seqLSTM":
            return SequenceLSTM(width, self.axes)
        kind = SequenceTransformer if self.sim_header == "seqTransf" else TightTransformer
        return kind(width, self.layers, heads_of(width, self.heads), self.axes)

    def _start(self, network: nn.Module, backbone: Backbone | None) -> list[str]:
        if self.sim_header == "seqLSTM":
            return []
        if self.sim_header == "seqTransf":
            blocks, places = network.transformerClip.resblocks, network.frame_position_embeddings
        else:
            blocks, places = network.transformer.resblocks, network.position_embeddings
        return [take_text_blocks(backbone, [blocks], places, self.axes)]

    def _step_loss(self, step: TextHeadStep) -> Tensor:
        if self.multilabel_:
            return super()._step_loss(step)
        return matching_loss(self._scores(step.frames, step.mask), step.labels, step.priors)

    def _scores(self, frames: Tensor, mask: Tensor) -> Tensor:
        if self.sim_header != "tightTransf":
            return super()._scores(frames, mask)
        scores = self._together(
            frames, mask, self.text if self.negative is None else torch.cat([self.text, self.negative])
        )
        if self.negative is not None:
            return scores[:, : len(self.text)] - scores[:, len(self.text) :]
        return scores + self.offset

    def _together(self, frames: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """tightTransf: (B, N) logits of clips and texts (N, D)."""
        at_once = len(rows)
        if not torch.is_grad_enabled():
            at_once = max(1, PAIR_TOKENS // (len(frames) * (1 + frames.shape[1])))
        return torch.cat([self._net(frames, mask, some) for some in rows.split(at_once)], dim=1)

    # of pairs

    @property
    def pairwise(self) -> bool:
        return self.sim_header == "tightTransf"

    def scale_of(self, towers: Tensor) -> Tensor:
        return torch.ones_like(towers) if self.pairwise else towers  # what the cross encoder gives are logits

    def _pair_scores(self, frames: Tensor, mask: Tensor, sentences: Sentences) -> Tensor:
        if not self.pairwise:
            return super()._pair_scores(frames, mask, sentences)
        return self._together(frames, mask, sentences.whole)
