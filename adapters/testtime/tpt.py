"""TPT: tunes the context on each test image alone, so that views of it agree on one class.

Take it without labels, for single images that differ from one another; each costs a training step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts import Batch, FitReport, has, option
from ...core.errors import ConfigError
from ...core.prompts import PromptLearner
from ..prompt._contexts import COST_OPTIONS, PromptsAtPrediction, check_class_names, half_where_asked
from ._bags import RandomViews


@dataclass(eq=False, kw_only=True)
class Tpt(PromptsAtPrediction):
    """Test-time prompt tuning.

    Shu et al., Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models, 2022, arXiv 2209.07511.

    Nothing is trained. At prediction each image gets 64 views: itself, and 63 random crops, flipped at random. With the
    context at its start, the tenth of the views with the lowest entropy is kept, and AdamW takes one step on the
    context to lower the entropy of their mean prediction:

        loss = H(mean over kept views of softmax(logits))

    The image itself is then classified with the tuned context, which is thrown away: the next image starts anew. An
    image costs a forward and a backward pass of all C prompts, a second forward pass, and 64 runs of the image tower.

    Where it differs from the released code: float32 unless `amp` says otherwise (published: fp16 with a scaled loss,
    whose state lasts from image to image, and whose overflowing steps are skipped); crops are resized bicubically, as
    whole images are (released: bilinear); random numbers come from the seed and the image's content, so that results do
    not depend on the order of images. A context that CoOp learned on other images, from which the paper also starts,
    goes into `resources["ctx"]`; that of CoCoOp does not.

    AdamW's first step moves almost every number of the context by just the rate. AugMix mixes each crop with slightly
    altered ones, as published for fine-grained sets. `ctx_init`, `trim` and `checkpointing` are those of `coop`.

    Resources:
        ctx: (M, W), the context to start from instead of `ctx_init` or a seeded one.

    Raises:
        ConfigError: an option out of range, one context per class in `ctx`, a prompt longer than the tower's context.
        CapabilityError: the backbone has no "prompt", several labels per image, or, at prediction, a batch without
            decoded images.

    Example:
        >>> adapter = build_adapter("tpt", n_views=8)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(Batch(images=images)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "float32 instead of float16 with a loss scale that carries over from image to image; crops are resized "
        "bicubically (released: bilinear); views depend only on the seed and the image"
    )
    label_free: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "text_encoder"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"features", "images", "text_encoder"})
    state: ClassVar[tuple[str, ...]] = ("ctx", "logit_scale", "logit_bias", "seed")
    trained: ClassVar[tuple[str, ...]] = ("ctx",)  # anew for each image
    cost_options: ClassVar[frozenset[str]] = frozenset({*COST_OPTIONS, "images_at_once"})

    test_views = has(RandomViews)
    n_ctx: int = option(4, "context vectors, where no words are given", low=1, high=1024)
    class_token_position: str = option("end", "where the class name stands", choices=PromptLearner.POSITIONS)
    ctx_init: str | None = option("a photo of a", "words to start from; none: random")
    selection: float = option(0.1, "share of the views that are kept, the most confident ones", above=0, high=1)
    steps: int = option(1, "steps on each image; the views are chosen before the first", low=1, high=1000)
    lr: float = option(5e-3, "learning rate of AdamW", above=0)
    weight_decay: float = option(1e-2, "weight decay of AdamW", low=0)
    images_at_once: int = option(
        1, "images tuned side by side, each with its own context; changes no result", low=1, high=1_048_576
    )
    trim: bool = option(True, "cut prompts to the length of the longest; changes speed only")
    class_chunk: int | None = option(
        None, "prompts (images times classes) through the text tower at once; changes no result", low=1, high=1_048_576
    )
    checkpointing: bool = option(False, "recompute activations in the backward pass; changes speed and memory only")
    amp: str | None = option(None, "precision of both towers; none: float32", choices=("bf16",))

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        check_class_names(self)
        given = resources.get("ctx")
        if given is not None and given.ndim != 2:
            raise ConfigError(
                f"resource ctx of shape {tuple(given.shape)}: tpt tunes one context for all classes, give (M, W)"
            )
        self.logit_scale, self.logit_bias, self.seed = classifier.logit_scale, classifier.logit_bias, seed
        self._prompts = self._learner(backbone, ctx=given, seed=seed)
        self.ctx = self._prompts.ctx.detach().to(support.features.device)
        return FitReport(self.name, notes=["nothing is learned from the support: each test image tunes a context"])

    def _logits(self, batch: Batch) -> Tensor:
        bags = self.test_views.bags(self, batch, half_where_asked(self, self.towers.device))
        parts = []
        while some := list(islice(bags, self.images_at_once)):
            parts.append(self.tuned_logits(torch.stack(some)))
        return torch.cat(parts).to(self.ctx.device if batch.features is None else batch.features.device)

    def tuned_logits(self, views: Tensor) -> Tensor:
        """(I, C) logits of images, each with a context tuned on its own views.

        Args:
            views: (I, V, D) unit features, view 0 the image itself.
        """
        learner = self._ready()
        with torch.inference_mode(False), torch.enable_grad():
            views = views.clone()
            ctx = self.ctx.to(views.device).expand(len(views), -1, -1).clone().requires_grad_()  # (I, M, W)
            optimizer = torch.optim.AdamW([ctx], lr=self.lr, weight_decay=self.weight_decay)
            kept = None
            for _ in range(self.steps):
                scores = self._scores(views, learner, ctx)  # (I, V, C)
                kept = confident_views(scores, self.selection) if kept is None else kept  # (I, n)
                chosen = scores.gather(1, kept[:, :, None].expand(-1, -1, scores.shape[2]))
                loss = mean_entropy(chosen).sum()
                optimizer.zero_grad()
                loss.backward(inputs=[ctx])  # a trainable tower's own weights get no gradient
                optimizer.step()
        with torch.no_grad():
            return self._scores(views[:, :1], learner, ctx)[:, 0]

    def _scores(self, views: Tensor, learner: PromptLearner, ctx: Tensor) -> Tensor:
        """(I, V, C) logits of views in the context of each image."""
        with half_where_asked(self, views.device):
            text = learner.encode_each(ctx)  # (I, C, D)
        return self.logit_scale * views @ text.float().transpose(1, 2) + (self.logit_bias or 0.0)


def confident_views(scores: Tensor, share: float) -> Tensor:
    """(I, n) numbers of the views of (I, V, C) logits whose predictions have the lowest entropy, lowest first."""
    entropy = -(scores.softmax(dim=-1) * scores.log_softmax(dim=-1)).sum(dim=-1)  # (I, V)
    count = max(1, int(scores.shape[1] * share))
    return entropy.detach().argsort(dim=1, stable=True)[:, :count]


def mean_entropy(scores: Tensor) -> Tensor:
    """(I,) entropy of the mean prediction over n views, of logits (I, n, C)."""
    log_mean = scores.log_softmax(dim=-1).logsumexp(dim=1) - math.log(scores.shape[1])  # (I, C)
    log_mean = log_mean.clamp(min=torch.finfo(log_mean.dtype).min)
    return -(log_mean.exp() * log_mean).sum(dim=-1)
