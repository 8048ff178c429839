"""What trains both towers together with a head that reads the frames of clips and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ....core.contracts import Backbone, FitReport, Loss, Output
from ....core.training import SimilarityObjective, TrainingSource
from ._clip_towers import ClipTowerAdapter
from ._text_tokens import Sentences, encoded_sentences

OF_TOKENS = frozenset({"head_tokens", "head_words"})


class FramesAndSentences(Protocol):
    """A head that learns from pairs; see `PairTextHead`."""

    options: dict[str, Any]
    reads_tokens: bool
    _net: nn.Module

    def pair_loss(
        self,
        objective: SimilarityObjective,
        frames: Tensor,
        mask: Tensor,
        sentences: Sentences,
        out: Mapping[str, Tensor],
        progress: float,
    ) -> Tensor: ...

    def scale_of(self, towers: Tensor) -> Tensor: ...

    def as_parameters(self) -> list[nn.Parameter]: ...


class HeadLoss(Loss):
    """The objective of a head, of frames and sentences as the towers give them in each step. What the head learns are
    its parameters.

    Args:
        head: that is trained.
        objective: losses on its similarity.
    """

    made: ClassVar[Mapping[str, Output]] = {
        "head_frames": Output("features of frames", ("B", "F", "D"), "raw", fields=("pixels",)),
        "head_whole": Output("text features of the sentence", fields=("tokens",)),
        "head_tokens": Output("features of its tokens", ("B", "L", "D"), "raw", fields=("tokens",)),
        "head_words": Output("which of its tokens are words", ("B", "L"), "mask", fields=("tokens",)),
    }

    def __init__(self, head: FramesAndSentences, objective: SimilarityObjective):
        super().__init__()
        self.head, self.objective = head, objective
        self.network = head._net
        self.tensors = nn.ParameterList(head.as_parameters())
        own = self.made.keys() if head.reads_tokens else self.made.keys() - OF_TOKENS
        self.needs = objective.further_needs | own | {"logit_scale"}
        self.outputs, self.teacher = {**self.made, **objective.outputs}, objective.teacher

    @property
    def identity(self) -> str:
        """What tells a training with it from others."""
        return repr(sorted((name, value) for name, value in self.head.options.items() if name != "micro_batch_size"))

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        pixels, tokens = batch["pixels"], batch["tokens"]  # (B, T, 3, S, S), (B, L)
        frames = backbone.encode_parts(pixels if pixels.ndim == 5 else pixels[:, None])
        if not self.head.reads_tokens:
            return {"head_frames": frames, "head_whole": backbone.encode_text(tokens)}
        read = encoded_sentences(backbone, tokens)
        return {"head_frames": frames, "head_whole": read.whole, "head_tokens": read.tokens, "head_words": read.words}

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        frames = out["head_frames"]
        mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        sentences = Sentences(out["head_whole"], out.get("head_tokens"), out.get("head_words"))
        scaled = {**out, "logit_scale": self.head.scale_of(out["logit_scale"])}
        return {"loss": self.head.pair_loss(self.objective, frames, mask, sentences, scaled, progress)}

    def held_parameters(self) -> list[nn.Parameter]:
        return list(self.parameters())  # the head reaches them, too


@dataclass(eq=False, kw_only=True)
class EachFrameAlone(ClipTowerAdapter):
    """Both towers, each frame encoded by itself, as CLIP4Clip trains them."""

    def _joint(self, backbone: Backbone) -> None:
        return None

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        return {**super()._settings_of_method(epochs), "betas": (0.9, 0.98), "eps": 1e-6}


def train_towers(
    towers: ClipTowerAdapter, loss: HeadLoss, rate: float, source: TrainingSource, backbone: Backbone, **how: Any
) -> FitReport:
    """Train copies of both towers as a method does, with the head of a loss, in place; `how` as of
    `TowerAdapter.fit_pairs`.

    Args:
        towers: the method, which then has what was learned.
        rate: of the head, as a multiple of that of the towers.
    """
    towers.head_loss, towers.head_rate = loss, rate
    try:
        return towers.fit_pairs(source, backbone, **how)
    finally:
        towers.head_loss = None
