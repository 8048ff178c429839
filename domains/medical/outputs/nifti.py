"""Masks as NIfTI files, on the voxels of their sources."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....core.contracts import Item, LabelMap, OutputKind, Task, Use
from ....core.errors import DataError
from ....core.runtime import json_text, replacing, write_whole
from ..formats import META_SUFFIXES, NIFTI_SUFFIXES, NRRD_SUFFIXES, VOLUME_SUFFIXES
from ..volumes.series import ordered, series_at, slices_of
from ._dicom import is_dicom_item

MILLIMETRES = "mm"
NAMES = "labels.json"


class Nifti(OutputKind):
    """Masks as NIfTI files in the geometry of their sources, with hashed ids, and the names of their labels."""

    made_of: ClassVar = OutputKind.MASKS

    def check_sources(self, items: list[Item]) -> None:
        if not any(map(has_place, items)):
            raise DataError(
                f"--as {self.name}: none of the {len(items)} images is a volume or a DICOM file with a position, so "
                "none has a place in space; omit it"
            )

    def write(self, predicted: Any, use: Use, task: Task, folder: Path) -> list[Path]:
        files: list[Path] = []
        names: dict[str, list[int]] = {}
        for name in predicted.ids:
            item = predicted.sources[name][0]
            if not has_place(item):
                continue
            labels = predicted.label_map(name)
            names |= {name: list(numbers) for name, numbers in labels.structures.items()}
            files.append(write_nifti(labels, item, folder / self.name / f"{_hashed(name)}.nii.gz"))
        if left_out := len(predicted.ids) - len(files):
            predicted.notes.append(f"{self.name}: {left_out} images have no place in space, and are left out")
        write_whole(folder / self.name / NAMES, json_text(names))
        return [*files, folder / self.name / NAMES]


def has_place(item: Item) -> bool:
    """Whether its pixels lie somewhere in space, by its header."""
    if is_dicom_item(item):
        return bool(slices_of(item.source)[0].position)
    return item.source.name.lower().endswith(VOLUME_SUFFIXES)


def _hashed(name: str) -> str:
    """How a file is called that was made of a row: `image-` and the first 16 digits of the SHA-256 of its id."""
    return f"image-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def write_nifti(labels: LabelMap, item: Item, path: Path) -> Path:
    """Write labels in the geometry of their source; no text of its header is kept.

    Args:
        labels: (X, Y, Z) of a volume as `read_volume` gives it, or (H, W) of a DICOM image.
        item: by its file; of a DICOM series any of them.
        path: ends in .nii.gz.

    Raises:
        DataError: the source has no geometry, or labels of another size.
    """
    import nibabel

    values = np.asarray(labels.values)
    shape, affine = _geometry(item, values.ndim == 3)
    values = values if values.ndim == 3 else values.T[..., None]  # (X, Y, 1)
    if values.shape != shape:
        one, other = ("x".join(map(str, size)) for size in (values.shape, shape))
        raise DataError(f"{item.source}: its masks have {one} voxels, and its image {other}; predict it again")
    image = nibabel.Nifti1Image(values.astype(np.uint8 if values.max(initial=0) < 256 else np.int32), affine)
    image.header.set_xyzt_units(MILLIMETRES)
    with replacing(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(_packed(image.to_bytes()))
    return path


def _packed(content: bytes) -> bytes:
    """The same bytes for the same labels: gzip keeps no time."""
    import gzip

    return gzip.compress(content, mtime=0)


def _geometry(item: Item, is_volume: bool) -> tuple[tuple[int, ...], np.ndarray]:
    """Size and affine (to RAS millimetres) of the voxels of a source, by its header."""
    path, name = item.source, item.source.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        import nibabel

        image = nibabel.load(path)
        return tuple(image.shape[:3]), image.affine
    if name.endswith(META_SUFFIXES + NRRD_SUFFIXES):
        from ..volumes.itk_files import itk_header

        return itk_header(path)
    slices, affine = ordered(series_at(path)) if is_volume else ordered([path])
    if is_volume:
        return (*slices[0].size[::-1], len(slices)), affine
    frame = slices_of(path)[item.decode.get("frame", 0)]
    place = next(n for n, each in enumerate(slices) if each.frame == frame.frame)
    affine = affine.copy()
    affine[:3, 3] += place * affine[:3, 2]
    return (*frame.size[::-1], 1), affine
