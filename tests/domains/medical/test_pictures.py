"""What is shown of a scan to whoever labels it: the usual windows of a CT, slices, frames."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="extra medical is not installed")

from vladapt import load_domain
from vladapt.core.contracts.items import Item
from vladapt.core.data.label_files import Answer, TableSource, labels_text, read_label_file
from vladapt.core.errors import ConfigError

RAMP = np.tile(np.linspace(-1024, 1023, 16).astype(np.int16), (8, 1))  # (8, 16), Hounsfield units


def pictures(path, **reading):
    domain = load_domain("medical")
    data = domain.read_images([path], **reading)
    return [domain.picture(item, data.load) for item in data.items]


def test_a_ct_is_shown_in_the_usual_windows(write_dicom, tmp_path):
    attributes = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "HU"}
    (stills,) = pictures(write_dicom(tmp_path / "ct.dcm", RAMP, **attributes))
    assert list(stills) == ["as read", "minmax", "soft-tissue", "lung", "bone", "brain"]
    low, high = -600 - 750, -600 + 750
    expected = np.rint(np.clip((RAMP - low) / (high - low), 0, 1) * 255)
    assert stills["lung"].dtype == np.uint8 and np.abs(stills["lung"][..., 0] - expected).max() <= 1
    assert (stills["brain"][:, 0] == 0).all() and (stills["brain"][:, -1] == 255).all()


def test_what_is_no_ct_has_no_hounsfield_windows(write_dicom, tmp_path):
    (stills,) = pictures(write_dicom(tmp_path / "mr.dcm", RAMP - RAMP.min(), Modality="MR"))
    assert list(stills) == ["as read", "minmax"]


def test_a_window_of_the_reader_is_the_first(write_dicom, tmp_path):
    attributes = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "HU"}
    (stills,) = pictures(
        write_dicom(tmp_path / "ct.dcm", RAMP, **attributes), window="bone", max_pixels=Item.MAX_PIXELS // 2
    )
    assert (stills["as read"] == stills["bone"]).all() and not (stills["as read"] == stills["lung"]).all()


def test_each_frame_and_each_slice_is_an_image(write_dicom, write_nifti, tmp_path):
    frames = np.stack([np.full((6, 6), 10 * n, np.uint8) for n in range(3)])
    assert [stills["as read"].max() for stills in pictures(write_dicom(tmp_path / "frames.dcm", frames))] == [0, 10, 20]
    pytest.importorskip("nibabel")
    voxels = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    shown = pictures(write_nifti(tmp_path / "volume.nii", voxels), central=1.0)
    assert len(shown) == 6 and all(list(stills) == ["as read", "minmax"] for stills in shown)


def test_a_slice_is_labelled_like_a_file(write_nifti, tmp_path):
    draw = np.random.default_rng(0)
    for name in ("one", "two"):
        write_nifti(tmp_path / "scans" / f"{name}.nii", draw.normal(size=(5, 6, 4)).astype(np.float32))
    source = TableSource("scans", "medical", "classification", ("lesion", "none"), {"central": "1.0"})
    said = {"one.nii#2": "lesion", "one.nii#4": "none", "two.nii#1": "lesion"}
    file = tmp_path / "labels.csv"
    file.write_text(labels_text([Answer(id_, (label,)) for id_, label in said.items()], source))
    data = read_label_file(file, load_domain("medical"), "classification", {})
    assert {item.id: data.class_names[item.class_label()] for item in data.items} == said
    assert [item.decode["slice"] for item in data.items] == [1, 3, 0]
    with pytest.raises(ConfigError, match=r"--set data\.every=2"):
        read_label_file(file, load_domain("medical"), "classification", {"every": 2})
