"""KgCoOp: a learned context that is kept near the frozen text tower's features of the classes.

Take it where classes are to be added later: it stays near what the text tower knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import option
from ._shared_context import SharedContext, Step

EPS = 1e-7


@dataclass(eq=False, kw_only=True)
class Kgcoop(SharedContext):
    """Knowledge-guided context optimisation.

    Yao et al., Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, 2023, arXiv 2303.13283.

    CoOp, with a loss that keeps the text features t~ of the learned prompts near those of the template, t:

        cross-entropy + guidance * (1 - mean over classes of cos(t~_c, t_c))

    t are the weights of the text classifier given to `fit` (published: one template per data set; with several, their
    mean). The context starts from the words "a photo of a". Published for base-to-new: 16 shots, 100 epochs in batches
    of 128, guidance 8.

    Where it differs from the released code: as `coop`; the context starts from the words of `ctx_init`, while the
    released code starts from "a photo of a" whatever words are given; the guidance is 8, as in the published commands,
    while the default of the code is 1. For unit vectors the squared distance of the paper's equation is twice the term
    above, so that its lambda is half of `guidance`.

    Several labels per image: binary cross-entropy in place of cross-entropy, with logits as in `coop`.

    Options, resources and errors are those of `SharedContext`, besides `guidance`.

    Example:
        >>> adapter = build_adapter("kgcoop", guidance=4.0, epochs=2)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        'as coop; `ctx_init` has the effect it names (the released code starts from "a photo of a" whatever is '
        "given); guidance is 8 as in the published commands, where the code's own default is 1"
    )
    multilabel: ClassVar[bool] = True
    default_epochs: ClassVar[tuple[tuple[int, int], ...]] = ((1, 100),)

    n_ctx: int = 4
    ctx_init: str | None = "a photo of a"
    batch_size: int = 128
    guidance: float = option(8.0, "weight of the distance to the template's text features; 0 is CoOp", low=0)

    def _loss(self, step: Step) -> Tensor:
        text = self._text(step.learner)  # (C, D)
        near = F.cosine_similarity(text, step.classifier.weights, dim=-1, eps=EPS)  # (C,)
        return self._fit_to_labels(step, text) + self.guidance * (1 - near.mean())
