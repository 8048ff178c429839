"""What can be said about reading medical data, checked once, and the file formats that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ...core.contracts.domain import DomainData
from ...core.contracts.errors import ConfigError, UnknownNameError, did_you_mean
from ...core.data.formats import Format, format_of
from ...core.data.images import IMAGE
from .dicom import dicom_format
from .intensity import check_window
from .nifti import AXES, nifti_format
from .prompts import check_modality

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


@dataclass(frozen=True)
class Reading:
    """Options of `Medical.read`, given as `data.<name>` in a recipe.

    Args:
        window: DICOM and NIfTI: a preset in Hounsfield units ("lung", "bone", "brain", "soft-tissue", "mediastinum",
            "abdomen", "liver", ...), "centre,width", or "minmax". By default a DICOM file's own window, and a NIfTI
            volume's percentiles 0.5 and 99.5.
        axis: volumes: slices are "axial", "coronal" or "sagittal".
        every: NIfTI: every n-th slice.
        central: NIfTI: share of the slices, around the middle, that is used.
        volume: NIfTI: which volume of a 4-D file.
        slice: MedMNIST volumes: which slice; by default the middle one.
        label_tag: DICOM folders without class folders: the header's attribute that names the class.
        class_names: manifests and MedMNIST: the classes in order.
        root: manifests: folder that paths are relative to.
        min_side: boxes: shortest side in pixels.
        modality: which prompts: "radiology", "histology", "dermatology", "ophthalmology", "haematology", "microscopy"
            or "general".
    """

    window: str | None = None
    axis: str = "axial"
    every: int = 1
    central: float = 0.5
    volume: int = 0
    slice: int | None = None
    label_tag: str | None = None
    class_names: Sequence[str] | None = None
    root: str | None = None
    min_side: float | None = None
    modality: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "window", check_window(self.window))
        if self.axis not in AXES:
            raise UnknownNameError(f"option axis: unknown axis '{self.axis}'; {did_you_mean(str(self.axis), AXES)}")
        if not isinstance(self.every, int) or self.every < 1:
            raise ConfigError(f"option every={self.every}: give a whole number, 1 or more")
        if not isinstance(self.central, (int, float)) or not 0 < self.central <= 1:
            raise ConfigError(f"option central={self.central}: give a share above 0, up to 1")
        if not isinstance(self.volume, int) or self.volume < 0:
            raise ConfigError(f"option volume={self.volume}: give a whole number, 0 or more")
        if self.modality is not None:
            object.__setattr__(self, "modality", check_modality(self.modality))
        if isinstance(self.class_names, str):
            object.__setattr__(self, "class_names", [name.strip() for name in self.class_names.split(",")])

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Reading:
        """From keyword arguments.

        Raises:
            UnknownNameError: no option, preset, axis or modality has that name; the message names the nearest.
            ConfigError: a value out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownNameError(f"domain 'medical' has no data option '{name}'; {did_you_mean(name, known)}")
        defaults = {f.name: f.default for f in fields(cls)}
        return cls(**{name: defaults[name] if value is None else value for name, value in options.items()})

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
