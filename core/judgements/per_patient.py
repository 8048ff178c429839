"""`--per-patient`: one answer of a run for all images of a patient, and how good such answers are on test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..confidence.calibration import Calibration, uncalibrated_words
from ..confidence.patients import Pooling, labels_of_patients
from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place, Scores
from ..contracts.run_info import FittedRun, Record, beside
from ..errors import DataError
from ..metrics.classification import label_answer_metrics, metrics_of
from ..metrics.intervals import units_of
from ..metrics.operating_point import threshold_for
from ..metrics.score_intervals import label_answer_intervals, score_intervals
from ..runs.sections import MEASURES, Cell, Measure, TableSection, plural
from .finding_curves import FindingScores, finding_of, present_of
from .operating_point import OperatingPoint, OperatingPoints, wished

if TYPE_CHECKING:
    from typing_extensions import Self

TITLE, POINT = "One answer per patient", OperatingPoints.key
NOTE = "An image has the label of its patient. Each patient is one row of the scores and intervals of patients."


@dataclass(frozen=True)
class Patients:
    """What a run answers patients with.

    Attributes:
        pooling: how the images of a patient become one row.
        of_images, calibration: of the run, and of its calibration rows pooled.
        images: of the median patient among these.
        points: class or label -> its operating point, chosen among these.
    """

    pooling: Pooling
    of_images: Calibration
    calibration: Calibration
    images: float
    points: Mapping[str, float]

    @classmethod
    def of_run(cls, run: FittedRun, of_images: Calibration | None, how: str, chosen: bool = True) -> Patients:
        """By the calibration rows that the run keeps.

        Args:
            how: "mean" or "max".
            chosen: whether the operating point of the run, where it has one, is chosen again.

        Raises:
            DataError: the run lacks what is needed.
        """
        try:
            if of_images is None:
                raise DataError(f"{uncalibrated_words(run.info)}; fit again")
            finding = None if of_images.multilabel else finding_of(run)
            pooling = Pooling(
                how, of_images.multilabel, None if finding is None else of_images.class_names.index(finding)
            )
            calibration = pooling.calibration(of_images)
            points = _points(run, calibration) if chosen else {}
        except DataError as error:
            raise DataError(f"{run.shown}: --per-patient: {error}") from None
        images = median(torch.bincount(units_of(of_images.groups, len(of_images.labels))[0]).tolist())
        return cls(pooling, of_images, calibration, images, points)

    def words(self, images: float) -> str:
        """How answers are made.

        Args:
            images: of the median patient here.
        """
        return (
            f"one answer per group (patient), of the {self.pooling.how} of its images' probabilities, calibrated anew "
            f"on {self.calibration.source}; the median group has {images:g} images here and {self.images:g} there"
        )


def _points(run: FittedRun, calibration: Calibration) -> dict[str, float]:
    """The operating points of the run, as they are for its patients.

    Raises:
        DataError: there are too few patients.
    """
    if not OperatingPoints.is_in(run.metrics):
        return {}
    stored, points = OperatingPoints.from_json(run.metrics), {}
    side, share = wished(stored.wanted)
    for name in stored.points:
        column = calibration.class_names.index(name)
        truth = present_of(calibration.labels, column)
        answered = ~truth.isnan()
        probs = calibration.row_probabilities[answered, column]
        sensitivity, specificity = (share, None) if side == "sensitivity" else (None, share)
        cut = threshold_for(
            probs, truth[answered] == 1, sensitivity=sensitivity, specificity=specificity, assured=stored.assured
        )
        points[name] = cut.threshold
    return points


@dataclass(frozen=True, eq=False)
class PatientScores(Record):
    """How good answers per patient are.

    Attributes:
        how: how the probabilities of images are pooled.
        made: how answers are made, in words.
        patients: their number.
        scores: metric -> its value, of calibrated answers.
        intervals: metric -> [low, high].
        operating_point: where findings of patients are called present; None where the images have no operating point.
        of_images, of_points: scores and operating point of the images.
    """

    key: ClassVar[str] = "per_patient"
    how: str
    made: str
    patients: int
    scores: Mapping[str, float | None]
    intervals: Mapping[str, Sequence[float]]
    operating_point: OperatingPoints | None
    of_images: Mapping[str, float | None] = beside()
    of_points: OperatingPoints | None = beside()

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = metrics[cls.key]
        of_patients = values["operating_point"] and OperatingPoints.from_json({POINT: values["operating_point"]})
        of_points = OperatingPoints.from_json(metrics) if OperatingPoints.is_in(metrics) else None
        return cls(**{**values, "operating_point": of_patients}, of_images=metrics["adapted"], of_points=of_points)

    @property
    def rows(self) -> Iterator[str | tuple[str, str, Cell]]:
        """Score, its value per image, and per patient; rows of an operating point below its threshold."""
        for key, value in self.scores.items():
            measure = MEASURES.get(key) or Measure(key.replace("auroc/", "AUROC, "), kind="number")
            between = measure.between(self.intervals.get(key))
            yield measure.name, measure.text(self.of_images.get(key)), Cell(measure.text(value), between)
        if self.operating_point is None or self.of_points is None:
            return
        for name, point in self.operating_point.points.items():
            of_images = self.of_points.points[name]
            yield f"{name}, from {of_images.threshold:.3f} on, of patients {point.threshold:.3f}"
            for (title, of_image, *_), (_, value, between, _) in zip(of_images.rows(), point.rows()):
                yield title, of_image, Cell(value, between)

    def note(self) -> str:
        return self.made

    def section(self) -> TableSection:
        note = f"{self.made[0].upper()}{self.made[1:]}. {NOTE}"
        return TableSection(TITLE, ("", "Per image", self._heading), list(self.rows), note, sub=True)

    def table(self) -> Table:
        table = Table(title=TITLE, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for name in ("", "per image", self._heading, "95 % interval"):
            table.add_column(name.lower(), justify="right" if name else "left")
        for row in self.rows:
            table.add_row(*([row] if isinstance(row, str) else [*row[:2], row[2].text, row[2].small]))
        return table

    @property
    def _heading(self) -> str:
        return f"{self.how.capitalize()} of {plural(self.patients, 'patient')}"


@dataclass(eq=False, kw_only=True)
class PerPatient(Judgement):
    """The scores of answers that are made of all images of a patient, as `predict --per-patient` makes them."""

    record: ClassVar = PatientScores
    at: ClassVar = frozenset({EVAL})
    place: ClassVar = Place.SCORES

    def applies(self, judged: Any) -> bool:
        return super().applies(judged) and judged.use is not None and judged.use.per_patient is not None

    def compute(self, fit: JudgedClassifier) -> PatientScores:
        """
        Raises:
            DataError: the test images name no patients, or a patient has images of different labels.
        """
        use, labels, groups = fit.use, fit.labels, fit.scores.groups
        if labels is None or not fit.own_classes:
            raise DataError("--per-patient: scores take labels of the run's classes; give labelled images, or omit it")
        if groups is None:
            raise DataError(
                "--per-patient: nothing says which test images belong together; give --group-column, or omit it"
            )
        patients = Patients.of_run(use.run, fit.calibration, use.per_patient)
        unit, units = units_of(groups, len(labels))
        try:
            labels = labels_of_patients(labels, unit, units, "test images", "give")
        except DataError as error:
            raise DataError(f"--per-patient: {error}") from None
        calibration = patients.calibration
        rows = patients.pooling.logits(patients.of_images.probabilities(fit.scores.adapted_logits), unit, units)
        logits = calibration.scaling.logits(rows)
        scores = metrics_of(logits, labels, fit.class_names)
        intervals = score_intervals(logits, labels, scores)
        if calibration.multilabel:
            answers = calibration.answers(rows)
            scores |= label_answer_metrics(answers, labels)
            intervals |= label_answer_intervals(answers, labels, scores)
        words = patients.words(median(torch.bincount(unit).tolist()))
        finding = {key: fit.metrics[key] for key in (FindingScores.key,) if key in fit.metrics}
        of_patients = Scores(labels, None, rows, {"adapted": scores, "zero_shot": None, **finding})
        points = _points_of(fit, of_patients, calibration)
        made = PatientScores(use.per_patient, words, units, scores, intervals, points)
        return PatientScores.from_json({**fit.metrics, **made.to_json()})


def _points_of(fit: JudgedClassifier, scores: Scores, calibration: Calibration) -> OperatingPoints | None:
    """The operating point of the images, chosen and scored again among patients."""
    if not OperatingPoints.is_in(fit.metrics):
        return None
    of = OperatingPoints.from_json(fit.metrics)
    judgement = OperatingPoint(operating_point=of.wanted, assured=of.assured, prevalence=of.prevalence)
    made = judgement.compute(replace(fit, scores=scores, calibration=calibration))
    return None if made is None else replace(made, units="group")
