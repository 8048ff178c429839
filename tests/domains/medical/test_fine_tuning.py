"""The towers are trained on whatever the domain reads, by its own loaders and augmentation."""

from __future__ import annotations

import json

import numpy as np
import pytest

import vladapt

QUICK = {"full": {"lr": 2e-3, "epochs": 12}, "lora": {"lr": 5e-2, "epochs": 12}}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    pytest.importorskip("peft", reason="extra fine-tune is not installed")
    monkeypatch.chdir(tmp_path)


def plane(rng, bright: bool, side: int = 20):
    """Noise with a bright or a dark disc."""
    rows, columns = np.mgrid[:side, :side]
    disc = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 3) ** 2
    return rng.normal(500, 60, (side, side)) + (400 if bright else -400) * disc


@pytest.fixture
def dicom_folders(write_dicom, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (tmp_path / "dicom" / name).mkdir(parents=True)
        for i in range(10):
            pixels = plane(rng, name == "bright").clip(0).astype(np.uint16)
            write_dicom(tmp_path / "dicom" / name / f"{i}.dcm", pixels, PatientID=f"{name} {i}")
    return tmp_path / "dicom"


@pytest.fixture
def nifti_folders(write_nifti, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (tmp_path / "nifti" / name).mkdir(parents=True)
        for i in range(8):
            slices = [plane(rng, name == "bright") for _ in range(4)]
            write_nifti(tmp_path / "nifti" / name / f"{name}-{i}.nii.gz", np.stack(slices, axis=2).astype(np.float32))
    return tmp_path / "nifti"


@pytest.mark.thorough(but=("lora-dicom", "full-nifti"))
@pytest.mark.parametrize("kind", ["dicom_folders", "nifti_folders"])
@pytest.mark.parametrize("name", QUICK)
def test_dicom_files_and_nifti_slices(request, small_clip_spec, name, kind):
    data = request.getfixturevalue(kind)
    adapter = {"name": name, **QUICK[name]}
    result = vladapt.fit(
        domain="medical", data=str(data), backbone=small_clip_spec, adapter=adapter, shots=6, amp="bf16", seed=1
    )
    after = result.metrics["adapted"]["accuracy"]
    assert after > max(0.7, result.metrics["zero_shot"]["accuracy"])
    again = vladapt.evaluate(result.run)
    assert again["adapted"]["accuracy"] == pytest.approx(after)
    kept = json.loads((result.run / "run.json").read_text())
    assert kept["adapter_options"]["amp"] == "bf16" and kept["fit"]["history"][-1]["loss"] < 0.69


def test_the_domain_s_augmentation_is_what_trains(small_clip_spec, dicom_folders, monkeypatch):
    """Its own crop, unless another is asked for."""
    from vladapt.domains.medical import augment

    seen = []
    original = augment.MedicalAugment.__call__

    def watched(self, image, seed=None):
        seen.append((self.scale, seed))
        return original(self, image, seed)

    monkeypatch.setattr(augment.MedicalAugment, "__call__", watched)
    flags = {"domain": "medical", "data": str(dicom_folders), "backbone": small_clip_spec, "shots": 2, "seed": 1}
    vladapt.fit(adapter={"name": "lora", "epochs": 2}, **flags)
    assert {scale for scale, _ in seen} == {(0.8, 1.0)} and len({seed for _, seed in seen}) == len(seen) == 8
    seen.clear()
    vladapt.fit(adapter={"name": "lora", "epochs": 1, "crop_scale": (0.3, 0.6)}, **flags)
    assert {scale for scale, _ in seen} == {(0.3, 0.6)}
