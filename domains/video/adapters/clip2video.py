"""CLIP2Video: differences between frames beside the frames, and clips and texts aligned by shared centres.

Take it to find clips by sentences in which motion matters, on thousands of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, TextClassifier, option
from ._axes import FeatureAxes
from ._frames import POSITIONS, average_of_unit
from ._matching import matching_loss
from ._pairs import PairTextHead
from ._text_head import TextHeadStep
from ._text_tokens import Sentences, class_texts, token_features
from ._transformer import Transformer, as_clip4clip_starts, heads_of, positions_table, take_text_blocks, text_positions

CENTRE_STD = 64**-0.5
FRAME, DIFFERENCE = 1, 0
"""Rows of the type embedding."""


class DifferenceBlock(nn.Module):
    """TDB: what changes from a frame to the next goes between the two.

    Args:
        width: D. layers, heads: of the transformer over frames and differences.
        temporal_proj: "default" leaves differences as they are; "sigmoid_mlp" and "sigmoid_selfA" bring them to -1..1
            after a matrix, or after a block of attention among them.
        released_mask: let the difference behind the last frame of a padded clip count.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        temporal_proj: str,
        released_mask: bool = False,
        axes: Tensor | None = None,
    ):
        super().__init__()
        self.axes = FeatureAxes(axes)
        self.temporal_proj, self.released_mask = temporal_proj, released_mask
        self.frame_position_embeddings = positions_table(width)
        self.type_position_embeddings = nn.Embedding(2, width)
        self.transformerClip = Transformer(width, layers, heads)
        if temporal_proj == "sigmoid_mlp":
            self.frame2t_projection = nn.Parameter(CENTRE_STD * torch.randn(width, width))
        if temporal_proj == "sigmoid_selfA":
            self.frame2t_attention = Transformer(width, 1, heads)
        if temporal_proj != "default":
            self.trans_layernorm = nn.LayerNorm(width)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) and (B, T) -> (B, D) unit."""
        tokens, there = self.tokens(self.axes.enter(frames), mask)
        read = self.transformerClip(tokens + self.added(frames.shape[1]), there)[:, ::2]
        return average_of_unit(self.axes.replaced(frames, read) + frames, mask)

    def tokens(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """f_1 d_1 f_2 d_2 ... f_T, (B, 2T - 1, D), and which of them are there."""
        differences = F.pad(self.differences(frames, mask), (0, 0, 0, 1))
        between = mask if self.released_mask else F.pad(mask[:, 1:], (0, 1))
        tokens = torch.stack([frames, differences], dim=2).flatten(1, 2)[:, :-1]
        return tokens, torch.stack([mask, between], dim=2).flatten(1, 2)[:, :-1]

    def added(self, length: int) -> Tensor:
        """(2T - 1, D): positions, d_t having that of f_t, and what says which is a frame."""
        places = self.frame_position_embeddings.weight[:length].repeat_interleave(2, dim=0)[:-1]
        kinds = torch.full((2 * length - 1,), DIFFERENCE, device=places.device)
        kinds[::2] = FRAME
        return places + self.type_position_embeddings(kinds)

    def differences(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T - 1, D)."""
        differences = frames[:, 1:] - frames[:, :-1]
        if self.temporal_proj == "default" or not differences.shape[1]:
            return differences
        if self.temporal_proj == "sigmoid_mlp":
            mixed = differences @ self.frame2t_projection
        else:
            placed = differences + self.frame_position_embeddings.weight[1 : frames.shape[1]]
            later = mask[:, 1:].clone()
            later[:, 0] = True  # of a clip of one frame, nobody looks at what comes of it
            mixed = self.frame2t_attention(placed, later)
        return 2 * torch.sigmoid(self.trans_layernorm(mixed)) - 1


