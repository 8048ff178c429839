"""How images and texts find each other before and after a training on pairs, and whether that is better by more than
chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...contracts.run_info import JsonObject
from ...metrics.intervals import SIGNIFICANT
from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...metrics.significance import p_words
from ...runs.run_sections import TowerComparison
from ...runs.sections import VerdictSection, plural

DIRECTIONS = (IMAGE_TO_TEXT, TEXT_TO_IMAGE)
WORDS = {IMAGE_TO_TEXT: "image to text", TEXT_TO_IMAGE: "text to image"}


@dataclass(frozen=True, eq=False)
class RetrievalMetrics(JsonObject):
    """Of one model on one set.

    Attributes:
        image_to_text, text_to_image: "r1", "r5", "r10", "median_rank", "mean_rank", "map"; by label also "minp".
        mean_recall: of the six.
        images, texts, groups: their numbers; None where each image stands alone.
        intervals: direction -> [low, high] of r1; also of "accuracy".
        metric_intervals: direction -> metric -> [low, high].
        accuracy: of naming the class of an image by the captions; None where not all images have one.
    """

    image_to_text: Mapping[str, float] = field(default_factory=dict)
    text_to_image: Mapping[str, float] = field(default_factory=dict)
    mean_recall: float | None = None
    images: int = 0
    texts: int = 0
    groups: int | None = None
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    metric_intervals: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    accuracy: float | None = None

    @property
    def flat(self) -> dict[str, float]:
        """Score by "image_to_text/r1", ..., "mean_recall" and "accuracy"."""
        flat = {f"{side}/{name}": value for side in DIRECTIONS for name, value in self[side].items()}
        both = {"mean_recall": self.mean_recall, "accuracy": self.accuracy}
        return flat | {name: value for name, value in both.items() if value is not None}

    @property
    def flat_intervals(self) -> dict[str, Sequence[float]]:
        """Interval by "image_to_text/r1", ..."""
        return {f"{side}/{key}": bounds for side, of in self.metric_intervals.items() for key, bounds in of.items()}


@dataclass(frozen=True, eq=False)
class RetrievalComparison(TowerComparison):
    """What `before_and_after` gives; its verdict is of the change of R@1 in both directions.

    Attributes:
        mcnemar: direction -> its test; empty without scores before.
        accuracy_mcnemar: of naming classes; empty where images have none.
    """

    test_texts: int = 0
    mcnemar: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    accuracy_mcnemar: Mapping[str, Any] = field(default_factory=dict)

    def interval(self, side: str, metric: str) -> Sequence[float] | None:
        """As everywhere; older files have, of each direction, that of R@1 alone."""
        return super().interval(side, metric) or super().interval(side, metric.removesuffix("/r1"))

    @property
    def of_groups(self) -> str:
        """ " of 12 groups", or ""."""
        return f" of {plural(self.test_groups, 'group')}" if self.test_groups else ""

    @property
    def sentence(self) -> str:
        """One sentence per direction: is the change of R@1 more than chance? "" without scores before."""
        sentences = []
        for side, test in self.mcnemar.items():
            query = "image" if side == IMAGE_TO_TEXT else "text"
            if not test["gained"] and not test["lost"]:
                sentences.append(f"{WORDS[side]}: the same {query}s find theirs first before and after.")
                continue
            find = "finds its own" if test["gained"] == 1 else "find theirs"
            lost = f"{test['lost']} no longer {'does' if test['lost'] == 1 else 'do'}"
            gained = f"{plural(test['gained'], query)} {find} first that did not before"
            sentences.append(f"{WORDS[side]}: {gained}, {lost}: {_judged(test)}.")
        if test := self.accuracy_mcnemar:
            sentences.append(
                f"classes: {test['gained']} images are named correctly that were not before, {test['lost']} no longer "
                f"are: {_judged(test)}."
            )
        return "\n".join(sentence[0].upper() + sentence[1:] for sentence in sentences)

    def section(self) -> VerdictSection:
        """Of both directions together."""
        if not self.adapted:
            text = "The data has no test pairs, so retrieval was not measured."
            return VerdictSection("open", "Not measured", text)
        tests = self.mcnemar
        if not tests:
            return VerdictSection("open", "Nothing to compare with", "Retrieval was not measured before the training.")
        sure = {side: test for side, test in tests.items() if test["p_value"] < SIGNIFICANT}
        better = [side for side, test in sure.items() if test["gained"] > test["lost"]]
        worse = [side for side in sure if side not in better]
        tone, title = "open", "Could be chance"
        if better and worse:
            tone, title = "bad", f"Better at {WORDS[better[0]]}, worse at {WORDS[worse[0]]}, both by more than chance"
        elif better:
            where = "" if len(better) == len(tests) else f", at {WORDS[better[0]]}"
            tone, title = "good", f"The gain is more than chance{where}"
        elif worse:
            where = "" if len(worse) == len(tests) else f" at {WORDS[worse[0]]}"
            tone, title = "bad", f"The training made it worse{where}, by more than chance"
        return VerdictSection(tone, title, self.sentence)


def _judged(test: Mapping[str, Any]) -> str:
    kind = "a gain" if test["gained"] > test["lost"] else "a LOSS"
    judged = "could be chance" if test["p_value"] >= SIGNIFICANT else f"{kind} beyond chance"
    exchanged = test.get("exchanged")
    over = f" over {exchanged}" if exchanged else ""
    return f"{judged} (McNemar’s test{over}, {p_words(test['p_value'])})"
