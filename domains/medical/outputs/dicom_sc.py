"""Heat maps as DICOM images (Secondary Capture): each over the image it explains, with its size and pixel spacing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydicom import Dataset

from ....core.contracts import Item, Task, Use
from ....core.errors import ConfigError
from ..volumes.series import slices_of
from ._dicom import PRODUCT, DicomOutput, about_us, made_of, new_uid, of_dicom, saved, shortened_label, source_of

SERIES_NUMBER = 9002
SIDES = ("LR", "PA", "HF")
"""Letters of the positive and negative end of each axis of the patient."""


class DicomSc(DicomOutput):
    """Heat maps of the answers over their images, as Secondary Capture images of the same study."""

    made_of: ClassVar = DicomOutput.HEAT_MAPS

    def check(self, use: Use, task: Task) -> None:
        unit = (use.reading or {}).get("unit") or use.run.info.recipe.get("data", {}).get("unit", "image")
        if unit != "image":
            raise ConfigError(
                f"--as {self.name}: heat maps are of images, and the samples of this run are {unit}s; omit it"
            )
        if use.per_patient is not None:
            raise ConfigError(f"--as {self.name}: heat maps are of images; omit it, or --per-patient")

    def write(self, predicted: Any, use: Use, task: Task, folder: Path) -> list[Path]:
        files: list[Path] = []
        series: dict[str, str] = {}
        for number, (_, name, items) in enumerate(of_dicom(predicted), start=1):
            heat_map = predicted.heat_map(name)
            if heat_map is None:
                continue
            source = items[0].source
            with made_of(source):
                header = source_of(source)
                uid = series.setdefault(str(header.StudyInstanceUID), new_uid())
                image = _capture(heat_map.overlay, items[0], header, uid, len(files) + 1, use)
                image.DerivationDescription = f"{heat_map.method} of {shortened_label(heat_map.target)}"
            files.append(saved(image, folder / self.name / f"{number:04d}.dcm"))
        self.note_on_others(predicted)
        return files


def _capture(overlay: np.ndarray, item: Item, header: Dataset, series: str, number: int, use: Use) -> Dataset:
    """A map over its image, (H, W, 3) uint8, as an image that stands where its source stands."""
    from highdicom.sc import SCImage

    about, place = about_us(use), slices_of(item.source)[item.decode.get("frame", 0)]
    image = SCImage.from_ref_dataset(
        header,
        pixel_array=overlay,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=series,
        series_number=SERIES_NUMBER,
        sop_instance_uid=new_uid(),
        instance_number=number,
        manufacturer=about["manufacturer"],
        pixel_spacing=place.spacing or None,
        patient_orientation=("L", "P"),
        manufacturer_model_name=about["manufacturer_model_name"],
        software_versions=about["software_versions"],
        device_serial_number=about["device_serial_number"],
        series_description=f"Heat maps by {PRODUCT}",
    )
    image.PatientOrientation = _towards(place.orientation) or header.get("PatientOrientation") or ""
    image.Laterality = header.get("ImageLaterality") or header.get("Laterality") or ""
    image.BurnedInAnnotation = "NO"
    image.SourceImageSequence = [_reference(header, item)]
    if place.position and place.orientation and header.get("FrameOfReferenceUID"):
        image.FrameOfReferenceUID, image.PositionReferenceIndicator = header.FrameOfReferenceUID, ""
        image.ImagePositionPatient, image.ImageOrientationPatient = list(place.position), list(place.orientation)
    return image


def _towards(orientation: Sequence[float]) -> list[str]:
    """Where rows and columns lead, by the letter of the patient's nearest side; nothing where that is not known."""
    halves = [np.array(orientation[:3]), np.array(orientation[3:])] if orientation else []
    return [SIDES[int(np.abs(half).argmax())][int(half[np.abs(half).argmax()] < 0)] for half in halves]


def _reference(header: Dataset, item: Item) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if "frame" in item.decode:
        reference.ReferencedFrameNumber = item.decode["frame"] + 1
    return reference
