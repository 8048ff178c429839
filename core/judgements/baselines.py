"""Is the adapted model better than what one has without it? Intervals, baselines and the tests against them.

Baselines are zero-shot, always answering the largest class of the test set, and a logistic regression on the same
features, fitted on the same few images. The strongest of them is the one to beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..contracts.judgement import JudgedClassifier, Judgement, Place, Scores
from ..contracts.run_info import Record, beside
from ..metrics.classification import classification_metrics, multilabel_metrics
from ..metrics.intervals import SIGNIFICANT, paired_shares, units_of
from ..metrics.score_intervals import Aurocs, auroc_difference, score_intervals
from ..metrics.significance import mcnemar, p_words
from ..runs.run_sections import Verdict
from ..runs.sections import MEASURES, Measure, VerdictSection, deciding_of, points

if TYPE_CHECKING:
    from typing_extensions import Self


ZERO_SHOT, LARGEST, LINEAR, GUESSING = "zero_shot", "largest_class", "linear_probe", "guessing"
UNEQUAL = 1.5
"""Largest over smallest class of the test set above which balanced accuracy decides."""


@dataclass(frozen=True, eq=False)
class Baseline(Record):
    """What one has without the adapted model.

    Attributes:
        scores: metric -> value.
        difference: what the adapted model gains over it in the metric that decides, with `interval` and `p_value`; None
            where it has no score.
        largest: the class that is always answered, of that baseline.
        of: which one it is, "zero_shot", "largest_class", "linear_probe" or "guessing".
    """

    scores: Mapping[str, float | None]
    difference: float | None
    interval: Sequence[float] | None
    p_value: float | None
    largest: str | None = None
    of: str = beside("")

    def values_by_key(self) -> dict[str, Any]:
        values = {**self.scores, "difference": self.difference, "interval": self.interval, "p_value": self.p_value}
        return values if self.largest is None else {**values, "class": self.largest}

    @classmethod
    def read(cls, of: str, values: Mapping[str, Any]) -> Baseline:
        """From metrics.json."""
        own = ("difference", "interval", "p_value", "class")
        scores = {key: value for key, value in values.items() if key not in own}
        return cls(scores, *map(values.get, own), of=of)

    @property
    def name(self) -> str:
        """How it is called within a sentence."""
        names = {ZERO_SHOT: "zero-shot", LINEAR: "a linear probe on the same images", GUESSING: "guessing"}
        return names.get(self.of) or f"always answering “{self.largest}”"

    @property
    def column(self) -> str:
        """How it is called above a column."""
        names = {ZERO_SHOT: "Zero-shot", LINEAR: "Linear probe", GUESSING: "Guessing"}
        return names.get(self.of) or f"Always “{self.largest}”"

    @property
    def sure(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p_value < SIGNIFICANT


@dataclass(frozen=True, eq=False)
class BaselineComparison(Record, Verdict):
    """The adapted model and its baselines on one test set.

    Attributes:
        intervals: side -> [low, high] of accuracy, or of macro AUROC with several labels.
        metric_intervals: side -> metric -> [low, high].
        deciding: the metric that decides.
        baselines: name -> each.
        mcnemar: against zero-shot, or None; of one label per image.
        gain_interval: of macro AUROC over zero-shot; of several labels.
        decided_by_protocol: whether another metric would decide without it.
        class_range: (fewest, most) test images of a class; of one label per image.
        test_groups: their number, where there are groups.
        adapted, zero_shot, test_images: scores of both sides, zero-shot's None where it means nothing, and on how many
            images.
        if_grouped: what `possible_groups` says, where images may belong together that the split divides; or None.
        classes: how many there are, where it was just computed; 0 where it was read.
    """

    beside_scores: ClassVar = ("adapted",)
    intervals: Mapping[str, Sequence[float] | None]
    metric_intervals: Mapping[str, Mapping[str, Sequence[float] | None]]
    deciding: str
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    mcnemar: Mapping[str, Any] | None = None
    gain_interval: Sequence[float] | None = None
    decided_by_protocol: bool = False
    class_range: tuple[int, int] | None = None
    test_groups: int | None = None
    adapted: Mapping[str, float | None] = beside()
    zero_shot: Mapping[str, float | None] | None = beside()
    test_images: int = beside(0)
    if_grouped: Mapping[str, Any] | None = beside()
    classes: int = beside(0)

    def values_by_key(self) -> dict[str, Any]:
        values: dict[str, Any] = {"intervals": self.intervals, "metric_intervals": self.metric_intervals}
        if self.class_range is None:
            values |= {"gain_interval": self.gain_interval, "deciding": self.deciding}
        else:
            values |= {"mcnemar": self.mcnemar, "deciding": self.deciding}
            values |= {"decided_by_protocol": True} if self.decided_by_protocol else {}
            values["class_range"] = self.class_range
        groups = {} if self.test_groups is None else {"test_groups": self.test_groups}
        return {**values, "baselines": self.baselines, "strongest": self.strongest, **groups}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self | None:
        """What metrics.json says, which is less in older ones; None where nothing is scored."""
        if not metrics.get("adapted"):
            return None
        keys = ("mcnemar", "gain_interval", "decided_by_protocol", "class_range", "test_groups", "test_images")
        baselines = {of: Baseline.read(of, values) for of, values in (metrics.get("baselines") or {}).items()}
        return cls(
            metrics.get("intervals") or {},
            metrics.get("metric_intervals") or {},
            deciding_of(metrics),
            baselines,
            adapted=metrics["adapted"],
            zero_shot=metrics.get("zero_shot") or None,
            if_grouped=metrics.get("possible_groups"),
            **{key: metrics[key] for key in keys if key in metrics},
        )

    @property
    def strongest(self) -> str | None:
        """The best baseline in the metric that decides; None where none has a score."""
        scores = {of: each.scores.get(self.deciding) for of, each in self.baselines.items()}
        return max((of for of in scores if scores[of] is not None), key=scores.get, default=None)

    @property
    def best(self) -> Baseline | None:
        """The strongest baseline."""
        return None if self.strongest is None else self.baselines[self.strongest]

    @property
    def floor(self) -> Baseline | None:
        """Always answering the largest class, or guessing."""
        return self.baselines.get(LARGEST) or self.baselines.get(GUESSING)

    @property
    def above_guessing(self) -> bool | None:
        """Whether the adapted model beats the floor, beyond chance; None where nobody can say."""
        if self.floor is None or self.floor.p_value is None:
            return None
        return self.floor.sure and self.floor.difference > 0

    @property
    def measure(self) -> Measure:
        """How the metric that decides is written."""
        return MEASURES[self.deciding]

    def note(self) -> str:
        return self.words_at_chance(self.classes) if self.classes else ""

    def words_at_chance(self, classes: int) -> str:
        """A sentence where the interval of zero-shot reaches down to what guessing has; "" elsewhere."""
        several = self.deciding == "auroc"
        guessing, interval = 0.5 if several else 1 / classes, self.intervals.get(ZERO_SHOT)
        if not self.zero_shot or not interval or interval[0] > guessing:
            return ""
        among = "(an AUROC of 0.5)" if several else f"among {classes} classes ({guessing:.1%})"
        return (
            f"Zero-shot cannot be told from guessing {among}: this model's words do not tell these classes apart, so "
            "what the adapted model knows comes from the labelled images."
        )

    def between(self, side: str, metric: str = "") -> Sequence[float] | None:
        """The interval of a metric, by default of the one that decides; None where there is none."""
        return (self.metric_intervals.get(side) or {}).get(metric or self.deciding)

    def beside_adapted(self, scores: Mapping[str, float | None]) -> dict[str, float | None]:
        """Scores of a baseline as they stand beside the adapted model's: where that is calibrated and a baseline is
        not, the baseline's calibration error is compared as the raw one alone."""
        calibrated = "ece_uncalibrated" in self.adapted
        return {key: value for key, value in scores.items() if key != "ece" or not calibrated}

    def section(self) -> VerdictSection | None:
        """Whether the adapted model is better than the strongest baseline, beyond chance; None where nobody can say."""
        return self._lowered(self._verdict(paragraphs=True))

    @property
    def sentence(self) -> str:
        """The same for a terminal: a sentence or two."""
        section, why = self._lowered(self._verdict(paragraphs=False)), self._why
        return "" if section is None else f"{section.title}. {section.text}{f' {why}' if why else ''}"

    def _lowered(self, section: VerdictSection | None) -> VerdictSection | None:
        """The verdict, by the lower number where images may belong together that the split divides."""
        doubt = self.if_grouped
        if section is None or not doubt or doubt["by_group"] >= doubt["by_image"]:
            return section
        measure = MEASURES[doubt["deciding"]]
        both = (
            f"Images may belong together: a linear probe reaches {measure.text(doubt['by_image'])} where they are held "
            f"out one by one, and {measure.text(doubt['by_group'])} in whole groups."
        )
        if section.tone != "good" or doubt["tone"] == "good":
            return replace(section, text=f"{section.text} {both}")
        return VerdictSection("open", "Not shown, as images may belong together", f"{both} {section.text}")

    def _verdict(self, paragraphs: bool) -> VerdictSection | None:
        """
        Args:
            paragraphs: with a line for each further baseline.
        """
        best, floor = self.best, self.floor
        if best is None:
            return None
        lines = [self._against(best), *([self._why] if self._why else [])]
        others = [each for each in self.baselines.values() if each is not best and self.deciding in each.scores]
        lines += [self._against(each) for each in others]
        text = "\n".join(lines) if paragraphs else lines[0]
        if self.above_guessing is False:
            text = text if paragraphs or floor is best else f"{text} {self._against(floor)}"
            tone = "bad" if floor.difference < 0 and floor.sure else "open"
            return VerdictSection(tone, f"Not shown to be better than {floor.name}", text)
        if best.difference == 0 and best.p_value == 1:
            return VerdictSection("open", "No difference", text)
        if not best.sure:
            zero_shot = self.baselines.get(ZERO_SHOT)
            gained = zero_shot is not None and zero_shot.sure and zero_shot.difference > 0
            unshown = f"Better than zero-shot, but not shown to be better than {best.name}"
            return VerdictSection("open", unshown if gained else "Could be chance", text)
        if best.difference > 0:
            return VerdictSection("good", "The gain is more than chance", text)
        if best.of == ZERO_SHOT:
            return VerdictSection("bad", "Adaptation made it worse, by more than chance", text)
        return VerdictSection("bad", f"{best.name[0].upper()}{best.name[1:]} does better, by more than chance", text)

    @property
    def _why(self) -> str:
        """Why this metric decides, where it is not simply accuracy."""
        if self.decided_by_protocol:
            return f"{self.measure.name} decides, as in the protocol."
        if self.deciding != "balanced_accuracy":
            return ""
        unequal = "because the classes of the test set are unequal ({} to {} images)".format(*self.class_range)
        return f"Balanced accuracy decides, {unequal}."

    def _against(self, baseline: Baseline) -> str:
        """Both scores, their difference, its interval and its test."""
        measure = self.measure
        called, score = baseline.name, measure.text(baseline.scores[self.deciding])
        if baseline is self.best:
            name = "macro AUROC" if self.deciding == "auroc" else measure.name.lower()
            reached = f"{'an' if name[0] in 'aeiou' else 'a'} {name} of {measure.text(self.adapted[self.deciding])}"
            text = f"The adapted model has {reached}; the strongest baseline, {called}, has {score}"
        else:
            text = f"Against {called} ({score})"
        bounds = [points(measure, bound, unit=False) for bound in baseline.interval or ()]
        between = f"95 % interval {' to '.join(bounds)}" if bounds else ""
        tested = "; ".join(filter(None, (between, self._test(baseline.p_value))))
        return f"{text}: {points(measure, baseline.difference)} ({tested})."

    def _test(self, p_value: float) -> str:
        by_group = f" over {self.test_groups} groups" if self.test_groups else ""
        name = {"auroc": "DeLong’s test", "accuracy": "McNemar’s test"}.get(self.deciding, "score test class by class")
        return f"{name}{by_group}, {p_words(p_value)}"


