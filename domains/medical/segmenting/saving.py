"""Labels of new volumes as files: NIfTI on the grid of each volume, and a slice with their outlines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ....core.contracts import DomainData, Item
from ....core.errors import DataError
from ....core.runtime import file_stem
from ..volumes import CHANNEL, Slabs, files_of, volume_stem
from .pictures import middle_slice, outlined_slices


def save_labels(data: DomainData, labels: Mapping[str, Path], folder: Path) -> list[Path]:
    """Write NAME.nii.gz and NAME.png of each volume; returns them.

    Args:
        labels: id -> file of (Z, Y, X) bytes in the orientation of `Slabs`.

    Raises:
        DataError: nothing can be written there.
    """
    written: list[Path] = []
    used: set[str] = set()
    for item in data.items:
        if item.id not in labels:
            continue
        volume = Slabs(files_of(item))
        found = np.memmap(labels[item.id], np.uint8, "r", shape=volume.shape[1:])
        # The name of the volume's first file, of a DICOM series that of its folder, with a number where another of that
        # name was written.
        stem = file_stem(CHANNEL.sub("", volume_stem(item.source)) or item.source.absolute().parent.name)
        name = next(name for name in (stem, *(f"{stem}_{n}" for n in range(2, len(used) + 3))) if name not in used)
        used.add(name)
        nifti, picture = folder / f"{name}.nii.gz", folder / f"{name}.png"
        at = middle_slice(found)
        try:
            write_label_volume(volume, found, nifti)
            Image.fromarray(outlined_slices(volume, at, [found[at]])).save(picture)
        except OSError as error:
            raise DataError.unwritable(f"--out {folder}", error, "give another folder") from error
        written += [nifti, picture]
    return written


def write_label_volume(volume: Slabs, labels: np.ndarray, file: Path) -> None:
    """Labels (Z, Y, X) as a file on the grid of a volume."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume.as_stored(labels), volume.grid.affine), file)


def stored_labels(item: Item, file: Path) -> tuple[Slabs, np.ndarray]:
    """A volume, and its labels as (X, Y, Z) in the order of its first file.

    Args:
        file: of (Z, Y, X) bytes in the orientation of `Slabs`.
    """
    volume = Slabs(files_of(item))
    return volume, volume.as_stored(np.memmap(file, np.uint8, "r", shape=volume.shape[1:]))