class AlignmentBlock(nn.Module):
    """TAB: frames, or words, are spread over centres that both share; what lies beside the centres is averaged.

    Args:
        width: D. centers: K. heads: of the block over every other frame.
        center_proj: "TAB_TDB" adds every other frame with its differences after a block, "TAB" without differences,
            "none" nothing.
    """

    def __init__(self, width: int, centers: int, heads: int, center_proj: str):
        super().__init__()
        self.center_proj = center_proj
        self.weight_center = nn.Parameter(CENTRE_STD * torch.randn(centers, width))
        self.emb_center = nn.Parameter(CENTRE_STD * torch.randn(centers, width))
        if center_proj != "none":
            self.actionClip = Transformer(width, 1, heads)

    def align(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, S, D) and (B, S) bool -> (B, D) unit."""
        shares = (tokens @ self.weight_center.T).softmax(dim=-1) * mask[..., None]  # (B, S, K)
        beside = shares.mT @ tokens - shares.sum(dim=1)[..., None] * self.emb_center  # (B, K, D)
        return F.normalize(F.normalize(beside, dim=-1).mean(dim=1), dim=-1)

    def of_clips(self, frames: Tensor, mask: Tensor, differences: DifferenceBlock) -> Tensor:
        """(B, W) unit."""
        return self.align(*self.further(differences.axes.enter(frames), mask, differences))

    def further(self, frames: Tensor, mask: Tensor, differences: DifferenceBlock) -> tuple[Tensor, Tensor]:
        """The frames, and behind them every other one read once more, (B, T + ceil(T / 2), D), and which are there."""
        if self.center_proj == "none":
            return frames, mask
        slow, slow_mask = frames[:, ::2], mask[:, ::2]
        if self.center_proj == "TAB_TDB":
            tokens, there = differences.tokens(slow, slow_mask)
            read = self.actionClip(tokens + differences.added(slow.shape[1]), there)[:, ::2]
        else:
            read = self.actionClip(slow + differences.frame_position_embeddings.weight[: slow.shape[1]], slow_mask)
        return torch.cat([frames, read + slow], dim=1), torch.cat([mask, slow_mask], dim=1)


class Clip2VideoNetwork(nn.Module):
    """Both blocks."""

    def __init__(self, difference: DifferenceBlock, alignment: AlignmentBlock):
        super().__init__()
        self.difference, self.alignment = difference, alignment
        self.apply(partial(as_clip4clip_starts, gain=difference.axes.gain))


@dataclass(eq=False, kw_only=True)
class Clip2video(PairTextHead):
    """CLIP2Video: Mastering Video-Text Retrieval via Image CLIP (Fang et al., 2021, arXiv 2106.11097), on stored frame
    features, with the features of the tokens of a class's first text.

    The temporal difference block puts what changes between two frames between them, and a transformer reads both
    (4 blocks; `temporal_proj` says what is done to differences before). The temporal alignment block spreads frames and
    words over `centers` that both share. Scores are `center_weight` times the cosine of clip and class text and
    1 - `center_weight` times that of the aligned vectors, times the logit scale; each has a loss of its own, weighted
    alike: the mean cross-entropy of a clip with all classes and of a class in the batch with the clips, spread over
    those that it has. Where each clip has a text of its own that is the published loss of pairs.

    Blocks, positions and types start from the first ones of the text tower where it has CLIP's blocks as wide as its
    features; centres from N(0, 1/64).

    Raises:
        ConfigError: an option out of range, or heads that do not divide the width.
        CapabilityError: several labels per clip, samples without parts, clips of more than 77 frames, or a text tower
            whose blocks cannot be run.

    Example:
        >>> adapter = build_adapter("clip2video", epochs=5)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "masks are those of each clip (the released code uses those of other clips of a batch, `released.*` in the "
        "fixture), and the difference between the last frame and padding is ignored (`released_mask`); towers stay "
        "frozen unless `train_towers` says otherwise; the matrix of `sigmoid_mlp` starts at random instead of rows of "
        "CLIP's projection"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"parts", "text_encoder"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"prompt", "text_blocks"})
    multilabel: ClassVar[bool] = False
    part_positions: ClassVar[int | None] = POSITIONS
    reads_tokens: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = (*PairTextHead.state, "tokens", "token_mask")
    on_axes: ClassVar[bool] = True
    published: ClassVar[dict] = {"epochs": 5, "batch_size": 128, "lr": 1e-4}

    temporal_proj: str = option(
        "sigmoid_selfA", "how differences are transformed", choices=("default", "sigmoid_mlp", "sigmoid_selfA")
    )
    center_proj: str = option("TAB_TDB", "what is aligned besides frames", choices=("none", "TAB", "TAB_TDB"))
    centers: int = option(5, "centres that clips and texts share", low=1, high=1024)
    center_weight: float = option(0.5, "weight of whole clips and texts beside the aligned features", low=0, high=1)
    released_mask: bool = option(
        False, "count the difference to the padding after a short clip, as the released code does"
    )
    layers: int = option(4, "blocks over frames and differences", low=1, high=48)
    heads: int | None = option(None, "attention heads; none: one for each 64 channels", low=1, high=256)

    def _network(self, width: int) -> nn.Module:
        width = self._inner_width(width)
        heads = heads_of(width, self.heads)
        difference = DifferenceBlock(width, self.layers, heads, self.temporal_proj, self.released_mask, self.axes)
        return Clip2VideoNetwork(difference, AlignmentBlock(width, self.centers, heads, self.center_proj))

    def _prepare(self, network: Clip2VideoNetwork, backbone, classifier, resources) -> list[str]:
        self._read_texts(backbone, classifier)
        return super()._prepare(network, backbone, classifier, resources)

    def _start(self, network: Clip2VideoNetwork, backbone: Backbone | None) -> list[str]:
        difference, alignment = network.difference, network.alignment
        further = [getattr(difference, "frame2t_attention", None), getattr(alignment, "actionClip", None)]
        lists = [difference.transformerClip.resblocks, *(each.resblocks for each in further if each is not None)]
        note = take_text_blocks(backbone, lists, difference.frame_position_embeddings, self.axes)
        if "random" not in note:
            with torch.no_grad():
                difference.type_position_embeddings.weight.copy_(text_positions(backbone)[:2])
        return [note]

    def _texts_seen(self, backbone, classifier: TextClassifier) -> Tensor:
        tokens, mask = token_features(backbone, class_texts(classifier, self.class_names_))
        return torch.cat([super()._texts_seen(backbone, classifier), tokens[mask].to(self.text)])

    def _read_texts(self, backbone, classifier: TextClassifier) -> None:
        tokens, mask = token_features(backbone, class_texts(classifier, self.class_names_))
        self.tokens, self.token_mask = tokens.to(self.text.device), mask.to(self.text.device)

    def _both(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) logits by the whole, and by what is aligned."""
        texts = self._of_sentences(Sentences(self.text, self.tokens, self.token_mask))
        whole, aligned = (clips @ rows.T for clips, rows in zip(self._of_clips(frames, mask), texts))
        return self.logit_scale * whole, self.logit_scale * aligned

    def _scores(self, frames: Tensor, mask: Tensor) -> Tensor:
        whole, aligned = self._both(frames, mask)
        return self.center_weight * whole + (1 - self.center_weight) * aligned + self.offset

    def _step_loss(self, step: TextHeadStep) -> Tensor:
        losses = [matching_loss(each, step.labels, step.priors) for each in self._both(step.frames, step.mask)]
        return self.center_weight * losses[0] + (1 - self.center_weight) * losses[1]

    def _rename(self, backbone, classifier: TextClassifier) -> None:
        super()._rename(backbone, classifier)
        self._read_texts(backbone, classifier)

    # of pairs

    @property
    def branches(self) -> tuple[float, ...]:
        return self.center_weight, 1 - self.center_weight

    @property
    def found_dim(self) -> int:
        """Whole clips are as wide as features, aligned ones as the network."""
        return self.dim_ + self._inner_width(self.dim_)

    def _without_classes(self, backbone: Backbone) -> None:
        super()._without_classes(backbone)
        self.tokens, self.token_mask = self.text[:, None], self.text.new_zeros(0, 1, dtype=torch.bool)

    def _of_clips(self, frames: Tensor, mask: Tensor) -> list[Tensor]:
        difference, alignment = self._net.difference, self._net.alignment
        return [difference(frames, mask), alignment.of_clips(frames, mask, difference)]

    def _of_sentences(self, sentences: Sentences) -> list[Tensor]:
        network = self._net
        tokens = network.difference.axes.enter(sentences.tokens)
        return [sentences.whole, network.alignment.align(tokens, sentences.words)]
