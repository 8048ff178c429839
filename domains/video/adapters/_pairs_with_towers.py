"""A head and both towers trained on pairs together, by the training of all towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....core.contracts import Backbone, FitReport, Loss, Output
from ....core.training import Objective, Source, Task
from ._clip_towers import ClipTowerAdapter
from ._pairs import SIDES, PairTextHead
from ._text_head import CLIP_GRAD, WARMUP
from ._text_tokens import Sentences, encoded

OF_TOKENS = frozenset({"head_tokens", "head_words"})


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

    def __init__(self, head: PairTextHead, objective: Objective):
        super().__init__()
        self.head, self.objective = head, objective
        self.network = head._net
        self.tensors = nn.ParameterList(head.as_parameters())
        own = self.made.keys() if head.reads_tokens else self.made.keys() - OF_TOKENS
        self.needs = objective.needs - SIDES | own | {"logit_scale"}
        self.outputs, self.teacher = {**self.made, **objective.outputs}, objective.teacher

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        pixels, tokens = batch["pixels"], batch["tokens"]  # (B, T, 3, S, S), (B, L)
        clips = pixels if pixels.ndim == 5 else pixels[:, None]
        frames = backbone.encode_image(clips.flatten(0, 1), normalize=False).unflatten(0, clips.shape[:2])
        if not self.head.reads_tokens:
            return {"head_frames": frames, "head_whole": backbone.encode_text(tokens)}
        read = encoded(backbone, tokens)
        return {"head_frames": frames, "head_whole": read.whole, "head_tokens": read.tokens, "head_words": read.words}

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        frames = out["head_frames"]
        mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        sentences = Sentences(out["head_whole"], out.get("head_tokens"), out.get("head_words"))
        scale = self.head.scale_of(out["logit_scale"])
        return {
            "loss": self.head.pair_loss(
                self.objective, frames, mask, sentences, {**out, "logit_scale": scale}, progress
            )
        }

    def held_parameters(self) -> list[nn.Parameter]:
        return list(self.parameters())  # the head reaches them, too


@dataclass(eq=False, kw_only=True)
class TowersOfHead(ClipTowerAdapter):
    """Both towers, trained by a `HeadLoss`, at a share of the rate of what the head learns."""

    coef_lr: float = field(init=False)
    loss_of_head: HeadLoss = field(init=False, repr=False)

    def _joint(self, backbone: Backbone) -> None:
        return None

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        rates = {"head_rate": 1 / self.coef_lr, "betas": (0.9, 0.98), "eps": 1e-6}
        return {**super()._settings_of_method(epochs), **rates}

    def _completed(self, task: Task, base: Backbone, images: None) -> Task:
        told = {name: value for name, value in self.loss_of_head.head.options.items() if name != "micro_batch_size"}
        return replace(
            task, own={"head": self.loss_of_head}, identity={**task.identity, "head": repr(sorted(told.items()))}
        )


def train_with_towers(
    head: PairTextHead, objective: Objective, source: Source, backbone: Backbone, notes: list[str], **how: Any
) -> FitReport:
    """Train the network of a head and copies of both towers, in place; `how` as of `TowerAdapter.fit_pairs`."""
    towers = TowersOfHead(
        lr=head.lr * head.coef_lr,
        epochs=head.epochs,
        batch_size=head.batch_size,
        weight_decay=head.weight_decay,
        warmup=WARMUP,
        clip_grad=CLIP_GRAD,
        micro_batch_size=head.micro_batch_size,
        amp=head.amp,
        teacher=head.teacher,
    )
    towers.name, towers.coef_lr = head.name, head.coef_lr
    towers.loss_of_head = HeadLoss(head, objective)
    report = towers.fit_pairs(source, backbone, **how)
    head.changed, head.logit_scale = towers.changed, float(head.scale_of(torch.tensor(towers.logit_scale)))
    done = head._report(report.history, [*notes, *report.notes])
    done.trained_parameters += report.trained_parameters
    done.chosen |= {"steps": report.chosen["steps"]}
    return done
