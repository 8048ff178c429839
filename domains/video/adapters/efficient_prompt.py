"""Efficient-Prompt: learned vectors around the class names, and a transformer over the frames.

Take it for clips where classes are to be added later and the towers stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, FitReport, TextClassifier, option, spoken
from ....core.errors import ConfigError
from ....core.prompts import PromptLearner, TokenLayout
from ._axes import FeatureAxes
from ._frames import POSITIONS, masked_mean
from ._text_head import TextHeadAdapter, TextHeadStep
from ._transformer import Transformer, heads_of, positions_table

TABLE_STD = 0.01


class TemporalModelling(nn.Module):
    """Positions are added, blocks run over the frames, their mean is the video feature."""

    def __init__(self, width: int, layers: int, heads: int, axes: Tensor | None = None):
        super().__init__()
        self.axes = FeatureAxes(axes)
        self.temporalEmbedding = positions_table(width)
        self.temporalModelling = Transformer(width, layers, heads, eps=1e-5)
        nn.init.normal_(self.temporalEmbedding.weight, std=TABLE_STD)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        placed = self.axes.enter(frames) + self.temporalEmbedding.weight[: frames.shape[1]]
        return masked_mean(self.axes.replaced(frames, self.temporalModelling(placed, mask)), mask)


@dataclass(frozen=True)
class FreePrompts:
    """Class names in rows of free places.

    Args:
        tokens: (C, L) int64, place-holders in the free places.
        free: (C, L) bool, the places that take the row of the table of their number.
        mask: (C, L) bool, the tokens that take part.
    """

    tokens: Tensor
    free: Tensor
    mask: Tensor

    def embedded(self, words: Tensor, table: Tensor) -> Tensor:
        """(C, L, W) word embeddings of the tokens, and (P, W) the table -> (C, L, W)."""
        return torch.where(self.free[..., None], table[: words.shape[1]], words)

    def rows(self, index: Tensor) -> FreePrompts:
        return FreePrompts(self.tokens[index], self.free[index], self.mask[index])


def shifted(tokens: Tensor, names: Tensor, lead: int, prefix: int, postfix: int) -> tuple[Tensor, Tensor]:
    """Where the tokens of texts go when places are kept before and behind their words.

    Args:
        tokens: (C, L) `lead` tokens, the words, and what ends the text.
        names: (C,) how many tokens the words take.
        prefix, postfix: places that are kept.

    Returns:
        For each place the place in `tokens` that is moved there, (C, L), and which places are kept free, (C, L).
    """
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    ends = lead + names[:, None]  # (C, 1), where the words end
    before = (place >= lead) & (place < lead + prefix)
    behind = (place >= ends + prefix) & (place < ends + prefix + postfix)
    source = torch.where(
        place < lead, place, torch.where(place < ends + prefix, place - prefix, place - prefix - postfix)
    )
    return source.clamp(min=0), before | behind


@dataclass(eq=False, kw_only=True)
class EfficientPrompt(TextHeadAdapter):
    """Prompting Visual-Language Models for Efficient Video Understanding (Ju et al., 2021, arXiv 2112.04478), on stored
    frame features.

    A prompt is the start, `prefix` free places, the class name, `postfix` free places and the end; a free place takes
    the row of its number from a learned table, drawn from N(0, 0.01^2). Frames with learned positions go through
    `layers` blocks of attention, and their mean is the video feature. Logits are cosines over `temperature`. Each step
    chooses among the classes of its batch and others drawn at random, `contrast` in all. Both towers stay frozen.

    Published: 16 places on each side, 16 frames, AdamW with weight decay 0.01, batches of 64 (README: rate 1e-4). The
    released schedule restarts its cosine; here the rate rises over a tenth of the steps and falls along one cosine.

    Raises:
        ConfigError: an option out of range, heads that do not divide the width, or a class name that does not fit.
        CapabilityError: several labels per clip, samples without parts, clips of more than 77 frames, or a text tower
            without prompts.

    Example:
        >>> adapter = build_adapter("efficient-prompt", prefix=4, postfix=4, epochs=5)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "one cosine schedule instead of one that restarts; padding after a prompt stays padding, which no causal tower "
        "reads, where the released code puts rows of the embedding table; padding of frames is not read"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"parts", "text_encoder"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"prompt"})
    multilabel: ClassVar[bool] = False
    part_positions: ClassVar[int | None] = POSITIONS
    state: ClassVar[tuple[str, ...]] = (*TextHeadAdapter.state, "table")
    on_axes: ClassVar[bool] = True
    published: ClassVar[dict] = {"batch_size": 64, "lr": 1e-4}

    weight_decay: float = 0.01
    prefix: int = option(16, "learned vectors before a class name", low=0, high=256)
    postfix: int = option(16, "learned vectors after a class name", low=0, high=256)
    layers: int = option(2, "blocks over the frames", low=1, high=48)
    heads: int | None = option(None, "attention heads; none: one for each 64 channels", low=1, high=256)
    temperature: float = option(0.07, "what cosines are divided by", above=0)
    contrast: int = option(400, "classes among which a step chooses, unless its batch has more", low=1, high=1_048_576)

    def _network(self, width: int) -> nn.Module:
        width = self._inner_width(width)
        return TemporalModelling(width, self.layers, heads_of(width, self.heads), self.axes)

    def _frame(self, classifier: TextClassifier) -> None:
        super()._frame(classifier)
        self.logit_scale, self.offset = 1 / self.temperature, torch.zeros_like(self.offset)

    def _prepare(self, network: nn.Module, backbone: Backbone, classifier, resources) -> list[str]:
        self._prompts = _prompts_of(backbone, self.class_names_, self.prefix, self.postfix)
        width = backbone.embed_tokens(self._prompts.tokens[:1, :1]).shape[-1]
        self.table = (TABLE_STD * torch.randn(backbone.context_length, width)).to(backbone.device)
        return []

    def _trained(self) -> list[Tensor]:
        return [*super()._trained(), self.table.requires_grad_()]

    def _step_loss(self, step: TextHeadStep) -> Tensor:
        classes, labels = step.labels.unique(return_inverse=True)
        others = torch.ones(len(self.text), dtype=torch.bool, device=classes.device)
        others[classes] = False
        others = others.nonzero().flatten()
        drawn = torch.randperm(len(others), generator=step.generator)[: max(0, self.contrast - len(classes))]
        classes = torch.cat([classes, others[drawn.to(others.device)]])
        video = F.normalize(self._net(step.frames, step.mask), dim=-1)
        text = self._encode(self.towers, classes).to(video.device)
        scores = self.logit_scale * video @ text.T  # (B, classes)
        return F.cross_entropy(scores if step.priors is None else scores + step.priors[classes], labels)

    def _report(self, history, notes, **known) -> FitReport:
        report = super()._report(history, notes, **known)
        self.table = self.table.detach()
        self._encode_classes(self.towers)
        return report

    def _encode(self, backbone: Backbone, classes: Tensor) -> Tensor:
        """(classes, D) unit text features, differentiable in the table."""
        prompts = self._prompts.rows(classes.to(self._prompts.tokens.device))

        def encode(rows: Tensor) -> Tensor:
            some = prompts.rows(rows)
            with torch.no_grad():
                words = backbone.embed_tokens(some.tokens).float()
            return backbone.encode_prompt(some.embedded(words, self.table), some.mask)

        chunk = len(classes) if torch.is_grad_enabled() else TokenLayout.at_once(prompts.tokens)
        index = torch.arange(len(classes), device=prompts.tokens.device)
        return PromptLearner.encoded_in_chunks(
            encode, index, TokenLayout.used_lengths(prompts.mask), chunk, recompute=False
        )

    @torch.no_grad()
    def _encode_classes(self, backbone: Backbone) -> None:
        device, self.table = self.text.device, self.table.to(backbone.device)
        self.text = self._encode(backbone, torch.arange(len(self._prompts.tokens))).to(device)
        self.table = self.table.to(device)

    def _rename(self, backbone: Backbone, classifier: TextClassifier) -> None:
        super()._rename(backbone, classifier)
        self._prompts = _prompts_of(backbone, self.class_names_, self.prefix, self.postfix)
        self._encode_classes(backbone)