@dataclass(eq=False, kw_only=True)
class Baselines(Judgement):
    """The adapted model against each baseline in the metric that decides."""

    record: ClassVar = BaselineComparison
    needs: ClassVar = frozenset({"labelled"})
    place: ClassVar = Place.VERDICT

    def compute(self, fit: JudgedClassifier) -> BaselineComparison:
        comparison = compared(fit.scores, fit.class_names, fit.deciding)
        grouped = fit.metrics.get("possible_groups")
        return replace(comparison, if_grouped=grouped, classes=len(fit.class_names))


def compared(scores: Scores, class_names: Sequence[str], deciding: str = "") -> BaselineComparison:
    """The adapted model against its baselines.

    Args:
        scores: with labels.
        class_names: C names.
        deciding: "accuracy" or "balanced_accuracy", where a protocol says which decides; "" for `deciding_metric`.
    """
    sides = {"adapted": scores.adapted_logits, ZERO_SHOT: scores.zero_shot_logits, LINEAR: scores.probe_logits}
    sides = {name: logits.float() for name, logits in sides.items() if logits is not None}
    groups = scores.groups
    units = None if groups is None else units_of(groups, len(scores.labels))[1]
    before, after = scores.zero_shot, scores.adapted
    of: dict[str, Any] = {
        "test_groups": units,
        "adapted": after,
        "zero_shot": before,
        "test_images": len(scores.labels),
    }
    if scores.labels.ndim == 2:
        return replace(_several_labels(scores, class_names, sides), **of)
    return replace(_one_label(scores, class_names, sides, deciding or deciding_metric(scores.labels)), **of)


