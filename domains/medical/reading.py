"""Options of how medical images are read, and what each is for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

from ...core.contracts import DomainData, option
from ...core.data import IMAGE, Format
from .file_kinds import DICOM, ITK, NIFTI, PLANES
from .formats import dicom_format, itk_format, nifti_format, whole_volumes
from .intensity import check_window
from .layouts.certainty import BLANKS, LEAST_SHARE, POLICIES
from .reports.sections import PARTS, SEEN
from .slides import SlideOptions, slide_format, slides_elsewhere

PROMPTS_FILE = Path(__file__).with_name("prompts.json")
AUTO = "auto"
ARRAY = "MedMNIST"
OF_MODALITY, PAIR = "modality", "pair"
USED_BY = {
    "window": (DICOM, NIFTI, ITK),
    "axis": (NIFTI, ITK, ARRAY),
    "every": (NIFTI, ITK),
    "central": (NIFTI, ITK),
    "volume": (NIFTI, ITK),
    "slice": (ARRAY,),
    "label_tag": (DICOM,),
    "uncertain": ("CheXpert", "MIMIC-CXR-JPG"),
    "blank": ("CheXpert", "MIMIC-CXR-JPG"),
    "readers": ("VinDr-CXR",),
    "unit": (DICOM, NIFTI, ITK),
    "fold": ("nnU-Net",),
}
"""Option -> the kinds of files it changes. Others change all, or are refused by the reader they do not fit."""
REPORTED = "retrieval"
"""The task that learns from reports."""
OF_REPORTS = ("reports", "report_part", "findings", "entities")
"""Options of that task."""
IMAGE_UNIT, VOLUME_UNIT, STUDY_UNIT, SLIDE_UNIT, PATIENT_UNIT = UNITS = ("image", "volume", "study", "slide", "patient")
OF_SERIES = ("axis", "every", "central")
"""Options that change DICOM files, too, where whole volumes are samples."""
OF_UNITS = {"slices": VOLUME_UNIT, "spacing": VOLUME_UNIT, "study_column": STUDY_UNIT}
OF_UNITS |= dict.fromkeys(("mpp", "tile", "tissue", "slide_mpp", "regions"), SLIDE_UNIT)
"""Options of samples that are more than an image -> what these are."""


@lru_cache(maxsize=1)
def prompts() -> dict[str, dict[str, list[str]]]:
    """Modality -> "templates" and "negative" ones, each with one `{}`."""
    return json.loads(PROMPTS_FILE.read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class MedicalReading(SlideOptions):
    """Options of `Medical.read`, given as `data.NAME` in a recipe.

    By default a DICOM file has its own window, and a NIfTI volume its percentiles 0.5 and 99.5.
    """

    window: str | None = option(
        None,
        "DICOM and volumes: a preset (lung, bone, brain, ...), CENTRE,WIDTH, minmax or zscore",
        parse=check_window,
    )
    axis: str = option("axial", "volumes: axis along which they are cut into slices", choices=PLANES)
    unit: str = option(
        IMAGE_UNIT,
        "what a sample is: an image or slice, a volume, a study's views, a slide, or a patient's slides",
        choices=UNITS,
    )
    study_column: str = option(
        AUTO, "studies: what tells them: a column of a table, folder, stem:REGEX of file names, or auto"
    )
    every: int = option(1, "volumes: take every N-th slice, 1 for each", low=1, high=1_000_000)
    central: float | None = option(
        None,
        "volumes: share of the slices to use, around the middle; by default 0.5, of volumes as samples 1",
        above=0,
        high=1,
    )
    slices: int = option(
        16, "volumes as samples: slices that are seen, evenly spaced; 0 for all", low=0, high=1_000_000
    )
    spacing: float | None = option(
        None, "volumes as samples: millimetres between voxels, to which they are resampled", above=0, high=1000
    )
    volume: int = option(0, "volumes: which one of a 4-D file", low=0, high=1_000_000)
    slice: int | None = option(
        None,
        "MedMNIST volumes: number of the slice that is read, from 0; by default the middle one",
        low=0,
        high=1_000_000,
    )
    label_tag: str | None = option(None, "DICOM without class folders: attribute of the header that names the class")
    class_names: tuple[str, ...] | None = option(
        None, "manifests and MedMNIST: the classes in order; published sets: some of them"
    )
    modality: str | None = option(
        None, "kind of images, which chooses the prompts; by default general", choices=prompts()
    )
    prompts: str = option(
        OF_MODALITY,
        "texts of findings: those of the modality, or pair: the name, and 'no' with the name (CheXzero)",
        choices=(OF_MODALITY, PAIR),
    )
    uncertain: str = option("ignore", "CheXpert and MIMIC: what uncertain findings count as", choices=POLICIES)
    blank: str = option(
        "unknown", "CheXpert and MIMIC: what a finding counts as that the report does not mention", choices=BLANKS
    )
    fold: int = option(
        0, "volume-segmentation: number of the fold of nnU-Net's splits_final.json that is held out", low=0, high=99
    )
    readers: str = option("any", "VinDr-CXR: how many readers must see a finding", choices=LEAST_SHARE)
    reports: str | None = option(
        None, "retrieval: a column, a table or a folder of reports; by default where they usually are"
    )
    report_part: str = option(
        SEEN, "retrieval: part of a report that is learned; seen: what its image shows", choices=PARTS
    )
    findings: str | None = option(
        None, "retrieval: what the reports say, a table of `vladapt curate findings`", metavar="FILE"
    )
    entities: str | None = option(
        None, "retrieval: what the reports mention, a table of study, entity, text", metavar="FILE"
    )

    @property
    def formats(self) -> tuple[Format, ...]:
        """DICOM, volumes and images, as these options say; volumes alone where they are the samples, none of them where
        studies are."""
        if self.unit == SLIDE_UNIT:
            return (slide_format(),)
        if self.unit == VOLUME_UNIT:
            names = ("axis", "every", "slices", "spacing", "volume", "window")
            cut = {name: getattr(self, name) for name in names}
            return whole_volumes(self.max_pixels, central=1.0 if self.central is None else self.central, **cut)
        central = 0.5 if self.central is None else self.central
        volumes = (
            make(self.axis, self.every, central, self.volume, self.window, self.max_pixels)
            for make in (nifti_format, itk_format)
            if self.unit != STUDY_UNIT
        )
        images = replace(IMAGE, max_pixels=self.max_pixels)
        return dicom_format(self.window, self.max_pixels), *volumes, slides_elsewhere(), images

    def notes_on_unused(self, data: DomainData, task: str) -> list[str]:
        """One sentence for each option that was given and changed nothing, since no such file is in the data, or the
        task has no use for it."""
        kinds, whole = {*_kinds(data, self.formats), data.name}, self.unit == VOLUME_UNIT
        used_by = {**USED_BY, **({name: (DICOM, *USED_BY[name]) for name in OF_SERIES} if whole else {})}
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        notes = [
            f"Option {name} has no effect here: it is for {_listed(used_by[name])} files."
            for name in given
            if name in used_by and not kinds.intersection(used_by[name]) and (name != "unit" or whole)
        ]
        unseen = [name for name in given if OF_UNITS.get(name, self.unit) != self.unit]
        notes += [f"Option {name} has no effect here: it is for --unit {OF_UNITS[name]}." for name in unseen]
        idle = [name for name in given if name in OF_REPORTS and task != REPORTED]
        return notes + [f"Option {name} has no effect here: it is for --task {REPORTED}." for name in idle]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _kinds(data: DomainData, formats: Sequence[Format]) -> set[str]:
    """Names of the formats in the data."""
    sources = {item.source for item in data.items if "array" not in item.decode}
    kinds = {fmt.name for source in sources if (fmt := Format.of(source, formats)) is not None}
    return kinds | {ARRAY for item in data.items if "array" in item.decode}
