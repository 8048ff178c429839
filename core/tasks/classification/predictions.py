"""What a run says of images: rows, files of rows, and the page that `predict --explain` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...confidence.calibration import HALF, Calibration
from ...confidence.patients import pooled
from ...contracts.adapter import Adapter
from ...contracts.items import Item
from ...contracts.judgement import PREDICT, Findings, JudgedPredictions, Judgement
from ...contracts.output_kind import HeatMap
from ...contracts.run_info import FittedRun
from ...contracts.shown import in_short
from ...contracts.task import Task
from ...contracts.use import PER_PATIENT, Use
from ...data.tables import csv_text
from ...errors import ConfigError, DataError
from ...judgements.finding_curves import finding_of
from ...judgements.operating_point import thresholds_of
from ...judgements.per_patient import Patients
from ...metrics.classification import check_scores
from ...metrics.intervals import units_of
from ...registry.build import judges_at
from ...runs.run_sections import Report, render_report
from ...runs.sections import TableSection, plural
from ...runtime.files import write_whole
from ...runtime.reading import json_text
from .explaining import check_explained

TOP = 3
NESTED = ("top", "explanation")
"""Keys of a row that are no cell of a table."""
OWN = ("id", "label", "confidence", "labels", "confidences", "threshold", "thresholds", "images", *NESTED)
"""Keys of a row that no judgement adds."""
DECIDED = "decided by"
"""Key of the part of a sample that its answer rests on."""


@dataclass
class Predictions:
    """What a run says of some images.

    Attributes:
        class_names: the C names.
        ids: N image ids.
        probabilities: (N, C), rows summing to 1, or one probability per label; calibrated where the run is.
        skipped: (id, reason) of images that could not be read.
        files: written on demand.
        notes: sentences for the user.
        answers: (N, C) bool, the labels that are named where an image may have several; None with one label per image.
        called: (N,) the class that is named, of two classes that a threshold divides; None: the most likely.
        columns: thresholds, and what judgements add to the rows: key -> N values.
        places: N dicts of where each lies in its file, by column (`Domain.placed`); None where that says nothing.
        top: classes per row.
        explanations: of each image why, JSON-able; None where that is not asked for.
        finding: which of two classes is the finding; None of others.
        sources: id -> the items that it is said of.
        heat_map: id -> its heat map on its own pixels, None of those that have none.
    """

    __repr__ = in_short

    class_names: tuple[str, ...]
    ids: list[str]
    probabilities: Tensor
    skipped: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answers: Tensor | None = None
    called: Tensor | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    places: list[dict[str, Any]] | None = None
    top: int = TOP
    explanations: list[dict[str, Any]] | None = None
    finding: str | None = None
    sources: Mapping[str, Sequence[Item]] = field(default_factory=dict, repr=False)
    heat_map: Callable[[str], HeatMap | None] = field(default=lambda name: None, repr=False)

    @property
    def most_likely(self) -> Tensor:
        """(N,) the class that is named, of several labels the most likely."""
        return self.probabilities.argmax(dim=1) if self.called is None else self.called

    def rows(self, top: int | None = None) -> list[dict[str, Any]]:
        """One dict per image: id, where it lies in its file where that is known (start and end of a clip), label and
        confidence (or labels and confidences), what judgements add, and the `top` classes."""
        return [self._row(n, top or self.top) for n in range(len(self.ids))]

    def _row(self, n: int, top: int) -> dict[str, Any]:
        probs = self.probabilities[n]
        best = probs.topk(min(top, len(probs)))
        ranked = [{"class": self.class_names[c], "probability": float(v)} for v, c in zip(best.values, best.indices)]
        row: dict[str, Any] = {"id": self.ids[n], **({} if self.places is None else self.places[n])}
        if self.answers is not None:
            named = self.answers[n]
            row["labels"] = [name for name, present in zip(self.class_names, named.tolist()) if present]
            row["confidences"] = probs[named].tolist()
        else:
            c = int(best.indices[0] if self.called is None else self.called[n])
            row["label"], row["confidence"] = self.class_names[c], float(probs[c])
        row |= {key: values[n] for key, values in self.columns.items()}
        if self.explanations is not None:
            row["explanation"] = self.explanations[n]
        return {**row, "top": ranked}

    def write(self, path: Path) -> None:
        """Write a file of rows: .jsonl, .csv or .html.

        Raises:
            DataError: nothing can be written there.
        """
        as_text = {".jsonl": self._jsonl, ".csv": self._csv, ".html": self._html}[path.suffix.lower()]
        write_whole(path, as_text())
        self.files.append(path)

    def _jsonl(self) -> str:
        return "".join(json_text(row) + "\n" for row in self.rows())

    def _csv(self) -> str:
        """A column per class with its probability; lists are joined by semicolons."""
        rows = self.rows()
        columns = [key for key in rows[0] if key not in NESTED] if rows else ["id"]
        placed = self.places[0] if self.places else ()
        classes = [f"{name} (probability)" if name in columns else name for name in self.class_names]
        lines = []
        for row, probs in zip(rows, self.probabilities.tolist()):
            cells = (_in_cell(row[key], "{:g}" if key in placed else "{:.6f}") for key in columns)
            lines.append([*cells, *(f"{p:.6f}" for p in probs)])
        return csv_text([*columns, *classes], lines)

    def _html(self) -> str:
        rows = self.rows()
        header = [key for key in rows[0] if key not in NESTED] if rows else ["id"]
        placed = self.places[0] if self.places else ()
        cells = [[_in_cell(row[key], "{:g}" if key in placed else "{:.1%}", ", ") for key in header] for row in rows]
        names = [f"{key[0].upper()}{key[1:]}" for key in header]
        noun = "patient" if "images" in header else "image"
        title, notes = f"{noun.capitalize()} by {noun}", " ".join(f"{n}." for n in self.notes)
        sections = [TableSection(title, names, cells, notes, text_columns=9)]
        if self.skipped:
            sections.append(TableSection("Could not be read", ("Image", "Why"), self.skipped, text_columns=2))
        counted = plural(len(self.ids), noun)
        return render_report(Report(kind="Predictions", title=f"Predictions for {counted}", lead="", sections=sections))


def _in_cell(value: Any, number: str = "{:.6f}", between: str = ";") -> str:
    if isinstance(value, list):
        return between.join(_in_cell(inner, number) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number.format(value) if isinstance(value, float) else str(value)


def check_wishes(use: Use, task: Task, adapter: Adapter) -> None:
    """Refuse what no prediction of the run can answer, before anything is read.

    Args:
        adapter: of the run.

    Raises:
        ConfigError: a value out of range, or one for the other kind of labels.
    """
    for judgement in judges_at(task, PREDICT, use.judging):
        judgement.check(adapter, adapter.class_names_)
    if use.explain is not None:
        check_explained(use)
    if use.top is not None and use.top < 1:
        raise ConfigError(f"--top {use.top}: give a number of classes, 1 or more")
    classes = len(adapter.class_names_)
    if use.threshold is not None and not adapter.multilabel_ and classes != 2:
        raise ConfigError(
            f"--threshold: for two classes or several labels, and this run has {classes} classes; omit it, or give "
            "--max-error"
        )
    if use.threshold is not None and not 0 <= use.threshold <= 1:
        raise ConfigError(f"--threshold {use.threshold}: give a probability between 0 and 1")
    check_per_patient(use, adapter)
    cut = _Cut.of_run(use.run, adapter.class_names_, adapter.multilabel_, use.threshold)
    if cut is not None and cut.threshold != HALF and use.judging.get("max_error") is not None:
        raise ConfigError(
            "--max-error: bounds the errors of the most likely class, and answers follow "
            f"{'the operating point of the run' if use.threshold is None else '--threshold'}; omit it, or give "
            "--threshold 0.5"
        )


def check_per_patient(use: Use, adapter: Adapter) -> None:
    """Raise the ConfigError of a pooling that there is not, or not of these classes."""
    how = use.per_patient
    if how is None:
        return
    if how not in PER_PATIENT:
        raise ConfigError(f"--per-patient {how}: give {' or '.join(PER_PATIENT)}")
    if how == PER_PATIENT[1] and not adapter.multilabel_ and len(adapter.class_names_) != 2:
        raise ConfigError("--per-patient max: for two classes or several labels; give mean")
    if use.explain is not None:
        raise ConfigError("--per-patient: an explanation is of an image; omit it, or --explain")


@dataclass(frozen=True)
class _Cut:
    """The probability from which on the finding of two classes is named.

    Attributes:
        finding: index of the class.
        threshold: of its probability.
    """

    finding: int
    threshold: float

    @classmethod
    def of_run(
        cls,
        run: FittedRun,
        class_names: Sequence[str],
        multilabel: bool,
        threshold: float | None = None,
        points: Mapping[str, float] | None = None,
    ) -> _Cut | None:
        """The threshold that is given, else the operating point; None without either, and of other than two classes.

        Args:
            points: class -> its operating point, by default that of the run.
        """
        if multilabel or len(class_names) != 2:
            return None
        if threshold is not None:
            return cls(class_names.index(finding_of(run)), threshold)
        points = thresholds_of(run) if points is None else points
        return next((cls(class_names.index(name), at) for name, at in points.items()), None)

    def called(self, probs: Tensor) -> Tensor:
        """(N,) the class that is named of each image, of probabilities (N, 2)."""
        return (self.finding - (probs[:, self.finding] < self.threshold).long()).abs()


def label_thresholds(
    points: Mapping[str, float], calibration: Calibration | None, class_names: Sequence[str]
) -> Tensor:
    """(C,) float64 the probability from which on each of several labels is named: that of its operating point, else the
    best on the calibration rows, else one half."""
    best = torch.full((len(class_names),), HALF, dtype=torch.float64)
    if calibration is not None and calibration.thresholds is not None:
        best = calibration.thresholds
    return torch.tensor([points.get(name, at) for name, at in zip(class_names, best.tolist())], dtype=torch.float64)


def predictions_of(
    use: Use,
    judgements: Sequence[Judgement],
    calibration: Calibration | None,
    class_names: tuple[str, ...],
    ids: list[str],
    logits: Tensor,
    features: Tensor,
    multilabel: bool,
    skipped: list[tuple[str, str]],
    points: Mapping[str, float] | None = None,
) -> Predictions:
    """Predictions, and what judgements say of them.

    Args:
        calibration: of the run, or None.
        logits: (N, C).
        features: (N, D) that the logits are of.
        points: class or label -> its operating point; by default those of the run.

    Raises:
        DataError: the calibration is of other classes, or as for `check_scores`.
    """
    probabilities, answers = calibrated_probabilities(use, calibration, class_names, logits, multilabel), None
    check_scores(ids, probabilities)
    again = ", chosen again for patients" if points is not None else ""
    points = thresholds_of(use.run) if points is None else points
    cut, columns = _Cut.of_run(use.run, class_names, multilabel, use.threshold, points), {}
    called = None if cut is None else cut.called(probabilities)
    if cut is not None:
        columns["threshold"] = [cut.threshold] * len(ids)
    elif multilabel:
        thresholds = label_thresholds(points, calibration, class_names)
        if points and calibration is not None:
            calibration = replace(calibration, thresholds=thresholds)  # by which answers are left open
        thresholds = thresholds if use.threshold is None else torch.full_like(thresholds, use.threshold)
        answers = probabilities >= thresholds
        if use.threshold is not None or points:
            columns["thresholds"] = [thresholds.tolist()] * len(ids)
    judged = JudgedPredictions(
        at=PREDICT,
        metrics=dict.fromkeys(OWN),
        run=use.run,
        class_names=class_names,
        probabilities=probabilities,
        features=features,
        answers=answers,
        called=called,
        calibration=calibration,
    )
    notes = [*_cut_words(use, cut, class_names, again), *Findings({}).add(judgements, judged)]
    columns |= {key: values for key, values in judged.metrics.items() if key not in OWN}
    made = Predictions(class_names, ids, probabilities, skipped, notes=notes, columns=columns, top=use.top or TOP)
    made.answers, made.called, made.finding = judged.answers, called, finding_of(use.run)
    return made


def predictions_of_patients(
    patients: Patients,
    use: Use,
    judgements: Sequence[Judgement],
    ids: Sequence[str],
    logits: Tensor,
    features: Tensor,
    skipped: list[tuple[str, str]],
    groups: Sequence[str],
) -> Predictions:
    """A row per patient, of N images.

    Args:
        patients: what the run answers them with.
        logits: (N, C).
        features: (N, D) that they are of.
        groups: N patients, "" of an image that is one of its own.

    Raises:
        DataError: an image has a probability that is NaN or infinity.
    """
    of_images = patients.of_images
    probs, (unit, units) = of_images.probabilities(logits), units_of(groups, len(ids))
    check_scores(ids, probs)
    names = [""] * units
    images: list[list[str]] = [[] for _ in range(units)]
    for id_, group, place in zip(ids, groups, unit.tolist()):
        names[place] = group or id_
        images[place].append(id_)
    rows, means = patients.pooling.logits(probs, unit, units), pooled(features.cpu(), unit, units, "mean")
    of = (patients.calibration, of_images.class_names, names, rows, means, of_images.multilabel, skipped)
    made = predictions_of(use, judgements, *of, patients.points)
    made.columns = {"images": images, **made.columns}
    made.notes.insert(0, patients.words(median(map(len, images))))
    return made


def _cut_words(use: Use, cut: _Cut | None, class_names: Sequence[str], again: str) -> list[str]:
    if cut is None:
        return []
    why = "--threshold" if use.threshold is not None else f"the operating point of the run{again}"
    return [f"“{class_names[cut.finding]}” is answered from a probability of {cut.threshold:.3g} on ({why})"]


def calibrated_probabilities(
    use: Use, calibration: Calibration | None, class_names: tuple[str, ...], logits: Tensor, multilabel: bool
) -> Tensor:
    """(N, C) float64 probabilities of (N, C) logits on the CPU, calibrated where the run is.

    Raises:
        DataError: the calibration is of other classes.
    """
    if calibration is None:
        raw = logits.detach().double().cpu()
        return raw.sigmoid() if multilabel else raw.softmax(dim=1)
    if calibration.class_names != tuple(class_names) or calibration.multilabel != multilabel:
        raise DataError(f"{use.run.shown}: its calibration is for other classes; copy the whole run folder again")
    return calibration.probabilities(logits)
