"""Masks as DICOM segmentation objects (SEG), on the grid of their sources: one per image or series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes

from ....core.contracts import Item, LabelMap, Task, Use
from ....core.errors import DataError
from ..volumes.series import ordered, series_at
from ._dicom import (
    LONGEST,
    PRODUCT,
    DicomOutput,
    about_us,
    coded,
    made_of,
    new_uid,
    of_dicom,
    saved,
    shortened_label,
    source_of,
)

SERIES_NUMBER = 9003
LESIONS = (
    "cancer", "carcinoma", "cyst", "edema", "hemorrhage", "infarct", "lesion", "mass", "metastas", "necro", "nodule",
    "oedema", "polyp", "stenosis", "tumor", "tumour",
)  # fmt: skip
"""In the names of structures that are no normal anatomy."""


class DicomSeg(DicomOutput):
    """Masks as segmentation objects (SEG) of the same study, in the geometry of their sources."""

    made_of: ClassVar = DicomOutput.MASKS

    def write(self, predicted: Any, use: Use, task: Task, folder: Path) -> list[Path]:
        files: list[Path] = []
        empty = 0
        for number, (_, name, items) in enumerate(of_dicom(predicted), start=1):
            labels = predicted.label_map(name)
            if not any(_mask(labels.values, numbers).any() for numbers in labels.structures.values()):
                empty += 1
                continue
            segmentation = segmentation_of(labels, items[0], about_us(use))
            files.append(saved(segmentation, folder / self.name / f"{number:04d}.dcm"))
        if empty:
            predicted.notes.append(
                f"{self.name}: nothing was outlined in {empty} of {len(predicted.ids)} images, which have no file"
            )
        self.note_on_others(predicted)
        return files


def segmentation_of(labels: LabelMap, item: Item, about: Mapping[str, str]) -> Dataset:
    """A segmentation object with a segment for each structure that occurs.

    Args:
        labels: (H, W) of an image, or (X, Y, Z) of a volume, whose slices lie in the order of their positions.
        item: the image, by its file and frame; of a volume a file of its series.
        about: as of `about_us`.

    Raises:
        DataError: the labels have another size than their source, or its header is not fit for it.
    """
    from highdicom.seg import Segmentation

    values, files = _in_frames(np.asarray(labels.values), item)  # (F, H, W), as the files have their frames
    structures = {name: of for name, of in labels.structures.items() if _mask(values, of).any()}
    numbers = [number for of in structures.values() for number in of]
    if len(set(numbers)) == len(numbers):
        masks = np.zeros(values.shape, dtype=np.uint8 if len(structures) < 256 else np.uint16)
        for segment, of in enumerate(structures.values(), start=1):
            masks[_mask(values, of)] = segment
    else:  # regions that contain each other
        masks = np.stack([_mask(values, of) for of in structures.values()], axis=-1).astype(np.uint8)  # (F, H, W, S)
    with made_of(files[0]):
        return Segmentation(
            source_images=[source_of(path) for path in files],
            pixel_array=masks,
            segmentation_type="BINARY",
            segment_descriptions=[_described(n, name, about) for n, name in enumerate(structures, start=1)],
            series_instance_uid=new_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=new_uid(),
            instance_number=1,
            series_description=f"Masks by {PRODUCT}",
            **about,
        )


def _in_frames(values: np.ndarray, item: Item) -> tuple[np.ndarray, list[Path]]:
    """(F, H, W) labels of all frames of the files that they are of, and these files."""
    if values.ndim == 3:
        slices, _ = ordered(series_at(item.source))
        planes = values.transpose(2, 1, 0)  # (Z, H, W)
        _check_size(planes.shape, (len(slices), *slices[0].size), item)
        if len({each.path for each in slices}) < len(slices):  # several frames a file
            slices_and_planes = sorted(zip(slices, planes), key=lambda pair: (str(pair[0].path), pair[0].frame))
            slices, planes = (
                [each for each, _ in slices_and_planes],
                np.stack([plane for _, plane in slices_and_planes]),
            )
        return planes, list(dict.fromkeys(each.path for each in slices))
    header = source_of(item.source)
    count = int(header.get("NumberOfFrames") or 1)
    _check_size(values.shape, (int(header.Rows), int(header.Columns)), item)
    frames = np.zeros((count, *values.shape), dtype=values.dtype)
    frames[item.decode.get("frame", 0)] = values
    return frames, [item.source]


def _mask(values: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    return values == numbers[0] if len(numbers) == 1 else np.isin(values, list(numbers))


def _check_size(ours: Sequence[int], theirs: Sequence[int], item: Item) -> None:
    if tuple(ours) != tuple(theirs):
        one, other = ("x".join(map(str, size)) for size in (ours, theirs))
        raise DataError(f"{item.source}: its masks have {one} pixels, and its image {other}; predict it again")


def _described(number: int, name: str, about: Mapping[str, str]) -> Any:
    """A segment, by an automatic algorithm."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription

    is_lesion = any(word in name.casefold() for word in LESIONS)
    return SegmentDescription(
        segment_number=number,
        segment_label=shortened_label(name),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure
        if is_lesion
        else codes.SCT.AnatomicalStructure,
        segmented_property_type=coded(name),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"{PRODUCT} {about['manufacturer_model_name']}"[:LONGEST],
            family=codes.DCM.ArtificialIntelligence,
            version=about["software_versions"],
        ),
    )
