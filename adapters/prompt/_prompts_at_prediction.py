"""What prompt learners share that run the text tower for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.contracts.adapter import Adapter
from ...core.contracts.backbone import Backbone
from ...core.prompts.context import PromptLearner, check_words
from ._context_training import with_other_classes


@dataclass(eq=False, kw_only=True)
class PromptsAtPrediction(Adapter):
    """Base of the methods whose `logits` encode prompts: these are made of `ctx` once for the attached backbone.

    A method has the options of `PromptLearner` and the state `ctx`.
    """

    of_towers: ClassVar[frozenset[str]] = frozenset({"prompt"})
    optional: ClassVar[frozenset[str]] = frozenset({"ctx"})
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})

    def __post_init__(self):
        super().__post_init__()
        check_words(self.ctx_init)
        self._prompts: PromptLearner | None = None

    def attach(self, backbone: Backbone) -> PromptsAtPrediction:
        self._prompts = None
        return super().attach(backbone)

    def for_classes(self, backbone: Backbone, class_names: Sequence[str], classifier=None) -> PromptsAtPrediction:
        """A fitted copy for other classes, with all that was learned here (base-to-new generalisation).

        Raises:
            CapabilityError: not fitted, or another backbone.
        """
        return with_other_classes(self, backbone, class_names)

    def _learner(self, backbone: Backbone, *, ctx: Tensor | None = None, seed: int = 0) -> PromptLearner:
        return PromptLearner(
            backbone,
            self.class_names_,
            n_ctx=self.n_ctx,
            position=self.class_token_position,
            ctx_init=self.ctx_init,
            ctx=ctx,
            trim=self.trim,
            share=self.trim,
            class_chunk=self.class_chunk,
            checkpointing=self.checkpointing,
            seed=seed,
        )

    def _ready(self) -> PromptLearner:
        """The prompts, of the attached backbone."""
        if self._prompts is None:
            self._prompts = self._learner(self.towers, ctx=self.ctx)
        return self._prompts
