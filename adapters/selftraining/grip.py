"""GRIP: prompts tuned in rounds on more and more pseudo-labels, until all unlabelled images have one.

Take it without labels, where all classes occur among the images and minutes of training do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.contracts import option
from ._leaderboards import growing_counts
from ._pseudo_labels import PseudoLabelled


@dataclass(eq=False, kw_only=True)
class Grip(PseudoLabelled):
    """Grow and refine iteratively pseudo-labels, of Menghini, Delworth and Bach, Enhancing CLIP with CLIP: Exploring
    Pseudolabeling for Limited-Label Prompt Tuning, 2023, arXiv 2306.01669.

    Ten rounds, each with a further tenth of the unlabelled images, divided evenly among the classes: in the first round
    zero-shot gives the pseudo-labels, in each later one the model of the round before. Prompts start anew in each
    round. `PseudoLabelled` describes what is learned and which labels are used.

    In the end all images have a pseudo-label, equally many per class: where the images show few of the classes, or some
    classes far more often than others, most of these are wrong.

    Where it differs from the released code: as `ifpl`; a class has at least one pseudo-label (released: none, and the
    training fails, where there are more classes than a tenth of the images).

    Example:
        >>> adapter = build_adapter("grip", epochs=2, rounds=2)
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels(), backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "as ifpl; each class has at least one pseudo-label (released: none for small data sets, and the code fails)"
    )

    rounds: int = option(10, "rounds, each on a further share of the images", low=1, high=1000)

    def _counts(self, images: int, classes: int) -> list[int]:
        return growing_counts(images, classes, self.rounds)[: self.rounds]
