"""IFPL: prompts tuned in rounds, each on a few pseudo-labels per class from the round before.

Take it without labels, where `fpl` helps and several times its time does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.contracts import option
from ._pseudo_labels import PseudoLabelled
from .fpl import FEW


@dataclass(eq=False, kw_only=True)
class Ifpl(PseudoLabelled):
    """Iterative few pseudo-labels, of Menghini, Delworth and Bach, Enhancing CLIP with CLIP: Exploring Pseudolabeling
    for Limited-Label Prompt Tuning, 2023, arXiv 2306.01669.

    Ten rounds of `fpl`, each with 16 pseudo-labels per class: in the first round zero-shot gives them, in each later
    one the model of the round before. Prompts start anew in each round. `PseudoLabelled` describes what is learned and
    which labels are used.

    Where it differs from the released code: as `fpl`; and the start is the same in each round, as the paper says (in
    the released code textual prompts continue from where the round before left them, since a parameter shares its
    memory with its start).

    Example:
        >>> adapter = build_adapter("ifpl", epochs=2, rounds=2)
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels(), backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "as fpl; prompts start anew in each round (released: textual prompts continue from the round before, since the "
        "parameter shares memory with its initial value)"
    )

    pseudo_shots: int = option(FEW, "pseudo-labels per class", low=1, high=1_000_000)
    rounds: int = option(10, "rounds", low=1, high=1000)

    def _counts(self, images: int, classes: int) -> list[int]:
        return [self.pseudo_shots] * self.rounds
