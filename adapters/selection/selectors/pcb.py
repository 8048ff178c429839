"""PCB: pseudo-class balance, so that no class is left without labels."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ....core.contracts import Pool, Selector, option
from ....core.registry import build_selector

BASES = ("random", "entropy", "coreset", "badge")
RANDOM, PREDICTED = "random", "predicted"


@dataclass(eq=False, kw_only=True)
class Pcb(Selector):
    """Active Prompt Learning in Vision Language Models (Bang, Ahn and Lee, 2024, arXiv 2311.11178).

    `base` chooses `share` of the whole pool as candidates, or as many as are to be labelled where that is more. They
    are drawn one at a time: at random among those predicted as the class with the fewest images so far (labelled images
    count by label, drawn ones by prediction), or among all where none is predicted as that class.

    As published, the first round, when nothing is labelled, is random. `first` "predicted" balances zero-shot's
    predictions in that round too. In the released code `base` "random" has no effect, since it has no more candidates
    than are drawn; here they are the same share as for other bases.

    Example:
        >>> build_selector("pcb", base="entropy").select(pool, 3, seed=1)
        [5, 2, 9]
    """

    by_predictions: ClassVar[bool] = True

    base: str = option("badge", "selector of the candidates", choices=BASES)
    share: float = option(0.1, "candidates, as a share of the whole pool", above=0, high=1)
    first: str = option(RANDOM, "how images are drawn while none is labelled", choices=(RANDOM, PREDICTED))

    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        if self.first == RANDOM and not len(pool.labelled):
            return build_selector(RANDOM).select(pool, count, seed)
        most = min(len(pool.candidates), max(count, int(self.share * len(pool))))
        candidates = torch.tensor(build_selector(self.base).select(pool, most, seed), dtype=torch.int64)
        return self.balanced(replace(pool, candidates=candidates.to(pool.candidates.device)), count, seed)

    def balanced(self, pool: Pool, count: int, seed: int) -> list[int]:
        """Rows of the candidates by class, the second step of `select`."""
        rows = pool.candidates.tolist()
        predicted = pool.probabilities[pool.candidates].argmax(dim=1).tolist()
        counts = pool.counts.clone().float().cpu()
        draws, chosen, taken = random.Random(seed), [], set()
        of_class: dict[int, list[int]] = {}
        for place, label in enumerate(predicted):
            of_class.setdefault(label, []).append(place)
        while len(chosen) < count:
            fewest = int(counts.argmin())
            places = list(of_class.get(fewest, ()))
            draws.shuffle(places)
            place = next((each for each in places if each not in taken), None)
            if place is None:
                place = draws.randint(0, len(rows) - 1)
                while place in taken:
                    place = draws.randint(0, len(rows) - 1)
            else:
                counts[fewest] += 1
            taken.add(place)
            chosen.append(rows[place])
        return chosen