def _one_label(scores: Scores, names: Sequence[str], sides: Mapping[str, Tensor], deciding: str) -> BaselineComparison:
    """Answers compared, and their confidence."""
    labels, groups, classes = scores.labels, scores.groups, len(names)
    answers = {side: logits.argmax(dim=1) for side, logits in sides.items()}
    values = {side: classification_metrics(logits, labels, classes) for side, logits in sides.items()}
    between = {side: score_intervals(of, labels, values[side], groups) for side, of in sides.items()}
    largest = int(torch.bincount(labels).argmax())
    answers[LARGEST] = torch.full_like(labels, largest)
    right = {side: of == labels for side, of in answers.items()}
    baselines: dict[str, Baseline] = {}
    for name in (ZERO_SHOT, LARGEST, LINEAR):
        if name in answers:
            classed = None if deciding == "accuracy" else labels
            gain = paired_shares(right[name], right["adapted"], groups, classed)
            reached = values[LINEAR] if name == LINEAR else _shares(right[name], labels)
            of_class = names[largest] if name == LARGEST else None
            baselines[name] = Baseline(reached, gain.value, gain.bounds, gain.p_value, of_class, of=name)
    return BaselineComparison(
        intervals={side: of["accuracy"] for side, of in between.items()},
        metric_intervals=between,
        deciding=deciding,
        baselines=baselines,
        mcnemar=vars(mcnemar(right[ZERO_SHOT], right["adapted"], groups)) if ZERO_SHOT in sides else None,
        decided_by_protocol=deciding != deciding_metric(labels),
        class_range=class_range(labels),
    )


