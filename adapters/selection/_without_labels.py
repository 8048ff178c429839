"""What `auto` does where no image has a label: it judges methods that need none by the evidence of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from ...core.confidence import Evidence
from ...core.contracts import Adapter, FeatureSet, FitReport, TextClassifier
from ...core.errors import CapabilityError, ConfigError

CANDIDATES = ("stat-a", "transclip", "reclip", "zlap", "dmn", "tda", "onzeta")
SETTINGS: Mapping[str, Mapping[str, Any]] = {"transclip": {"mode": "zero-shot"}, "reclip": {"train": False}}
"""Options by which a candidate needs nothing but features."""
MOST = {"dmn": 5_000, "tda": 20_000, "onzeta": 20_000}
"""Images up to which a method that takes them one after the other is a candidate."""
ZERO_SHOT = "zero-shot"
METRIC = "probability of being better than zero-shot"


@dataclass(frozen=True)
class JudgedCandidate:
    """A fitted candidate, with what the images say of it."""

    adapter: Adapter
    report: FitReport
    evidence: Evidence


@dataclass(frozen=True)
class UnlabelledTrial:
    """What candidates are fitted on.

    Args:
        unlabeled: the images that they are to classify.
        build: name -> the candidate, not fitted.

    Raises:
        CapabilityError: there are no images, or no texts.
    """

    unlabeled: FeatureSet | None
    classifier: TextClassifier
    seed: int
    build: Callable[[str], Adapter]

    def __post_init__(self):
        if self.unlabeled is None or not len(self.unlabeled) or not self.classifier.has_texts:
            lacking = "labelled images, or images without labels and the texts of their classes"
            raise CapabilityError(f"adapter 'auto' needs {lacking}; pass a support, or unlabeled=")

    def judged(self, names: Sequence[str]) -> Iterator[JudgedCandidate]:
        """Each candidate that can be fitted, judged by all prompts."""
        for name in names:
            if len(self.unlabeled) > MOST.get(name, len(self.unlabeled)):
                continue
            try:
                adapter, report, logits = self._fit(name)
            except CapabilityError:
                continue
            yield JudgedCandidate(adapter, report, self._evidence(logits))

    def taken(self, judged: Sequence[JudgedCandidate]) -> JudgedCandidate | None:
        """The one with the greatest gain of those that are better than zero-shot, by halves of the prompts too; None
        where there is none."""
        for each in sorted(judged, key=lambda one: -one.evidence.gain):
            if each.evidence.better and (again := self._by_halves(each)).evidence.better:
                return again
        return None

    def zero_shot(self) -> tuple[Adapter, FitReport]:
        """What is taken where nothing is better."""
        adapter, report, _ = self._fit(ZERO_SHOT)
        return adapter, report

    def without_advice(self, notes: Sequence[str], adapter: Adapter) -> list[str]:
        """Notes of the method that was taken, without a warning of absent classes that the images speak against."""
        unlabeled = cast(FeatureSet, self.unlabeled)
        presence = adapter.presence_among(self.classifier, unlabeled)
        warning = presence.notes(adapter.name, len(unlabeled), adapter.assumes) if presence.few else []
        return [note for note in notes if note not in warning]

    def _by_halves(self, judged: JudgedCandidate) -> JudgedCandidate:
        halves = Evidence.answers_by_halves(judged.adapter, self.classifier, self.unlabeled, self.seed)
        return replace(judged, evidence=self._evidence(judged.adapter.logits(self.unlabeled), halves))

    def _fit(self, name: str) -> tuple[Adapter, FitReport, Tensor]:
        adapter = self.build(name)
        report = adapter.fit(None, self.classifier, unlabeled=self.unlabeled, seed=self.seed)
        return adapter, report, adapter.logits(self.unlabeled)

    def _evidence(self, logits: Tensor, halves: Sequence[tuple[Tensor, Tensor]] = ()) -> Evidence:
        unit = self.unlabeled.unit
        return Evidence.of(unit, self.classifier.logits(unit), logits, halves=halves)


def check(method: Adapter) -> None:
    """Raise the ConfigError of a method that learns from labels, or needs more than features."""
    if not method.label_free or method.needs - {"features", "views"} != {"unlabeled"}:
        raise ConfigError(
            f"option without_labels of adapter 'auto': {method.name} needs labels, or more than features; omit it"
        )


def _report_of(
    name: str, chosen: FitReport, judged: Sequence[JudgedCandidate], taken: JudgedCandidate | None
) -> FitReport:
    """The report of the fit that took one of the candidates, or zero-shot."""
    method = ZERO_SHOT if taken is None else taken.adapter.name
    rows = [
        {
            "method": each.adapter.name,
            "score": each.evidence.probability if each.evidence.changed else 0.0,
            "why": each.evidence.brief,
            "metric": METRIC,
            "taken": taken is not None and each.adapter.name == method,
        }
        for each in judged
    ]
    if taken is None:
        note = f"auto took {ZERO_SHOT}: there are no labels, and the images show no method to be better"
    else:
        note = (
            f"auto took {method}: better than zero-shot with a probability of {taken.evidence.probability:.0%} "
            f"({taken.evidence.words}); no labels were used"
        )
    notes = [note, *chosen.notes]
    words = f"{len(judged)} methods that need no labels, judged by the images"
    return FitReport(name, {"method": method, **chosen.chosen}, words, notes=notes, judged=rows)
