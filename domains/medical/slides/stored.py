"""Slides whose tile features are stored, in place of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ....core.contracts import DomainData
from ....core.errors import ConfigError, DataError
from ....core.features import BagFolder
from .encoders import check_width, encoder_of

CLASSIFICATION = "classification"
PATIENT, SLIDE, IMAGE = "patient", "slide", "image"
UNITS = (IMAGE, SLIDE, PATIENT)
BESIDE = ("coarse_bags", "class_texts", "clam_splits")
OF_PIXELS = ("mpp", "tile", "tissue", "slide_mpp", "regions", "window", "max_pixels")


def read_stored(path: Path, reading: Any, task: str) -> DomainData | None:
    """A labelled set of stored tile features; None where pixels are to be read.

    Args:
        reading: what a user says to the domain's reader.

    Raises:
        ConfigError: an option that is not for them, or another task. DataError: as `BagFolder.read`.
    """
    if reading.bags is None and not (task == CLASSIFICATION and BagFolder.are_class_folders(path, reading.formats)):
        _refuse_alone(reading)
        return None
    if task != CLASSIFICATION:
        raise ConfigError(f"--bags: is for --task {CLASSIFICATION}; omit one of them")
    return _folder(reading).read(path, **reading.of_any())


def read_new_stored(paths: Sequence[str | Path], reading: Any) -> DomainData | None:
    """Files of tile features to predict; None where pixels are to be read."""
    if reading.bags is None and not BagFolder.are_files(paths):
        _refuse_alone(reading)
        return None
    if reading.bags is None and (flag := _flag_of_pixels(reading)):
        raise DataError(f"{paths[0]}: holds tile features, and {flag} is for slides read from pixels; give these")
    return _folder(reading).read_new(paths)


def check_encoder(folder: str, spec: str | None) -> None:
    """Refuse stored features of which none has the width of the backbone that the user names, before that is loaded.

    Args:
        folder: of the features.
        spec: of the backbone.

    Raises:
        DataError: as `check_width`.
    """
    if (encoder := encoder_of(spec)) is None:
        return
    widths = []
    for width in BagFolder(Path(folder)).widths():
        if width == encoder.width:
            return
        widths.append(width)
    if widths:
        check_width(spec, widths[0], f"--bags {folder}")


def _folder(reading: Any) -> BagFolder:
    if reading.unit not in UNITS:
        raise ConfigError(f"--unit {reading.unit}: stored tile features are of slides; give {SLIDE} or {PATIENT}")
    if flag := _flag_of_pixels(reading):
        raise ConfigError(f"{flag}: is for pixels, and tile features are stored; omit it")
    bags, coarse, splits = (
        None if place is None else Path(place) for place in (reading.bags, reading.coarse_bags, reading.clam_splits)
    )
    return BagFolder(bags, coarse, reading.class_texts, reading.unit == PATIENT, splits)


def _flag_of_pixels(reading: Any) -> str | None:
    """The first option given that says how slides are cut."""
    default = {each.name: each.default for each in fields(reading)}
    given = (name for name in OF_PIXELS if getattr(reading, name) != default[name])
    return next((f"--{name.replace('_', '-')}" for name in given), None)


def _refuse_alone(reading: Any) -> None:
    """Raise the ConfigError of an option that goes with stored tile features alone."""
    if reading.unit == PATIENT:
        raise ConfigError(f"--unit {PATIENT}: joins slides whose tile features are stored; give --bags FOLDER")
    if given := [name for name in BESIDE if getattr(reading, name) is not None]:
        raise ConfigError(f"--{given[0].replace('_', '-')}: goes with stored tile features; give --bags FOLDER")
