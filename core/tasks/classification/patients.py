"""`--per-patient`: one answer of a run for all images of a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ...confidence.calibration import Calibration, uncalibrated_words
from ...confidence.patients import Pooling, pooled
from ...contracts.judgement import Judgement
from ...contracts.run_info import FittedRun
from ...contracts.use import Use
from ...errors import DataError
from ...judgements.finding_curves import finding_of, present_of
from ...judgements.operating_point import OperatingPoints, wished
from ...metrics.classification import check_scores
from ...metrics.intervals import units_of
from ...metrics.operating_point import threshold_for
from .predictions import Predictions, predictions_of


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
    def of_run(cls, run: FittedRun, of_images: Calibration | None, how: str, chosen: bool) -> Patients:
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

    def predictions(
        self,
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
            logits: (N, C).
            features: (N, D) that they are of.
            groups: N patients, "" of an image that is one of its own.

        Raises:
            DataError: an image has a probability that is NaN or infinity.
        """
        probs, (unit, units) = self.of_images.probabilities(logits), units_of(groups, len(ids))
        check_scores(ids, probs)
        names = [""] * units
        images: list[list[str]] = [[] for _ in range(units)]
        for id_, group, place in zip(ids, groups, unit.tolist()):
            names[place] = group or id_
            images[place].append(id_)
        rows, means = self.pooling.logits(probs, unit, units), pooled(features.cpu(), unit, units, "mean")
        of = (self.calibration, self.of_images.class_names, names, rows, means, self.of_images.multilabel, skipped)
        made = predictions_of(use, judgements, *of, self.points)
        made.columns = {"images": images, **made.columns}
        words = (
            f"one answer per group (patient), of the {self.pooling.how} of its images' probabilities, calibrated anew "
            f"on {self.calibration.source}; the median group has {median(map(len, images)):g} images here and "
            f"{self.images:g} there"
        )
        made.notes.insert(0, words)
        return made


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
