"""FPL: prompts tuned once, on a few pseudo-labels per class from zero-shot.

Take it without labels, where zero-shot is right on its surest images; `grip` uses more of them, in more time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.contracts import option
from ._pseudo_labels import PseudoLabelled

FEW = 16


@dataclass(eq=False, kw_only=True)
class Fpl(PseudoLabelled):
    """Few pseudo-labels, of Menghini, Delworth and Bach, Enhancing CLIP with CLIP: Exploring Pseudolabeling for
    Limited-Label Prompt Tuning, 2023, arXiv 2306.01669.

    Zero-shot gives pseudo-labels to 16 unlabelled images of each class, and prompts are tuned on them once.
    `PseudoLabelled` describes what is learned and which labels are used.

    Where it differs from the released code: float32 in place of float16; the domain's prompts name the classes at
    first, followed by a full stop; all labelled images are used for learning (released: 80 % of them); the weights of
    the best epoch are kept (released: that epoch is noted, but those of the last are used); the held-out rows follow
    the seed of the fit (released: always 0).

    Example:
        >>> adapter = build_adapter("fpl", epochs=2)
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels(), backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "the choice of images that get pseudo-labels is compared; the training is checked against an explicit loop. "
        "Float32 (released: float16); the domain's prompts; all labelled images are used for training (released: 80 "
        "%); the weights of the best epoch on held-out pseudo-labels are kept (released: the last epoch's, whatever "
        "was best)"
    )

    pseudo_shots: int = option(FEW, "pseudo-labels per class", low=1, high=1_000_000)

    def _counts(self, images: int, classes: int) -> list[int]:
        return [self.pseudo_shots]
