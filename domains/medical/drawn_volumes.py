"""The sample of volume segmentation: small volumes with two structures, drawn once into the cache.

A bright ellipsoid with a dark core lies in noise: shell and core are the structures. Size, place and contrast differ
from volume to volume, as does the thickness of slices.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ...core.features import FeatureStore

VERSION = 1
COUNT, SIDE, SLICES = 20, 24, 20
NAMES = ("shell", "core")
NOTE = "These volumes are drawn, not scans: their numbers say nothing about patients."


def volumes_folder() -> Path:
    """The folder of the drawn set, in the layout of the Medical Segmentation Decathlon; it is made at the first
    call."""
    return FeatureStore.filled(f"samples/volumes-{VERSION}", _draw_into)


def drawn_volume(number: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Values (X, Y, Z) int16, labels (X, Y, Z) uint8 and the millimetres between slices of one of them."""
    random = np.random.default_rng([VERSION, number])
    thickness = float(random.choice([1.0, 1.0, 1.5]))
    size = np.array([SIDE, SIDE, round(SLICES / thickness)])
    millimetres = np.array([1.0, 1.0, thickness])
    centre = (size - 1) * millimetres / 2 + random.uniform(-2, 2, 3)
    radii = random.uniform(5.5, 8.0, 3)
    at = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1) * millimetres
    distance = np.sqrt((((at - centre) / radii) ** 2).sum(axis=-1))  # 1 on the surface
    labels = np.where(distance < 0.55, 2, np.where(distance < 1, 1, 0)).astype(np.uint8)
    levels = np.array([0.0, random.uniform(250, 350), random.uniform(-250, -150)])
    values = 100 + levels[labels] + random.normal(0, 60, labels.shape)
    return values.round().astype(np.int16), labels, thickness


def _draw_into(folder: Path) -> None:
    import nibabel

    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    listed = []
    for number in range(COUNT):
        values, labels, thickness = drawn_volume(number)
        affine = np.diag([1.0, 1.0, thickness, 1.0])
        entry = {key: f"./{key}sTr/drawn_{number:03d}.nii" for key in ("image", "label")}
        for key, voxels in (("image", values), ("label", labels)):
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / entry[key])
        listed.append(entry)
    numbered = {"0": "background", **{str(number): name for number, name in enumerate(NAMES, 1)}}
    content = {"name": "drawn volumes", "modality": {"0": "MRI"}, "labels": numbered, "training": listed, "test": []}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
