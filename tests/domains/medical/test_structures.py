"""Masks beside a series: segmentation objects and contours in its geometry, and label files."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from vladapt.core.errors import DataError
from vladapt.domains.medical.volumes import read_labels, read_structures, read_volume

AFFINE = np.array([[0, -1.5, 0, 20], [0.75, 0, 0, -10], [0, 0, 2.5, 5], [0, 0, 0, 1]])
SHAPE = (14, 12, 6)
WHOSE = {
    "StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.2.9", "PatientID": "p", "PatientName": "Doe^Jane",
    "PatientBirthDate": "", "PatientSex": "", "StudyID": "", "StudyDate": "", "StudyTime": "", "AccessionNumber": "",
    "ReferringPhysicianName": "", "SeriesNumber": 1, "SOPClassUID": pydicom.uid.CTImageStorage,
}  # fmt: skip


@pytest.fixture
def series(write_volume, tmp_path):
    """(files of a series, its volume)."""
    folder = write_volume(tmp_path / "ct", np.zeros(SHAPE, np.int16), AFFINE, **WHOSE)
    return sorted(folder.iterdir()), read_volume(folder)


def balls(volume):
    """Two overlapping balls on the grid of a volume, (2, X, Y, Z), and the positions of its voxels in RAS."""
    grid = np.stack(np.meshgrid(*map(np.arange, volume.shape[1:]), indexing="ij"), axis=-1)
    at = grid @ volume.affine.numpy()[:3, :3].T + volume.affine.numpy()[:3, 3]
    centre = at.reshape(-1, 3).mean(axis=0)
    return np.stack([np.linalg.norm(at - centre - [0, y, 0], axis=-1) <= r for y, r in ((0, 4.6), (2, 2.4))]), at


def write_segmentation(path, files, masks, slices):
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept

    sources = [pydicom.dcmread(file) for file in files]
    sources.sort(key=lambda each: float(each.ImagePositionPatient[2]))
    code = CodedConcept("85756007", "SCT", "Tissue")
    described = [
        hd.seg.SegmentDescription(number, name, code, code, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for number, name in ((1, "tumour"), (2, "core"))
    ]
    hd.seg.Segmentation(
        sources[slices], masks.transpose(3, 2, 1, 0)[slices].astype(np.uint8), "BINARY", described,
        "1.2.7", 2, "1.2.7.1", 1, "m", "m", "1", "1",
    ).save_as(path)  # fmt: skip
    return path


def write_contours(path, write_dicom, polygons, series_uid="1.2.3"):
    """polygons: name -> (n, 3) points in RAS, each polygon in one slice."""

    def of(**attributes):
        data_set = Dataset()
        for keyword, value in attributes.items():
            setattr(data_set, keyword, value)
        return data_set

    study = of(RTReferencedSeriesSequence=[of(SeriesInstanceUID=series_uid)])
    contours = [
        of(
            ReferencedROINumber=number,
            ContourSequence=[
                of(ContourGeometricType="CLOSED_PLANAR", ContourData=(points * [-1, -1, 1]).round(4).ravel().tolist())
                for points in of_roi
            ],
        )
        for number, of_roi in enumerate(polygons.values(), start=1)
    ]
    rois = [of(ROINumber=number, ROIName=name) for number, name in enumerate(polygons, start=1)]
    return write_dicom(
        path,
        Modality="RTSTRUCT",
        ReferencedFrameOfReferenceSequence=[of(RTReferencedStudySequence=[study])],
        StructureSetROISequence=rois,
        ROIContourSequence=contours,
    )


def circle(centre, radius):
    turn = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    return centre + radius * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)


def test_a_segmentation_lies_in_the_geometry_of_its_series(series, tmp_path):
    files, volume = series
    masks, _ = balls(volume)
    path = write_segmentation(tmp_path / "seg.dcm", files, masks, slice(None))
    found = read_structures(path, files[::-1])
    assert found.names == ("tumour", "core")
    assert np.array_equal(found.masks.numpy(), masks)
    assert np.allclose(found.masks.affine, volume.affine)
    assert np.array_equal(read_structures(path, files, ["core"]).masks.numpy(), masks[1:])
    part = write_segmentation(tmp_path / "part.dcm", files, masks, slice(2, 4))
    assert np.array_equal(read_structures(part, files).masks[..., 2:4].numpy(), masks[..., 2:4])
    assert not read_structures(part, files).masks[..., [0, 1, 4, 5]].any()


def test_contours_are_filled_in_their_slices_and_leave_holes(series, write_dicom, tmp_path):
    files, volume = series
    _, at = balls(volume)
    centre = at[7, 6, 3]
    polygons = {"ring": [circle(centre, 5.3), circle(centre, 2.2)], "": [circle(centre, 2.2)]}
    found = read_structures(write_contours(tmp_path / "rt.dcm", write_dicom, polygons), files)
    from_centre = np.linalg.norm(at - centre, axis=-1)
    in_slice = np.arange(SHAPE[2]) == 3
    assert found.names == ("ring", "structure 2")
    assert np.array_equal(found.masks[0].numpy(), (from_centre <= 5.3) & (from_centre > 2.2) & in_slice)
    assert np.array_equal(found.masks[1].numpy(), (from_centre <= 2.2) & in_slice)


def test_structures_of_an_absent_series_are_refused(series, write_volume, write_dicom, tmp_path):
    files, volume = series
    other = write_volume(tmp_path / "other", np.zeros(SHAPE, np.int16), AFFINE, **{**WHOSE, "SeriesInstanceUID": "1.5"})
    contours = write_contours(tmp_path / "rt.dcm", write_dicom, {"a": [circle(np.zeros(3), 1.0)]})
    for path in (write_segmentation(tmp_path / "s.dcm", files, balls(volume)[0], slice(None)), contours):
        with pytest.raises(
            DataError, match=r"refers to a series that is absent \(\w{8}; .*other holds \w{8}\)"
        ) as error:
            read_structures(path, sorted(other.iterdir()))
        assert "1.2.3" not in str(error.value)


def test_what_cannot_be_drawn_on_the_series_is_told(series, write_volume, write_dicom, tmp_path):
    files, volume = series
    masks, at = balls(volume)
    between = write_contours(tmp_path / "b.dcm", write_dicom, {"a": [circle(at[5, 5, 2] + [0, 0, 1.2], 3.0)]})
    with pytest.raises(DataError, match="in none of the slices"):
        read_structures(between, files)
    segmentation = write_segmentation(tmp_path / "s.dcm", files, masks, slice(None))
    with pytest.raises(DataError, match="has no structure 'lung'; it has tumour, core"):
        read_structures(segmentation, files, ["lung"])
    with pytest.raises(DataError, match=r"neither a segmentation \(SEG\) nor contours"):
        read_structures(files[0], files)
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.4
    moved = write_volume(tmp_path / "moved", np.zeros(SHAPE, np.int16), shifted, **WHOSE)
    with pytest.raises(DataError, match="lies on another grid than its series"):
        read_structures(segmentation, sorted(moved.iterdir()))


@pytest.mark.parametrize("kind", [".nii.gz", ".mha", ".nrrd"])
def test_label_files_have_the_geometry_of_their_volume(write_volume, tmp_path, kind):
    volume = read_volume(write_volume(tmp_path / "v.nii", np.zeros(SHAPE, np.int16), AFFINE))
    labels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    read = read_labels(write_volume(tmp_path / f"l{kind}", labels, AFFINE), volume)
    assert np.array_equal(read[0].numpy(), labels)
    with pytest.raises(DataError, match="its spacing is"):
        read_labels(write_volume(tmp_path / f"m{kind}", labels, AFFINE @ np.diag([1, 1, 1.1, 1])), volume)
    with pytest.raises(DataError, match="between whole numbers"):
        read_labels(write_volume(tmp_path / f"h{kind}", labels / np.float32(2), AFFINE), volume)
