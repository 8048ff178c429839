"""A structured report of what was found, one per study: DICOM TID 1500 (Measurement Report), for reporting systems.

Each image, series or study that is predicted is a group of measurements (TID 1501) that refers to its images: the
finding, the certainty of it in percent, whether it is present where an image may have several, and the answers of yes
and no that judgements add. A report is complete, and neither final nor verified: a person has yet to read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydicom import Dataset

from ....core.contracts import Item, Task, Use
from ._dicom import (
    LONGEST,
    PRODUCT,
    DicomOutput,
    about_us,
    by_study,
    coded,
    frames_of,
    made_of,
    new_uid,
    of_dicom,
    saved,
    shortened_label,
    source_of,
)

if TYPE_CHECKING:
    from highdicom.sr import MeasurementReport, MeasurementsAndQualitativeEvaluations

THRESHOLD, PRESENCE = "threshold of the answer", "presence"
SERIES_NUMBER = 9001


class DicomSr(DicomOutput):
    """A structured report (TID 1500) of the findings of each study, with the certainty of each."""

    made_of: ClassVar = DicomOutput.ANSWERS

    def write(self, predicted: Any, use: Use, task: Task, folder: Path) -> list[Path]:
        files = []
        for number, rows in enumerate(by_study(of_dicom(predicted)), start=1):
            first = rows[0][2][0].source
            with made_of(first):
                report = _report(predicted, rows, use)
            files.append(saved(report, folder / self.name / f"{number:04d}.dcm"))
        self.note_on_others(predicted)
        return files


def _report(predicted: Any, rows: Sequence[tuple[int, str, Sequence[Item]]], use: Use) -> Dataset:
    """Of the rows of one study."""
    from highdicom.sr import ComprehensiveSR

    evidence: dict[Path, Dataset] = {}
    groups: list[Any] = []
    for n, _, items in rows:
        frames = frames_of(items)
        evidence |= {path: source_of(path) for path in frames if path not in evidence}
        images = [_reference(evidence[path], numbers) for path, numbers in frames.items()]
        groups += [_group(finding, images, use, len(groups) + 1) for finding in _findings(predicted, n)]
    about = about_us(use)
    return ComprehensiveSR(
        evidence=list(evidence.values()),
        content=_content(groups, use, next(iter(evidence.values())))[0],
        series_instance_uid=new_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=new_uid(),
        instance_number=1,
        manufacturer=about["manufacturer"],
        is_complete=True,
        is_final=False,
        is_verified=False,
        manufacturer_model_name=about["manufacturer_model_name"],
        software_versions=about["software_versions"],
        device_serial_number=about["device_serial_number"],
        series_description=f"Findings by {PRODUCT}",
    )


def _content(groups: Sequence[Any], use: Use, source: Dataset) -> MeasurementReport:
    from highdicom.sr import DeviceObserverIdentifyingAttributes, MeasurementReport, ObservationContext, ObserverContext
    from pydicom.sr.codedict import codes

    about = about_us(use)
    device = DeviceObserverIdentifyingAttributes(
        uid=new_uid(),
        name=PRODUCT,
        manufacturer_name=about["manufacturer"],
        model_name=about["manufacturer_model_name"],
        serial_number=about["device_serial_number"],
    )
    observer = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=list(groups),
        title=codes.DCM.ImagingMeasurementReport,
    )


def _findings(predicted: Any, n: int) -> Iterator[Mapping[str, Any]]:
    """Of one row each finding: its name, certainty, presence and threshold where it has one, and further answers."""
    further = {key: values[n] for key, values in predicted.columns.items() if isinstance(values[n], bool)}
    probabilities = predicted.probabilities[n].tolist()
    if predicted.answers is None:
        c = int(predicted.probabilities[n].argmax() if predicted.called is None else predicted.called[n])
        cut = predicted.columns.get("threshold")
        named = {"finding": predicted.class_names[c], "certainty": probabilities[c], "present": None}
        yield {**named, "threshold": None if cut is None else cut[n], "further": further}
        return
    cuts = predicted.columns.get("thresholds")
    for c, name in enumerate(predicted.class_names):
        named = {"finding": name, "certainty": probabilities[c], "present": bool(predicted.answers[n, c])}
        yield {**named, "threshold": None if cuts is None else cuts[n][c], "further": further}


def _reference(source: Dataset, frames: Sequence[int]) -> Any:
    from highdicom.sr import SourceImageForMeasurementGroup

    return SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID, frames or None)


def _group(
    of: Mapping[str, Any], images: Sequence[Any], use: Use, number: int
) -> MeasurementsAndQualitativeEvaluations:
    """A finding as a group of measurements and evaluations."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    percents = [(codes.DCM.CertaintyOfFinding, of["certainty"])]
    percents += [] if of["threshold"] is None else [(coded(THRESHOLD), of["threshold"])]
    evaluations = (
        [] if of["present"] is None else [(PRESENCE, codes.SCT.Present if of["present"] else codes.SCT.Absent)]
    )
    evaluations += [(key, codes.SCT.Yes if value else codes.SCT.No) for key, value in of["further"].items()]
    about = about_us(use)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=new_uid(), identifier=f"{shortened_label(of['finding'])} {number}"[:LONGEST]
        ),
        finding_type=coded(of["finding"]),
        algorithm_id=sr.AlgorithmIdentification(
            name=f"{PRODUCT} {about['manufacturer_model_name']}"[:LONGEST],
            version=about["software_versions"],
            parameters=[f"run {about['device_serial_number']}"[:LONGEST]],
        ),
        measurements=[
            sr.Measurement(name=name, value=round(100 * share, 4), unit=codes.UCUM.Percent) for name, share in percents
        ],
        qualitative_evaluations=[sr.QualitativeEvaluation(name=coded(key), value=value) for key, value in evaluations]
        or None,
        source_images=list(images),
    )
