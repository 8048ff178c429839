"""Complete small DICOM files, what a run says of them, and the checkers of other projects."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch

from vladapt.core.contracts import Item
from vladapt.core.tasks.classification.predictions import Predictions

CT_AFFINE = np.array([[-0.8, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 2.5, 5], [0, 0, 0, 1]])
STUDY = "1.2.826.0.1.3680043.8.498.1"
WHOSE = {
    "StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.1", "PatientID": "MRN-77", "PatientName": "Doe^Jane",
    "PatientBirthDate": "19500101", "PatientSex": "F", "StudyID": "S1", "StudyDate": "20240102", "StudyTime": "101112",
    "AccessionNumber": "A9", "ReferringPhysicianName": "", "SeriesNumber": 1, "Manufacturer": "Maker",
}  # fmt: skip
CT = {"SOPClassUID": pydicom.uid.CTImageStorage, "FrameOfReferenceUID": f"{STUDY}.9", "PositionReferenceIndicator": ""}
SHAPE = (14, 12, 6)


@pytest.fixture
def series(write_volume, tmp_path):
    """Files of a CT series of 6 slices, each 12 rows and 14 columns."""
    voxels = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
    return sorted(write_volume(tmp_path / "ct", voxels, CT_AFFINE, **WHOSE, **CT).iterdir())


@pytest.fixture
def radiograph(write_dicom, tmp_path):
    """radiograph(name, **attributes): a picture of another study, without a place in space."""

    def write(name, **attributes):
        pixels = np.random.default_rng(1).integers(0, 255, (20, 30)).astype(np.uint8)
        own = {"StudyInstanceUID": f"{STUDY}.5", "SeriesInstanceUID": f"{STUDY}.5.1", "Modality": "CR"}
        kind = {"SOPClassUID": pydicom.uid.ComputedRadiographyImageStorage, "PatientOrientation": ["L", "F"]}
        return write_dicom(tmp_path / name, pixels, **{**WHOSE, **own, **kind, **attributes})

    return write


@pytest.fixture
def use():
    """A run used again, as far as kinds of output look at it."""
    data = SimpleNamespace(kind="labels", counts={})
    info = SimpleNamespace(adapter="tip-adapter", class_names=("normal", "pneumothorax"), data=data, recipe={})
    run = SimpleNamespace(path=Path("20260101-medical-ab12"), info=info, metrics={})
    return SimpleNamespace(run=run, reading=None, per_patient=None)


@pytest.fixture
def predicted():
    """predicted({id: items}, probabilities, class_names, **columns of Predictions)."""

    def make(sources, probabilities, class_names=("normal", "pneumothorax"), **how):
        probs = torch.tensor(probabilities, dtype=torch.float64)
        of = {
            name: [item if isinstance(item, Item) else Item("x", item) for item in items]
            for name, items in sources.items()
        }
        return Predictions(tuple(class_names), list(sources), probs, sources=of, **how)

    return make


@pytest.fixture
def dciodvfy():
    """dciodvfy(path): the errors that dicom3tools find in a file; skipped where they are absent."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy of dicom3tools is absent")

    def check(path):
        said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True).stderr
        assert said.strip(), "says nothing, not even the kind of object"
        return [line for line in said.splitlines() if line.startswith("Error")]

    return check


@pytest.fixture
def dsrdump():
    """dsrdump(path): the content of a structured report as dcmtk prints it; skipped where it is absent."""
    if shutil.which("dsrdump") is None:
        pytest.skip("dsrdump of dcmtk is absent")

    def dump(path):
        done = subprocess.run(["dsrdump", "+Pl", str(path)], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr.strip(), done.stderr
        return done.stdout

    return dump