def _shares(right: Tensor, labels: Tensor) -> dict[str, float]:
    weights = {key: weights_of_answers(labels, key) for key in ("accuracy", "balanced_accuracy")}
    return {key: float((right.double() * of).sum()) for key, of in weights.items()}


def _several_labels(given: Scores, class_names: Sequence[str], sides: Mapping[str, Tensor]) -> BaselineComparison:
    """AUROCs compared."""
    labels, groups = given.labels, given.groups
    values = {side: multilabel_metrics(logits, labels, list(class_names)) for side, logits in sides.items()}
    between = {side: score_intervals(of, labels, values[side], groups) for side, of in sides.items()}
    ranked = values["adapted"]["auroc"] is not None
    aurocs = {side: Aurocs.of_logits(logits, labels, groups) for side, logits in sides.items()} if ranked else {}
    values[GUESSING] = {"auroc": 0.5 if ranked else None}
    baselines = {}
    for name in (ZERO_SHOT, GUESSING, LINEAR):
        if name in values:
            baselines[name] = Baseline(values[name], None, None, None, of=name)
        if name in values and ranked:
            gain = auroc_difference(aurocs.get(name), aurocs["adapted"])
            baselines[name] = Baseline(values[name], gain.value, gain.bounds, gain.p_value, of=name)
    return BaselineComparison(
        intervals={side: of.get("auroc") for side, of in between.items()},
        metric_intervals=between,
        deciding="auroc",
        baselines=baselines,
        gain_interval=baselines[ZERO_SHOT].interval if ZERO_SHOT in baselines else None,
    )


def deciding_metric(labels: Tensor) -> str:
    """Accuracy, or balanced accuracy where the classes of the test set are unequal, or macro AUROC.

    Args:
        labels: (N,) class indices, or (N, C) 0, 1 or NaN.
    """
    if labels.ndim == 2:
        return "auroc"
    fewest, most = class_range(labels)
    return "balanced_accuracy" if most > UNEQUAL * fewest else "accuracy"


def class_range(labels: Tensor) -> tuple[int, int]:
    """The fewest and the most images of a class that has any.

    Args:
        labels: (N,) class indices.
    """
    counts = torch.bincount(labels.long().cpu())
    counts = counts[counts > 0]
    return int(counts.min()), int(counts.max())


def weights_of_answers(labels: Tensor, deciding: str) -> Tensor:
    """(N,) what a right answer adds to the metric, accuracy or balanced accuracy."""
    if deciding == "accuracy":
        return torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    counts = torch.bincount(labels).double()
    return 1 / (counts[labels] * (counts > 0).sum())
