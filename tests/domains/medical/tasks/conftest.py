"""One small fit of volumes for all tests of the task."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

import vladapt
from vladapt.domains.medical.drawn_volumes import volumes_folder

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


@pytest.fixture
def write_set(tmp_path):
    """write_set(name, cases, labels): a set in the Decathlon's layout of (values, labels) arrays (X, Y, Z)."""
    import json

    def write(name, cases, labels, modality="MRI"):
        folder, listed = tmp_path / name, []
        for number, arrays in enumerate(cases):
            entry = {key: f"{key}s/case_{number}.nii" for key in ("image", "label")}
            for (_, file), voxels in zip(entry.items(), arrays):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(np.asarray(voxels), np.eye(4)), folder / file)
            listed.append(entry)
        content = {"modality": {"0": modality}, "labels": labels, "training": listed}
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder

    return write
