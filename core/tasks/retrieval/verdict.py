"""Whether a training on pairs made images and texts find each other better, by more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...metrics.significance import SIGNIFICANT
from ...runs.run_sections import Verdict
from ...runs.sections import VerdictSection, plural

WORDS = {IMAGE_TO_TEXT: "image to text", TEXT_TO_IMAGE: "text to image"}


@dataclass(frozen=True)
class RetrievalVerdict(Verdict):
    """Of the change of R@1 in both directions.

    Args:
        metrics: of `before_and_after`.
        said: sentences of a run that knows its own, in place of `sentence` in the report.
    """

    metrics: Mapping[str, Any]
    said: str | None = None

    @property
    def tests(self) -> Mapping[str, Mapping[str, Any]]:
        """Direction -> its test; empty without scores before."""
        return self.metrics.get("mcnemar") or {}

    @property
    def sentence(self) -> str:
        """One sentence per direction: is the change of R@1 more than chance? "" without scores before."""
        sentences = []
        for side, test in self.tests.items():
            query = "image" if side == IMAGE_TO_TEXT else "text"
            if not test["gained"] and not test["lost"]:
                sentences.append(f"{WORDS[side]}: the same {query}s find theirs first before and after.")
                continue
            find = "finds its own" if test["gained"] == 1 else "find theirs"
            lost = f"{test['lost']} no longer {'does' if test['lost'] == 1 else 'do'}"
            gained = f"{plural(test['gained'], query)} {find} first that did not before"
            sentences.append(f"{WORDS[side]}: {gained}, {lost}: {_judged(test)}.")
        if test := self.metrics.get("accuracy_mcnemar"):
            sentences.append(
                f"classes: {test['gained']} images are named correctly that were not before, {test['lost']} no longer "
                f"are: {_judged(test)}."
            )
        return "\n".join(sentence[0].upper() + sentence[1:] for sentence in sentences)

    def section(self) -> VerdictSection:
        """Of both directions together."""
        if not self.metrics.get("adapted"):
            text = "The data has no test pairs, so retrieval was not measured."
            return VerdictSection("open", "Not measured", text)
        tests = self.tests
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
        return VerdictSection(tone, title, self.sentence if self.said is None else self.said)


def _judged(test: Mapping[str, Any]) -> str:
    kind = "a gain" if test["gained"] > test["lost"] else "a LOSS"
    judged = "could be chance" if test["p_value"] >= SIGNIFICANT else f"{kind} beyond chance"
    exchanged = test.get("exchanged")
    how = f"permutation test of whole {exchanged}, p" if exchanged else "McNemar p"
    return f"{judged} ({how} = {test['p_value']:.2g})"
