"""How well a model tells images with a finding from those without it: ranking, calibration, net benefit.

These are the three sides from which prediction models are judged ("Assessing the performance of prediction models: a
framework for traditional and novel measures", Steyerberg et al., Epidemiology 21, 2010). One of two classes is the
finding; of several labels each is one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place
from ..contracts.options import option
from ..contracts.prepared import PreparedData
from ..contracts.run_info import FittedRun, Record, beside
from ..errors import ConfigError
from ..metrics.classification import average_precision, ranking_curve
from ..metrics.score_intervals import Aurocs, precision_interval
from ..runs.sections import Cell, Line, Mark, Measure, Plot, PlotSection, TableSection

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..metrics.operating_point import ThresholdRates

WITHOUT = {"absence", "absent", "benign", "control", "healthy", "negative", "no", "non", "none", "normal", "not"}
WITHOUT |= {"unaffected", "uninfected", "unremarkable", "without"}
"""Words in the name of the class that has no finding."""
MOST_CURVES, MOST_POINTS = 8, 50
"""Findings whose curves are kept and drawn, those that most test images have; and points of each curve."""
NUMBER = Measure("", kind="number")
NOTE = (
    "Average precision is the mean precision over all thresholds; guessing gets the share of images that have the "
    "finding. A calibration slope below 1 says that probabilities are too extreme, an intercept above 0 that the "
    "finding is more frequent than they say; 1 and 0 are right."
)
PLOTTED = (
    "Dashed: guessing, or acting on every image. Net benefit is the share of images that are rightly acted on, less "
    "that of those wrongly acted on, weighted by the odds of the probability from which on one would act; doing "
    "nothing has 0."
)
MARKED = "Ring: the operating point, with the 95 % intervals of both rates."


@dataclass(frozen=True)
class FindingScore:
    """How well one finding is told, on test images whose answer is known.

    Attributes:
        images, present: their number, and how many have the finding.
        auroc, average_precision: of ranking; each with its [low, high], None where a single image has the finding.
        brier, slope, intercept: of probabilities; see `Recalibration`.
        ranking: sensitivity, false_positive_rate and precision at some cuts; None where curves are not kept.
        decision: thresholds, and the net benefit of acting by the model and on everyone; None likewise.
    """

    images: int
    present: int
    auroc: float
    auroc_interval: Sequence[float]
    average_precision: float
    average_precision_interval: Sequence[float] | None
    brier: float
    slope: float | None
    slope_interval: Sequence[float] | None
    intercept: float | None
    intercept_interval: Sequence[float] | None
    ranking: Mapping[str, Sequence[float]] | None = None
    decision: Mapping[str, Sequence[float]] | None = None

    def cells(self) -> tuple[Any, ...]:
        """Of a table."""
        scores = (
            (self.auroc, self.auroc_interval),
            (self.average_precision, self.average_precision_interval),
            (self.brier, None),
            (self.slope, self.slope_interval),
            (self.intercept, self.intercept_interval),
        )
        return (f"{self.present:,} of {self.images:,}", *(_cell(*score) for score in scores))

    def plots(self, title: str, rates: ThresholdRates | None = None) -> list[Plot]:
        """Both curves of ranking, and the decision curve.

        Args:
            rates: of an operating point, which is marked in the first two.
        """
        if self.ranking is None or self.decision is None:
            return []
        ranking, share = self.ranking, self.present / self.images
        sensitivity, at = ranking["sensitivity"], self.decision["thresholds"]
        roc = Line("model", [0.0, *ranking["false_positive_rate"]], [0.0, *sensitivity])
        chance = Line("guessing", (0, 1), (share, share), "ideal")
        acted = (Line("everyone", at, self.decision["everyone"], "ideal"), Line("model", at, self.decision["model"]))
        top, diagonal = 0.03 * math.ceil(share / 0.03), Line("guessing", (0, 1), (0, 1), "ideal")
        on_roc, on_precision = _marks(rates)
        precision = Line("model", sensitivity, ranking["precision"])
        return [
            Plot(f"{title}ROC curve", "false positive rate", "sensitivity", (diagonal, roc), mark=on_roc),
            Plot("Precision and recall", "recall", "precision", (chance, precision), mark=on_precision),
            Plot("Decision curve", "threshold probability", "net benefit", acted, -top / 3, top),
        ]


def _marks(rates: ThresholdRates | None) -> tuple[Mark | None, Mark | None]:
    """Of the ROC curve, and of precision over recall, where anything is called positive."""
    if rates is None or rates.sensitivity is None or rates.specificity is None:
        return None, None
    name, of = f"from a probability of {rates.threshold:.3f} on", rates.intervals
    recall, false = of["sensitivity"], [1 - share for share in reversed(of["specificity"])]
    at = Mark(name, 1 - rates.specificity, rates.sensitivity, false, recall)
    return at, None if rates.ppv is None else Mark(name, rates.sensitivity, rates.ppv, recall, of["ppv"])


@dataclass(frozen=True, eq=False)
class FindingScores(Record):
    """How well findings are told.

    Attributes:
        finding: which of two classes it is; None with several labels.
        reason: why that one.
        calibrated: whether the probabilities are calibrated ones.
        scores: finding -> how well it is told; of those that some test images have and others lack.
        marked: finding -> the rates of its operating point.
    """

    key: ClassVar[str] = "findings"
    finding: str | None
    reason: str
    calibrated: bool
    scores: Mapping[str, FindingScore]
    marked: Mapping[str, ThresholdRates] | None = beside()

    def among(self, others: Mapping[str, Record]) -> FindingScores:
        """With the operating points marked, where there are some."""
        points = others.get("operating-point", {}).get("points", {})
        return replace(self, marked={name: point.rates for name, point in points.items()})

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = metrics[cls.key]
        scores = {name: FindingScore(**of) for name, of in values["scores"].items()}
        return cls(values["finding"], values["reason"], values["calibrated"], scores)

    def section(self) -> list[Any]:
        """A table, and the curves."""
        if not self.scores:
            return []
        named = self.finding is not None
        title = f"“{self.finding}” as a finding" if named else "Each label as a finding"
        header = (
            "Finding",
            "Images with it",
            "AUROC",
            "Average precision",
            "Brier score",
            "Calibration slope",
            "Intercept",
        )
        rows = [(name, *of.cells()) for name, of in self.scores.items()]
        note = f"The finding is “{self.finding}”, {self.reason}. {NOTE}" if named else NOTE
        if not self.calibrated:
            note += " The probabilities are not calibrated."
        marked = self.marked or {}
        plots = [
            plot
            for name, of in self.scores.items()
            for plot in of.plots("" if named else f"{name}: ", marked.get(name))
        ]
        words = f"{PLOTTED} {MARKED}" if any(plot.mark for plot in plots) else PLOTTED
        curves = PlotSection("Curves" if named else "Curves of the most frequent labels", plots, words, sub=True)
        return [TableSection(title, header, rows, note, shares=False), curves]


@dataclass(eq=False, kw_only=True)
class FindingCurves(Judgement):
    """ROC, precision-recall and decision curves, and the calibration of probabilities, of two classes or several
    labels."""

    record: ClassVar = FindingScores
    needs: ClassVar = frozenset({"of_findings"})
    place: ClassVar = Place.DETAILS
    refits: ClassVar = True
    finding: str | None = option(
        None,
        "which of two classes is the finding, whose presence is positive; by default the one whose name does not say "
        "that there is none (normal, negative, healthy, no ...), or else the rarer one",
        metavar="NAME",
    )

    def check(self, adapter: Adapter, class_names: Sequence[str]) -> None:
        if self.finding is not None:
            check_finding_option(self.finding, adapter.class_names_, adapter.multilabel_)

    def check_fit(self, adapter: Adapter, prepared: PreparedData, shots: int | None, given: Mapping[str, Any]) -> None:
        if self.finding is not None:
            check_finding_option(self.finding, prepared.class_names, several_in(prepared))

    def compute(self, fit: JudgedClassifier) -> FindingScores | None:
        """None where no image, of the test set or of the fit, has a label."""
        if not fit.labelled and fit.calibration is None:
            return None
        finding, reason = (None, "") if fit.several_labels else self._finding(fit)
        if not fit.labelled:
            return FindingScores(finding, reason, fit.calibration is not None, {})
        columns = {name: c for c, name in enumerate(fit.class_names) if finding in (None, name)}
        counts = {name: int((present_of(fit.labels, c) == 1).sum()) for name, c in columns.items()}
        drawn = sorted(counts, key=lambda name: -counts[name])[:MOST_CURVES]
        scores = {name: _score(fit, column, name in drawn) for name, column in columns.items()}
        of_both_kinds = {name: score for name, score in scores.items() if score is not None}
        return FindingScores(finding, reason, fit.calibration is not None, of_both_kinds)

    def _finding(self, fit: JudgedClassifier) -> tuple[str, str]:
        """Which of two classes, and why."""
        if self.finding is not None:
            return self.finding, "as --finding says"
        if fit.at == EVAL and fit.use is not None:
            return _of_run(fit.use.run, fit.class_names)
        return finding_in(fit.prepared)


def _cell(value: float | None, interval: Sequence[float] | None) -> Cell:
    return Cell(NUMBER.text(value).replace("-", "−"), NUMBER.between(interval).replace("-", "−"))


def check_finding_option(option: str, class_names: Sequence[str], several: bool, flag: str = "--finding") -> None:
    """Raise the ConfigError of an option of findings where there are none, or of a finding that is no class."""
    flagged = f"{flag} {option}"
    if not several and len(class_names) != 2:
        raise ConfigError(
            f"{flagged}: is for two classes or several labels, and these are {len(class_names)} classes; omit it"
        )
    if flag == "--finding" and several:
        raise ConfigError(f"{flagged}: with several labels each is a finding; omit it")
    if flag == "--finding" and option not in class_names:
        raise ConfigError(f"{flagged}: the classes are “{class_names[0]}” and “{class_names[1]}”; name one of them")


def default_finding(counts: Mapping[str, int]) -> tuple[str, str]:
    """Which of two classes is the finding, and why.

    Args:
        counts: class -> training images.
    """
    none = [name for name in counts if WITHOUT & set(re.findall(r"[a-z]+", name.lower()))]
    if len(none) == 1:
        return next(name for name in counts if name not in none), f"since “{none[0]}” says that there is none"
    last = max(counts.values())
    if min(counts.values()) == last:
        return list(counts)[-1], "the second of two equally frequent classes"
    return min(counts, key=lambda name: counts[name]), "the rarer class of the training images"


def several_in(prepared: PreparedData) -> bool:
    """Whether an image of the data may have several labels."""
    labels = (item.class_label() for item in prepared.data.items)
    return isinstance(next((label for label in labels if label is not None), None), tuple)


def finding_in(prepared: PreparedData) -> tuple[str, str]:
    """The same, of data of two classes."""
    labels = [item.class_label() for item in prepared.data.split("train")]
    return default_finding({name: labels.count(c) for c, name in enumerate(prepared.class_names)})


def finding_of(run: FittedRun) -> str | None:
    """Which of two classes of a run is the finding; None of other runs."""
    several = run.info.data.kind == "multilabel" or "thresholds" in run.metrics
    return None if several or len(run.info.class_names) != 2 else _of_run(run, run.info.class_names)[0]


def _of_run(run: FittedRun, class_names: Sequence[str]) -> tuple[str, str]:
    """As it was decided at the fit; of older runs as it would be."""
    if FindingScores.is_in(run.metrics) and run.metrics[FindingScores.key]["finding"] in class_names:
        stored = run.metrics[FindingScores.key]
        return stored["finding"], stored["reason"]
    counts = run.info.data.counts.get("train", {})
    return default_finding({name: counts.get(name, 0) for name in class_names})


def present_of(labels: Tensor, column: int) -> Tensor:
    """(N,) whether rows have a finding: 1, 0, or NaN where that is not known.

    Args:
        labels: (N,) class indices, or (N, C) of 0, 1 and NaN.
    """
    return labels[:, column].double() if labels.ndim == 2 else (labels == column).double()


def probabilities_of(fit: JudgedClassifier) -> Tensor:
    """(N, C) float64 of the test images, calibrated where the fit is."""
    if fit.calibration is not None:
        return fit.calibration.probabilities(fit.scores.adapted_logits)
    logits = fit.scores.adapted_logits.detach().double().cpu()
    return logits.sigmoid() if fit.several_labels else logits.softmax(dim=1)


def _score(fit: JudgedClassifier, column: int, with_curves: bool) -> FindingScore | None:
    """None where all images are alike."""
    from ..metrics.operating_point import decision_curve, recalibration

    truth, logits = present_of(fit.labels, column), fit.scores.adapted_logits.detach().double().cpu()
    answered = ~truth.isnan()
    present, probs, rows = (
        truth[answered] == 1,
        probabilities_of(fit)[answered, column],
        answered.nonzero().flatten().tolist(),
    )
    if present.all() or not present.any():
        return None
    # the order of probabilities, without their ties near 0 and 1
    odds = (logits if fit.several_labels else logits - logits.flip(1))[answered, column]
    groups = None if fit.scores.groups is None else [fit.scores.groups[row] for row in rows]
    ranked = Aurocs.of(odds[:, None], present.double()[:, None], groups)
    precision, agreed = average_precision(odds, present), recalibration(probs, present, groups)
    thresholds = torch.arange(1, MOST_POINTS).double() / MOST_POINTS
    return FindingScore(
        images=len(present),
        present=int(present.sum()),
        auroc=ranked.macro,
        auroc_interval=list(ranked.interval()),
        average_precision=precision,
        average_precision_interval=precision_interval(precision, present, groups),
        brier=agreed.brier,
        slope=agreed.slope,
        slope_interval=agreed.slope_interval,
        intercept=agreed.intercept,
        intercept_interval=agreed.intercept_interval,
        ranking=_points(ranking_curve(odds, present, MOST_POINTS)) if with_curves else None,
        decision=_points(decision_curve(probs, present, thresholds)) if with_curves else None,
    )


def _points(curve: Any) -> dict[str, list[float]]:
    """The tensors of a curve as lists of rounded numbers."""
    return {each.name: [round(x, 5) for x in getattr(curve, each.name).tolist()] for each in fields(curve)}
