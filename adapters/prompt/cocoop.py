"""CoCoOp: a learned context that a small network shifts for each image.

Take it where classes are to be added later and are unlike those of the fit; it is the slowest of the contexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import Batch, ClassWeighting, FitReport, TrainingViews, has, option
from ...core.prompts import PromptLearner
from ...core.training import label_loss
from ..blocks import in_blocks
from ..dassl_options import dassl_batch_size, dassl_warmup
from ._contexts import (
    COST_OPTIONS,
    PromptsAtPrediction,
    check_class_names,
    fit_context,
    half_where_asked,
)

EPOCHS = 10
META = ("down_weight", "down_bias", "up_weight", "up_bias")


@dataclass(eq=False, kw_only=True)
class Cocoop(PromptsAtPrediction):
    """Conditional context optimisation.

    Zhou et al., Conditional Prompt Learning for Vision-Language Models, 2022, arXiv 2203.05557.

    The context of an image x is that of all images plus one vector, added to each of its M tokens:

        v_m(x) = v_m + W_up relu(W_down x + b_down) + b_up,   x of unit length

    The context and the network are trained by SGD on the cross-entropy; the towers stay frozen. Every image has its own
    prompts, so that B images of C classes cost B * C runs of the text tower, in training and at prediction, where the
    backbone is still needed. Published: one image per step, 10 epochs, words "a photo of a", 16 shots.

    Where it differs from the released code: float32 instead of float16, and by default a stored pool of augmented views
    in place of new ones, as in `coop`. Several images per step or at prediction go through the text tower together, as
    many as fit.

    `ctx_init`, `trim` and `checkpointing` are those of `coop`; the weight decay also applies to the network.

    Classes with unequal numbers of images count alike (`class_weight`), by log shares that are added to the logits in
    training, whatever the image; published is "none". With equal classes nothing differs.

    Resources:
        batch_order: (epochs, N) int64, the order of samples in each epoch instead of a seeded shuffle.
        images: `TrainingImages`, with `fresh_views`.
        ctx: (M, W), the context to start from instead of `ctx_init` or a seeded one.

    Raises:
        ConfigError: an option out of range, a prompt longer than the tower's context.
        CapabilityError: the backbone has no "prompt", several labels per image, or `fresh_views` without images.

    Example:
        >>> adapter = build_adapter("cocoop", epochs=1)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "float32 instead of float16; by default 10 stored augmented views in turn instead of new ones (`fresh_views`)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views", "text_encoder"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"features", "text_encoder"})
    state: ClassVar[tuple[str, ...]] = ("ctx", *META, "logit_scale", "logit_bias")
    trained: ClassVar[tuple[str, ...]] = ("ctx", *META)
    cost_options: ClassVar[frozenset[str]] = frozenset(COST_OPTIONS)

    pool = has(TrainingViews, published_crop=(0.08, 1.0))
    weighting = has(ClassWeighting)
    n_ctx: int = option(4, "context vectors, where no words are given", low=1, high=1024)
    class_token_position: str = option("end", "where the class name stands", choices=PromptLearner.POSITIONS)
    ctx_init: str | None = option("a photo of a", "words to start from; none: random")
    reduction: int = option(16, "width of the features over that of the network's hidden layer", low=1, high=1_048_576)
    lr: float = option(2e-3, "peak learning rate", above=0)
    epochs: int | None = option(None, "epochs; none: the published number", low=1, high=100_000)
    batch_size: int = dassl_batch_size(1)
    momentum: float = option(0.9, "momentum of SGD", low=0, below=1)
    weight_decay: float = option(5e-4, "weight decay of SGD", low=0)
    warmup: str | None = dassl_warmup()
    trim: bool = option(True, "cut prompts to the length of the longest; changes speed only")
    class_chunk: int | None = option(
        None, "prompts (images times classes) through the text tower at once; changes no result", low=1, high=1_048_576
    )
    checkpointing: bool = option(False, "recompute activations in the backward pass; changes speed and memory only")
    amp: str | None = option(None, "precision of the text tower in training; none: float32", choices=("bf16",))

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        check_class_names(self)
        device = support.features.device
        support = support.to(backbone.device)
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias
        learner = self._learner(backbone, ctx=resources.get("ctx"), seed=seed)
        meta = _new_network(support.dim, learner.ctx.shape[-1], self.reduction, seed, backbone.device)
        trained = [learner.ctx, *meta]
        criterion = label_loss(False, self.weighting.priors_of(support.labels, len(classifier)))

        def loss_of(unit: Tensor, labels: Tensor) -> Tensor:
            with half_where_asked(self, unit.device):
                text = learner.encode_each(conditional_contexts(unit, *trained))  # (B, C, D)
            return criterion(self._scores(unit, text.float()), labels)

        how = {"backbone": backbone, "resources": resources, "seed": seed}
        report = fit_context(self, trained, support, loss_of, self.epochs or EPOCHS, **how)
        for name, value in zip(("ctx", *META), trained):
            setattr(self, name, value.detach())
        self.to(device)
        self._prompts = learner
        return report

    def _logits(self, batch: Batch) -> Tensor:
        """(B, C). No more prompts are held at once than go through the text tower, nor their features."""
        learner, unit = self._ready(), batch.unit
        trained = [getattr(self, name).to(learner.ctx.device) for name in ("ctx", *META)]
        images = max(1, learner.at_once() // len(self.class_names_))
        with torch.no_grad():
            parts = [
                self._scores(part, learner.encode_each(conditional_contexts(part, *trained)))
                for part in in_blocks(unit.to(learner.ctx.device), images)
            ]
        return torch.cat(parts).to(unit.device)

    def _scores(self, unit: Tensor, text: Tensor) -> Tensor:
        """(B, D) image features and (B, C, D) text features of each image's prompts -> (B, C) logits."""
        return self.logit_scale * (text @ unit[:, :, None])[:, :, 0] + (self.logit_bias or 0.0)


def conditional_contexts(
    unit: Tensor, ctx: Tensor, down_weight: Tensor, down_bias: Tensor, up_weight: Tensor, up_bias: Tensor
) -> Tensor:
    """The context of each image, (B, M, W).

    Args:
        unit: (B, D) image features of unit length.
        ctx: (M, W), that of all images.
        down_weight, down_bias: (R, D) and (R,), first layer of the network.
        up_weight, up_bias: (W, R) and (W,), second layer.
    """
    shift = F.linear(F.relu(F.linear(unit, down_weight, down_bias)), up_weight, up_bias)  # (B, W)
    return ctx + shift[:, None]


def _new_network(dim: int, width: int, reduction: int, seed: int, device: torch.device) -> list[Tensor]:
    """Weights and biases of both layers, drawn on the CPU so that every device starts alike."""
    inside = max(1, dim // reduction)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(dim, inside), nn.Linear(inside, width)]
    drawn = [value for layer in layers for value in (layer.weight, layer.bias)]
    return [value.detach().to(device).requires_grad_() for value in drawn]
