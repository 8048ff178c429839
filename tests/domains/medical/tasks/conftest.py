"""One small fit of volumes for all tests of the task."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

import vladapt
from vladapt.domains.medical.drawn_volumes import drawn_volume, volumes_folder

SMALL = {"steps": 30, "width": 4, "patch_size": "8,16,16", "largest": "no", "augment": "mirror", "device": "cpu"}


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """(result, its run folder)."""
    out = tmp_path_factory.mktemp("volumes")
    result = vladapt.fit(domain="medical", task="volume-segmentation", out=str(out), **SMALL)
    return result


@pytest.fixture(scope="session")
def volume_files():
    return sorted((volumes_folder() / "imagesTr").glob("*.nii"))


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory):
    """Eight volumes of 8 x 12 x 12 voxels with two structures, in the Decathlon's layout."""
    folder = tmp_path_factory.mktemp("tiny")
    arrays = [tuple(part[6:18, 6:18, 5:13] for part in drawn_volume(number)[:2]) for number in range(8)]
    return _write(folder, arrays, {"0": "background", "1": "shell", "2": "core"})


@pytest.fixture(scope="session")
def write_label_set():
    """write_label_set(folder, cases, labels): a set in the Decathlon's layout of (values, labels) arrays (X, Y, Z)."""
    return _write


@pytest.fixture
def write_set(tmp_path):
    """write_set(name, cases, labels): a set in the Decathlon's layout of (values, labels) arrays (X, Y, Z)."""
    return lambda name, cases, labels: _write(tmp_path / name, cases, labels)


def _write(folder, cases, labels):
    listed = []
    for number, arrays in enumerate(cases):
        entry = {key: f"{key}s/case_{number}.nii" for key in ("image", "label")}
        for file, voxels in zip(entry.values(), arrays):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(np.asarray(voxels), np.eye(4)), folder / file)
        listed.append(entry)
    content = {"modality": {"0": "MRI"}, "labels": labels, "training": listed}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
