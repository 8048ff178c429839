"""What methods that learn a context share: checks, moving to other classes, and prompts encoded at prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.contracts import Adapter, Backbone, FeatureSet, FitReport
from ...core.errors import CapabilityError, ConfigError
from ...core.prompts import PromptLearner
from ...core.training import views_of_training
from ..dassl_options import dassl_epochs

COST_OPTIONS = ("trim", "class_chunk", "checkpointing")
"""Options that change speed and memory alone."""


def check_class_names(adapter: Adapter) -> None:
    """ConfigError where classes have no names to write prompts around."""
    if not adapter.class_names_:
        raise ConfigError(
            f"{adapter.name} writes prompts around class names, and none are given; name them in the classifier"
        )


def check_transfer(adapter: Adapter, backbone: Backbone) -> None:
    """CapabilityError where what was learned cannot serve other classes of this backbone."""
    adapter.check_fitted()
    if adapter.multilabel_:
        raise CapabilityError(f"{adapter.name} carries its context to other classes only where an image has one label")
    adapter.check_fitted(backbone)


def fit_context(
    adapter: Any,
    parameters: Sequence[Tensor],
    support: FeatureSet,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    epochs: int,
    *,
    backbone: Backbone,
    resources: Mapping[str, Any],
    seed: int,
) -> FitReport:
    """Train a context and what goes with it in place, by SGD with Dassl's schedule.

    Args:
        adapter: whose options say how.
        parameters: the context, (..., M, W), first.
        loss_of: (unit features (B, D), labels) -> loss.
    """
    optimizer = torch.optim.SGD(parameters, adapter.lr, adapter.momentum, weight_decay=adapter.weight_decay)
    training = dassl_epochs(
        optimizer, support, loss_of, epochs, seed,
        batch_size=adapter.batch_size, warmup=adapter.warmup, order=resources.get("batch_order"),
        views=views_of_training(adapter.pool, support, backbone, resources, seed),
    )  # fmt: skip
    return FitReport(
        adapter=adapter.name,
        history=[epoch.row(first=0) for epoch in training],
        chosen={"epochs": epochs, "n_ctx": parameters[0].shape[-2], "lr": adapter.lr},
        chosen_on=f"published settings for {support.shots} shots" if adapter.epochs is None else "options",
        notes=[adapter.pool.views_note(support)],
    )


def half_where_asked(adapter, device: torch.device) -> torch.autocast:
    """bfloat16 inside, if the option `amp` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=adapter.amp is not None)


def prompt_learner(adapter, backbone: Backbone, class_names: Sequence[str], **more: Any) -> PromptLearner:
    """The prompts of a method that has the options of `PromptLearner`; `more` options are passed on."""
    return PromptLearner(
        backbone,
        class_names,
        n_ctx=adapter.n_ctx,
        position=adapter.class_token_position,
        ctx_init=adapter.ctx_init,
        trim=adapter.trim,
        share=adapter.trim,
        class_chunk=adapter.class_chunk,
        checkpointing=adapter.checkpointing,
        **more,
    )


@dataclass(eq=False, kw_only=True)
class PromptsAtPrediction(Adapter):
    """Base of the methods whose `logits` encode prompts: these are made of `ctx` once for the attached backbone.

    A method has the options of `PromptLearner` and the state `ctx`.
    """

    backbone_needs: ClassVar[frozenset[str]] = frozenset({"prompt"})
    optional: ClassVar[frozenset[str]] = frozenset({"ctx"})
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})

    def __post_init__(self):
        super().__post_init__()
        PromptLearner.check_words(self.ctx_init)
        self._prompts: PromptLearner | None = None

    def attach(self, backbone: Backbone) -> PromptsAtPrediction:
        self._prompts = None
        return super().attach(backbone)

    def for_classes(self, backbone: Backbone, class_names: Sequence[str], classifier=None) -> PromptsAtPrediction:
        """A fitted copy for other classes, with all that was learned here (base-to-new generalisation).

        Raises:
            CapabilityError: not fitted, or another backbone.
        """
        check_transfer(self, backbone)
        return self.copied_for(class_names).attach(backbone)

    def _learner(self, backbone: Backbone, *, ctx: Tensor | None = None, seed: int = 0) -> PromptLearner:
        return prompt_learner(self, backbone, self.class_names_, ctx=ctx, seed=seed)

    def _ready(self) -> PromptLearner:
        """The prompts, of the attached backbone."""
        if self._prompts is None:
            self._prompts = self._learner(self.towers, ctx=self.ctx)
        return self._prompts
