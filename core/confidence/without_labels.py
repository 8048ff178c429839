"""Is an adapted model better than zero-shot, where no label, or hardly any, can tell? A judge by evidence.

What is asked are the images whose class adaptation changed: elsewhere the two do not differ. Three signals count, and a
fourth where it can be had:

    support    how much surer witnesses are of the new class than of the old one. Witnesses are the zero-shot
               predictions of each image's nearest images, and of what else looked at it: another backbone, or augmented
               views of the image
    merged     log of the effective number of classes predicted after over before, where it is below 0: a method that
               throws classes together
    changed    the share of images that changed
    steadiness how often the method says the same by one half of the prompts as by all, less how often zero-shot does

A logistic regression of these gives the odds that the model is better; they are multiplied by the Bayes factor of the
labelled images that one of the two has right alone, if there are any. Its coefficients are those of
`benchmarks/unlabelled_judge.py`, which fits and tests them by leaving whole data sets out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.features import FeatureSet, TextClassifier
from ..data.nearest import nearest_rows

NEIGHBOURS = 5
ENOUGH = 8192
"""Images that tell as much as those of more: of larger sets so many are looked at, evenly spaced."""
SURE_ENOUGH = 0.7
"""Probability of being better from which the adapted model is kept. Below it zero-shot is: what cannot be shown to help
may harm."""
MERGES = -0.3
"""From here on merged classes are told of."""
TOO_LITTLE = 8
"""Images below which nothing is judged."""

CONSTANT, SUPPORT, MERGED, CHANGED, STEADINESS = "constant", "support", "merged", "changed", "steadiness"
PLAIN = {CONSTANT: 1.43, SUPPORT: 4.64, MERGED: 2.87, CHANGED: -3.07}
WITH_HALVES = {CONSTANT: 1.23, SUPPORT: 4.45, MERGED: 3.02, CHANGED: -1.67, STEADINESS: 6.24}
"""Coefficients of the log odds, as `benchmarks/unlabelled_judge.py` prints them: of all its data sets but WHU-RS19, on
which the pages show what the judge does."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against an adapted model, see above.

    Args:
        images: how many were looked at.
        changed: share of them whose class changed.
        support: -1 to 1; 0 where nothing changed.
        merged: 0 or below.
        steadiness: -1 to 1, or None where the method was not fitted by halves of the prompts.
        witnesses: how many kinds of them spoke.
        won, lost: labelled images that the adapted model, or zero-shot, has right alone.
    """

    images: int
    changed: float
    support: float
    merged: float
    steadiness: float | None = None
    witnesses: int = 1
    won: int = 0
    lost: int = 0

    @classmethod
    def of(
        cls,
        unit: Tensor,
        zero_shot: Tensor,
        adapted: Tensor,
        *,
        witnesses: Sequence[Tensor] = (),
        halves: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> Evidence:
        """Look at an adapted model's answers.

        Args:
            unit: (N, D) unit features of images without labels.
            zero_shot: (N, C) logits before.
            adapted: (N, C) logits after, of the same images.
            witnesses: (N, C) probabilities of each: zero-shot of another backbone, or the mean over augmented views.
            halves: of each half of the prompts, the logits (N, C) before and after, by a fit of its own.
        """
        some = slice(None, None, max(1, -(-len(unit) // ENOUGH)))
        unit, zero_shot, adapted = unit[some], zero_shot[some].float(), adapted[some]
        before, after = zero_shot.argmax(dim=1), adapted.argmax(dim=1)
        changed = before != after
        spoken = [_of_nearest(unit, zero_shot), *(each[some].to(unit.device) for each in witnesses)]
        support = 0.0
        if bool(changed.any()):
            support = sum(float(_surer(each, before, after)[changed].mean()) for each in spoken) / len(spoken)
        steadiness = None
        if halves:
            steadiness = sum(
                float(
                    (b[some].argmax(dim=1) == after).double().mean() - (a[some].argmax(dim=1) == before).double().mean()
                )
                for a, b in halves
            ) / len(halves)
        classes = zero_shot.shape[1]
        merged = min(0.0, math.log(_effective(after, classes) / _effective(before, classes)))
        return cls(len(unit), float(changed.double().mean()), support, merged, steadiness, len(spoken))

    @staticmethod
    def answers_by_halves(
        adapter: Adapter, classifier: TextClassifier, unlabeled: FeatureSet, seed: int
    ) -> list[tuple[Tensor, Tensor]]:
        """What zero-shot and the method, fitted anew, say by every other text of each class, twice.

        Args:
            adapter: one that needs images without labels and nothing else.
            unlabeled: the images, N of them.

        Returns:
            two pairs of logits (N, C), before and after; none where a class has one text alone, or where the method
            needs more.
        """
        from ..registry.build import build_adapter

        if min(map(len, classifier.prototypes)) < 2 or adapter.needs - {"features", "unlabeled", "views"}:
            return []
        answers = []
        for start in (0, 1):
            weights = torch.stack([F.normalize(each[start::2].mean(dim=0), dim=0) for each in classifier.prototypes])
            part = replace(classifier, weights=weights, raw=None, prototypes=None, texts=None, unnormalized=None)
            again = build_adapter(adapter.name, **adapter.options)
            again.fit(None, part, unlabeled=unlabeled, seed=seed)
            answers.append((part.logits(unlabeled.unit), again.logits(unlabeled)))
        return answers

    def with_labels(self, zero_shot: Tensor, adapted: Tensor, labels: Tensor) -> Evidence:
        """The same with labelled images besides, which the method did not learn from.

        Args:
            zero_shot, adapted: (M, C) logits. labels: (M,) class indices.
        """
        before, after = (logits.argmax(dim=1) == labels for logits in (zero_shot, adapted))
        return replace(self, won=int((after & ~before).sum()), lost=int((before & ~after).sum()))

    @property
    def probability(self) -> float:
        """That the adapted model is better than zero-shot."""
        coefficients = PLAIN if self.steadiness is None else WITH_HALVES
        odds = coefficients[CONSTANT] + sum(
            coefficients[name] * getattr(self, name) for name in coefficients if name != CONSTANT
        )
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, odds + _bayes_factor(self.won, self.lost)))))

    @property
    def better(self) -> bool:
        """Whether the adapted model is kept: it changed something, and is better with `SURE_ENOUGH` probability."""
        return self.changed > 0 and self.images >= TOO_LITTLE and self.probability >= SURE_ENOUGH

    @property
    def gain(self) -> float:
        """A score by which adapted models are ranked: the share of changed images times how much surer than even it is
        that the change is for the better."""
        return self.changed * (self.probability - 0.5)

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        facts = {**vars(self), "probability": self.probability, "better": self.better}
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in facts.items()}

    @property
    def brief(self) -> str:
        """The evidence in a few words, for a table."""
        if not self.changed:
            return "nothing changed"
        parts = [f"{self.changed:.0%} changed", f"support {self.support:+.2f}"]
        parts += [f"{math.exp(self.merged):.0%} of the classes left"] if self.merged < MERGES else []
        return ", ".join(parts)

    @property
    def words(self) -> str:
        """The evidence in a sentence."""
        if not self.changed:
            return "no image changed its class"
        if self.images < TOO_LITTLE:
            return f"{self.images} images are too few to tell"
        spoke = "the images most like them" if self.witnesses == 1 else "the images most like them and other witnesses"
        more = "more" if self.support > 0 else "less"
        parts = [
            f"{self.changed:.0%} of {self.images:,} images changed their class",
            f"{spoke} are {abs(self.support):.2f} {more} sure of the new class than of the old one",
        ]
        if self.merged < MERGES:
            parts.append(f"only {math.exp(self.merged):.0%} of the classes predicted before still are")
        if self.steadiness is not None and self.steadiness < -0.1:
            parts.append("half of the prompts lead to different answers")
        if self.won or self.lost:
            parts.append(f"of the labelled images, only it is right on {self.won} and only zero-shot on {self.lost}")
        return "; ".join(parts)


def _of_nearest(unit: Tensor, logits: Tensor) -> Tensor:
    """(N, C) the mean zero-shot probabilities of each image's nearest images."""
    index = nearest_rows(unit, unit, NEIGHBOURS, skip_self=True)[1]  # (N, K)
    probabilities = logits.softmax(dim=1)
    return probabilities[index].mean(dim=1) if index.shape[1] else probabilities


def _surer(probabilities: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """(N,) how much more probable the class after is than the one before."""
    return (probabilities.gather(1, after[:, None]) - probabilities.gather(1, before[:, None]))[:, 0]


def _effective(answers: Tensor, classes: int) -> float:
    """exp of the entropy of the shares of classes among (N,) answers."""
    shares = torch.bincount(answers, minlength=classes).double() / len(answers)
    shares = shares[shares > 0]
    return math.exp(-float((shares * shares.log()).sum()))


def _bayes_factor(won: int, lost: int) -> float:
    """Log of how much likelier `won` of `won + lost` is if the chance of winning is above one half than if below, each
    chance as probable as any other."""
    if not won + lost:
        return 0.0
    from scipy.special import betainc, betaincc

    below, above = float(betainc(won + 1, lost + 1, 0.5)), float(betaincc(won + 1, lost + 1, 0.5))
    return math.log(max(above, 1e-300)) - math.log(max(below, 1e-300))
