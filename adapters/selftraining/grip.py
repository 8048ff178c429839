"""GRIP: prompts tuned in rounds on more and more pseudo-labels, until all unlabelled images have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.contracts.options import option
from ._leaderboards import growing_counts
from ._pseudo_labels import PseudoLabelled


@dataclass(eq=False, kw_only=True)
class Grip(PseudoLabelled):
    """Grow and refine iteratively pseudo-labels, of Menghini, Delworth and Bach, Enhancing CLIP with CLIP: Exploring
    Pseudolabeling for Limited-Label Prompt Tuning, 2023, arXiv 2306.01669.

    Ten rounds, each on a tenth of the unlabelled images more than the one before, divided evenly among the classes: in
    the first zero-shot gives the pseudo-labels, in each later one the model of the round before. Prompts start anew in
    each round. What is learned and what is known of the images: `PseudoLabelled`.

    In the end all images have a pseudo-label and all classes as many of them: of images that show few of the classes,
    or some classes far more often than others, most are then wrong.

    Where it differs from the released code: as `ifpl`; a class has one pseudo-label at least (released: none, and the
    training fails, where there are more classes than a tenth of the images).

    Example:
        >>> adapter = build_adapter("grip", epochs=2, rounds=2)
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels(), backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "as ifpl; a class has at least one pseudo-label (released: none on small sets, where it fails)"
    )

    rounds: int = option(10, "rounds, each on a further share of the images", low=1, high=1000)

    def _counts(self, images: int, classes: int) -> list[int]:
        return growing_counts(images, classes, self.rounds)[: self.rounds]
