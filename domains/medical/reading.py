"""Options of reading medical data, and the file formats that follow from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from ...core.contracts import domain
from ...core.contracts.domain import DomainData
from ...core.contracts.options import option
from ...core.data.files import Format, format_of
from ...core.data.images import IMAGE
from ...core.errors import UnknownNameError, did_you_mean
from .dicom_pixels import dicom_format
from .intensity import check_window
from .nifti_slices import AXES, nifti_format

PROMPTS_FILE = Path(__file__).with_name("prompts.json")
GENERAL = "general"
ARRAY = "MedMNIST"
USED_BY = {
    "window": ("DICOM", "NIfTI"),
    "axis": ("NIfTI", ARRAY),
    "every": ("NIfTI",),
    "central": ("NIfTI",),
    "volume": ("NIfTI",),
    "slice": (ARRAY,),
    "label_tag": ("DICOM",),
}
"""Option -> the kinds of files it changes. Others change all, or are refused by the reader they do not fit."""


def check_modality(modality: str | None) -> str:
    """The modality's name, "general" for None.

    Raises:
        UnknownNameError: there are no prompts for it; the message names the nearest.
    """
    name = (modality or GENERAL).strip().lower()
    if name not in prompts():
        raise UnknownNameError(f"option modality: unknown modality '{modality}'; {did_you_mean(name, prompts())}")
    return name


@lru_cache(maxsize=1)
def prompts() -> dict[str, dict[str, list[str]]]:
    """Modality -> "templates" and "negative" ones, each with one `{}`."""
    return json.loads(PROMPTS_FILE.read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Reading(domain.Reading):
    """Options of `Medical.read`, given as `data.NAME` in a recipe.

    By default a DICOM file has its own window, and a NIfTI volume its percentiles 0.5 and 99.5.
    """

    window: str | tuple[float, float] | None = option(
        None, "DICOM and NIfTI: a preset (lung, bone, brain, ...), centre and width, or minmax"
    )
    axis: str = option("axial", "volumes: along which axis they are cut into slices", choices=AXES)
    every: int = option(1, "NIfTI: every n-th slice", low=1, high=1_000_000)
    central: float = option(0.5, "NIfTI: share of the slices, around the middle, that is used", above=0, high=1)
    volume: int = option(0, "NIfTI: which volume of a 4-D file", low=0, high=1_000_000)
    slice: int | None = option(None, "MedMNIST volumes: which slice; by default the middle one", low=0, high=1_000_000)
    label_tag: str | None = option(None, "DICOM without class folders: attribute of the header that names the class")
    class_names: tuple[str, ...] | None = option(None, "manifests and MedMNIST: the classes in order")
    modality: str | None = option(None, "which prompts; by default general", choices=prompts())

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "window", check_window(self.window))

    @property
    def formats(self) -> tuple[Format, ...]:
        """DICOM, NIfTI and images, as these options say."""
        volumes = nifti_format(self.axis, self.every, self.central, self.volume, self.window)
        return dicom_format(self.window), volumes, IMAGE

    def notes_on_unused(self, data: DomainData) -> list[str]:
        """One sentence for each option that was given and changed nothing, since no such file is in the data."""
        kinds = _kinds(data, self.formats)
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return [
            f"Option {name} has no effect here: it is for {' and '.join(USED_BY[name])} files."
            for name in given
            if name in USED_BY and not kinds.intersection(USED_BY[name])
        ]


def _kinds(data: DomainData, formats: Sequence[Format]) -> set[str]:
    """Names of the formats in the data."""
    sources = {item.source for item in data.items if "array" not in item.decode}
    found = {fmt.name for source in sources if (fmt := format_of(source, formats)) is not None}
    return found | {ARRAY for item in data.items if "array" in item.decode}
