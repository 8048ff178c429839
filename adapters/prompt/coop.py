"""CoOp: the words around the class names are learned, both towers stay frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts.adapter import Adapter, Batch, FitReport, require
from ...core.contracts.backbone import Backbone
from ...core.contracts.errors import CapabilityError, ConfigError
from ...core.contracts.features import FeatureSet
from ...core.contracts.text import TextClassifier
from ...core.prompts.context import PromptLearner, check_context_options
from ...core.registry.build import build_adapter, build_loss
from ...core.training.minibatches import minibatches
from ...core.training.schedules import WARMUPS, dassl_learning_rates, dassl_sgd, set_learning_rate

EPOCHS_FROM_SHOTS = ((8, 200), (2, 100), (1, 50))
"""Published: 200 epochs for 8 and 16 shots, 100 for 2 and 4, 50 for 1 (and for ImageNet at any number of shots)."""


@dataclass(eq=False, kw_only=True)
class Coop(Adapter):
    """Context optimisation.

    Zhou et al., Learning to Prompt for Vision-Language Models, 2021, arXiv 2109.01134.

    Prompts `[V1] ... [VM] class name .` go through the frozen text tower; logits are the scaled cosines to the image
    features. Only the context V is trained, by SGD on the cross-entropy, with Dassl's warm-up and cosine. The model of
    the last step is kept; nothing is chosen on val.

    Where it differs from the released code: float32 instead of float16, and by default no augmentation, so that image
    features are computed once and no image tower runs while training. `views=V` trains on V augmented views an image
    instead (published: a new random crop and flip every epoch), epoch e on view e modulo V. With `csc` and `ctx_init`
    every class starts from the words; the released code then ignores `csc`.

    Several labels per image: one sigmoid a label, binary cross-entropy. A cosine times the logit scale is no calibrated
    logit, so each label's is taken relative to its negative prompts (`classifier.negative`, fixed); without them to the
    backbone's logit bias, or else to the mean zero-shot score of the label over the support.

    Args:
        n_ctx: number of context vectors M.
        csc: one context a class instead of one for all.
        class_token_position: where the class name stands, "end", "middle" or "front".
        ctx_init: words to start from ("a photo of a"), which then set `n_ctx`; None starts from N(0, 0.02^2).
        lr: peak learning rate.
        epochs: None takes the published number for the shots of the support (its largest class).
        batch_size: an incomplete last batch is dropped where there is a full one.
        momentum: of SGD.
        weight_decay: of SGD.
        warmup: "constant" (first epoch at 1e-5), "linear" or None.
        views: augmented views of each support image to train on, 0 for none.
        trim: cut prompts to the longest one, and compute a context that all prompts begin with once, where the text
            tower allows it; False runs every prompt at full length, as published. It changes speed only.
        amp: None for float32, "bf16" to run the text tower in bfloat16 while training.

    Resources:
        batch_order: (epochs, N) int64, the order of samples in each epoch instead of a seeded shuffle.
        ctx: (M, W) or (C, M, W), the context to start from instead of `ctx_init` or a seeded one.

    Raises:
        ConfigError: an option out of range, a prompt longer than the tower's context.
        CapabilityError: the backbone has no "prompt", or `views` more than the support has.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "text_encoder"})
    multilabel: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("ctx", "text_features", "logit_scale", "offset", "negative")

    n_ctx: int = 16
    csc: bool = False
    class_token_position: str = "end"
    ctx_init: str | None = None
    lr: float = 2e-3
    epochs: int | None = None
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: str | None = "constant"
    views: int = 0
    trim: bool = True
    amp: str | None = None

    def __post_init__(self):
        check_context_options(self.n_ctx, self.class_token_position, self.ctx_init, name="class_token_position")
        require(self.lr > 0, "lr", self.lr, "give a number above 0")
        require(self.epochs is None or self.epochs >= 1, "epochs", self.epochs, "give 1 or more, or None")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "give 1 or more")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "give 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "give 0 or more")
        require(self.warmup in WARMUPS, "warmup", self.warmup, "there are constant, linear and None")
        require(self.views >= 0, "views", self.views, "give the number of augmented views, 0 for none")
        require(self.amp in (None, "bf16"), "amp", self.amp, "there are bf16 and None (float32)")
        if self.views:
            self.needs = self.needs | {"views"}

    def for_classes(self, backbone: Backbone, class_names: Sequence[str]) -> Coop:
        """A fitted copy for other classes, with the context learned here (base-to-new generalisation).

        Raises:
            CapabilityError: not fitted, class-specific contexts, several labels an image, or another backbone.
        """
        self._check_transfer(backbone)
        other = build_adapter("coop", **self.options)
        with torch.no_grad():
            text = self._learner(backbone, class_names, ctx=self.ctx).encode()
        other.ctx, other.logit_scale, other.negative = self.ctx.clone(), self.logit_scale, None
        other.text_features = text.to(self.text_features.device)
        other.offset = self.offset[:1].expand(len(class_names)).clone()  # the backbone's bias, alike for all classes
        other.class_names_, other.backbone_, other.dim_ = tuple(class_names), self.backbone_, self.dim_
        other.multilabel_, other.fitted_ = False, True
        return other

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        if not self.class_names_:
            raise ConfigError("coop writes prompts around class names, and none are given; name them in the classifier")
        if self.views and (support.views is None or support.views.shape[1] < self.views):
            held = 0 if support.views is None else support.views.shape[1]
            raise CapabilityError(f"option views={self.views}: the support has {held} augmented views an image")
        support, device = support.to(backbone.device), support.features.device
        self._set_frame(support, classifier.to(backbone.device))
        learner = self._learner(backbone, self.class_names_, ctx=resources.get("ctx"), seed=seed)
        epochs = self.epochs or _published_epochs(support)
        history = self._train(learner, support, epochs, resources.get("batch_order"), seed)
        with torch.no_grad():
            self.text_features = learner.encode()  # (C, D)
        self.ctx = learner.ctx.detach()
        self.to(device)
        return FitReport(
            adapter=self.name,
            chosen={"epochs": epochs, "n_ctx": self.ctx.shape[-2], "lr": self.lr},
            chosen_on=f"published settings for {_shots(support)} shots" if self.epochs is None else "options",
            history=history,
        )

    def _set_frame(self, support: FeatureSet, classifier: TextClassifier) -> None:
        """What logits are relative to: the scale, an offset a class, and negative prompts for several labels."""
        self.logit_scale = classifier.logit_scale
        self.negative = classifier.negative if self.multilabel_ else None
        self.offset = classifier.weights.new_full((len(classifier),), classifier.logit_bias or 0.0)
        if self.multilabel_ and self.negative is None and classifier.logit_bias is None:
            self.offset = -classifier.logits(support.unit).mean(dim=0)

    def _learner(self, backbone, class_names, *, ctx: Tensor | None = None, seed: int = 0) -> PromptLearner:
        return PromptLearner(
            backbone,
            class_names,
            n_ctx=self.n_ctx,
            csc=self.csc,
            position=self.class_token_position,
            ctx_init=self.ctx_init,
            ctx=ctx,
            trim=self.trim,
            share=self.trim,
            seed=seed,
        )

    def _train(self, learner: PromptLearner, support, epochs: int, order: Tensor | None, seed: int) -> list[dict]:
        loss_of = build_loss("binary-cross-entropy" if self.multilabel_ else "cross-entropy")
        optimizer = dassl_sgd([learner.ctx], self.lr, self.momentum, self.weight_decay)
        device = learner.ctx.device
        history = []
        for epoch, lr in enumerate(dassl_learning_rates(self.lr, epochs, warmup=self.warmup)):
            set_learning_rate(optimizer, lr)
            features = self._epoch_features(support, epoch)  # (N, D)
            losses = []
            for index in minibatches(len(support), self.batch_size, epoch, seed, order=order, drop_last=True):
                index = index.to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.amp is not None):
                    text = learner.encode()  # (C, D)
                logits = self._scores(features[index], text.float())
                loss = loss_of({"logits": logits, "labels": support.labels[index]}, epoch / epochs)["loss"]
                optimizer.zero_grad()
                loss.backward(inputs=[learner.ctx])  # a trainable tower's own weights get no gradient
                optimizer.step()
                losses.append(loss.detach())
            history.append({"epoch": epoch, "loss": float(torch.stack(losses).mean()), "lr": lr})
        return history

    def _epoch_features(self, support: FeatureSet, epoch: int) -> Tensor:
        if not self.views:
            return support.unit
        return torch.nn.functional.normalize(support.views[:, epoch % self.views].float(), dim=-1)

    def _scores(self, unit: Tensor, text: Tensor) -> Tensor:
        """(B, D) image and (C, D) text features -> (B, C) logits."""
        scores = self.logit_scale * unit @ text.T + self.offset
        return scores if self.negative is None else scores - self.logit_scale * unit @ self.negative.T

    def _logits(self, batch: Batch) -> Tensor:
        return self._scores(batch.unit, self.text_features)

    def _check_transfer(self, backbone: Backbone) -> None:
        if not getattr(self, "fitted_", False):
            raise CapabilityError("adapter 'coop' is not fitted; call fit() or load_adapter() first")
        if self.csc:
            raise CapabilityError("coop with csc=True has a context for its own classes only; fit with csc=False")
        if self.multilabel_:
            raise CapabilityError("coop carries its context to other classes only where an image has one label")
        if self.backbone_ and backbone.fingerprint != self.backbone_:
            raise CapabilityError(f"backbone '{backbone.spec}' is not the one that coop was fitted on; load that one")


def _published_epochs(support: FeatureSet) -> int:
    shots = _shots(support)
    return next(epochs for least, epochs in EPOCHS_FROM_SHOTS if shots >= least)


def _shots(support: FeatureSet) -> int:
    """Images of the largest class; 1 at least."""
    return max(1, int(support.one_hot().sum(dim=0).max()))
