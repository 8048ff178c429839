"""DICOM objects that are made of others: what they take of their sources, and how they name what was found.

They carry the patient and study of their sources, as they must, and refer to them by their UIDs. No value of a header
reaches a message.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from ....core.contracts import Item, OutputKind, Use
from ....core.data import Format
from ....core.errors import DataError, VladaptError
from ....core.runtime import installed_version, replacing
from ..dicom_header import DEFER_BYTES, SILENT, hush_pydicom, open_data_set, read_header
from ..formats import DICOM, dicom_format
from ..volumes.series import series_at

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept

PRODUCT, SCHEME = "vladapt", "99VLADAPT"
"""Manufacturer, and the private coding scheme of names that no standard code stands for."""
UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Attributes that every object has, empty where they are not known (type 2)."""
SEXES = ("M", "F", "O")
"""Values of Patient's Sex; others, which the standard does not know, become unknown."""
LONGEST = 64
"""Characters of a text (LO), such as the meaning of a code."""
WHOLE_VOLUME = "slices"
"""Key of `Item.decode` of samples that are whole volumes, for which a DICOM file stands for its series."""


class DicomOutput(OutputKind):
    """Of sources that are DICOM files; of others, in the same folders, nothing is written."""

    packages: ClassVar = {"highdicom": "medical"}
    identifies: ClassVar = True

    def check_sources(self, items: Sequence[Item]) -> None:
        sources = dict.fromkeys(item.source for item in items if is_dicom_item(item))
        if not sources:
            raise DataError(
                f"--as {self.name}: none of the {len(items)} images is a DICOM file, whose patient and study the files "
                "would name; omit it, or give DICOM files"
            )
        for path in sources:
            header = open_data_set(path, specific_tags=list(UIDS), stop_before_pixels=True)
            if lacking := next((keyword for keyword in UIDS if not header.get(keyword)), None):
                raise DataError(f"{path}: has no {lacking}, so no DICOM file can refer to it; correct it, or remove it")

    def note_on_others(self, predicted: Any) -> None:
        """Say how many rows have no DICOM file, since their images are none."""
        others = sum(not is_dicom_item(items[0]) for items in predicted.sources.values())
        if others:
            predicted.notes.append(
                f"{self.name}: {others} of {len(predicted.ids)} images are no DICOM files, and left out"
            )


def is_dicom_item(item: Item) -> bool:
    """Whether an item is read of a DICOM file."""
    fmt = None if "array" in item.decode else Format.of(item.source, [dicom_format()])
    return fmt is not None and fmt.name == DICOM


def of_dicom(predicted: Any) -> list[tuple[int, str, Sequence[Item]]]:
    """Place, id and items of the rows whose images are DICOM files."""
    rows = ((n, name, predicted.sources[name]) for n, name in enumerate(predicted.ids))
    return [row for row in rows if is_dicom_item(row[2][0])]


def frames_of(items: Sequence[Item]) -> dict[Path, list[int]]:
    """The DICOM files that items are read of, all of its series where an item is a volume -> their frames, numbered
    from 1; none where all of them are."""
    frames: dict[Path, list[int]] = {}
    for item in items:
        files = series_at(item.source) if WHOLE_VOLUME in item.decode else [item.source]
        for path in files:
            frames.setdefault(path, []).extend([item.decode["frame"] + 1] if "frame" in item.decode else [])
    return frames


def source_of(path: Path) -> Dataset:
    """The header of a file without its pixels, complete enough to be referred to."""
    data_set = open_data_set(path, stop_before_pixels=True, defer_size=DEFER_BYTES)
    for keyword in PATIENT_AND_STUDY:
        if keyword not in data_set:
            setattr(data_set, keyword, "")
    if data_set.PatientSex not in SEXES:
        data_set.PatientSex = ""
    return data_set


def by_study(rows: Sequence[tuple[int, str, Sequence[Item]]]) -> list[list[tuple[int, str, Sequence[Item]]]]:
    """The rows of each study; those of a file that names none are one each."""
    studies: dict[str, list[tuple[int, str, Sequence[Item]]]] = {}
    for row in rows:
        studies.setdefault(read_header(row[2][0].source).study or row[1], []).append(row)
    return list(studies.values())


@contextmanager
def made_of(source: Path) -> Iterator[None]:
    """Turn what highdicom and pydicom raise, whose words may name the patient, into a DataError of the source, and hold
    back their warnings and log records, which may too."""
    hush_pydicom()
    logging.getLogger("highdicom").setLevel(SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (VladaptError, OSError):
        raise
    except Exception as error:
        reason = f"its header does not fit such a file ({type(error).__name__})"
        raise DataError(f"{source}: no DICOM file can be made of it: {reason}; correct its header") from None


def new_uid() -> str:
    """Of a new object, below no root of an institution (2.25)."""
    return generate_uid(prefix=None)


def about_us(use: Use) -> dict[str, str]:
    """What equipment made an object: manufacturer, model, version and serial number, as highdicom takes them."""
    return {
        "manufacturer": PRODUCT,
        "manufacturer_model_name": use.run.info.adapter[:LONGEST],
        "software_versions": installed_version(PRODUCT) or "0",
        "device_serial_number": use.run.path.name[:LONGEST],
    }


def coded(name: str) -> CodedConcept:
    """A code of a name: that of SNOMED CT where DICOM's own context groups have one with just this meaning, else one of
    our own scheme, the same for the same name everywhere."""
    from highdicom.sr import CodedConcept

    plain = "".join(word[:1].upper() + word[1:] for word in name.replace("-", " ").replace("_", " ").split())
    for keyword in codes.SCT.dir(plain) if plain.isidentifier() else ():
        if keyword.casefold() == plain.casefold():
            code = getattr(codes.SCT, keyword)
            return CodedConcept(code.value, code.scheme_designator, code.meaning)
    value = hashlib.sha256(name.encode()).hexdigest()[:16].upper()
    return CodedConcept(value, SCHEME, shortened_label(name))


def shortened_label(name: str) -> str:
    """A name as an attribute of 64 characters takes it."""
    plain = " ".join("".join(sign if sign.isprintable() and sign != "\\" else " " for sign in name).split())
    return plain[:LONGEST].rstrip() or "unnamed"


def saved(data_set: Dataset, path: Path) -> Path:
    """Write an object, whole or not at all."""
    with made_of(path), replacing(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        data_set.save_as(partial, enforce_file_format=True)
    return path