def _prompts_of(backbone: Backbone, class_names: Sequence[str], prefix: int, postfix: int) -> FreePrompts:
    """The prompts of some classes, cut to the longest where the text tower allows it.

    Raises:
        ConfigError: a name that does not fit beside the free places, or no names.
    """
    if not class_names:
        raise ConfigError("efficient-prompt writes prompts around class names, and none are given; name the classes")
    layout = TokenLayout.of(backbone)
    tokens = backbone.tokenize([spoken(name) for name in class_names]).to(backbone.device)
    names = layout.words(tokens)
    longest, room = int(names.max()), backbone.context_length - layout.lead - layout.trail - prefix - postfix
    if longest > room:
        worst = class_names[int(names.argmax())]
        raise ConfigError(
            f"class '{worst}' takes {longest} tokens, but only {max(room, 0)} are left beside {prefix} + {postfix} "
            f"learned ones in this tower's {backbone.context_length}; shorten the class name, or give a smaller "
            "prefix and postfix"
        )
    source, free = shifted(tokens, names, layout.lead, prefix, postfix)
    holder = backbone.tokenize([TokenLayout.PLACEHOLDER])[0, layout.lead].to(tokens)
    tokens = torch.where(free, holder, tokens.gather(1, source))
    mask = backbone.token_mask(tokens)
    if "trim" in backbone.capabilities:
        length = int(TokenLayout.used_lengths(mask).max())
        tokens, free, mask = tokens[:, :length], free[:, :length], mask[:, :length]
    return FreePrompts(tokens, free, mask)
