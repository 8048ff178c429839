"""Masks beside a series: segmentation objects and contours in its geometry, and label files."""

from __future__ import annotations

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

import vladapt
from vladapt.core.errors import DataError, UnknownNameError
from vladapt.domains.medical.volumes import read_structures, read_volume, read_volume_labels

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


def write_segmentation(path, files, masks, slices=slice(None), names=("tumour", "core")):
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept

    sources = [pydicom.dcmread(file) for file in files]
    sources.sort(key=lambda each: float(each.ImagePositionPatient[2]))
    code = CodedConcept("85756007", "SCT", "Tissue")
    described = [
        hd.seg.SegmentDescription(number, name, code, code, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for number, name in enumerate(names, start=1)
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
    read = read_volume_labels(write_volume(tmp_path / f"l{kind}", labels, AFFINE), volume)
    assert np.array_equal(read[0].numpy(), labels)
    with pytest.raises(DataError, match="its spacing is"):
        read_volume_labels(write_volume(tmp_path / f"m{kind}", labels, AFFINE @ np.diag([1, 1, 1.1, 1])), volume)
    with pytest.raises(DataError, match="between whole numbers"):
        read_volume_labels(write_volume(tmp_path / f"h{kind}", labels / np.float32(2), AFFINE), volume)


# a folder of series and of what outlines structures on them -----------------------------------------------------------


@pytest.fixture
def write_case(write_volume):
    """write_case(folder, number, overlapping): a series of one patient, and a SEG of its two balls beside it."""

    def write(folder, number, overlapping=False, names=("tumour", "core")):
        uid = f"1.2.{100 + number}"
        whose = {"SeriesInstanceUID": f"{uid}.1", "StudyInstanceUID": uid, "PatientID": f"p{number}"}
        voxels = np.random.default_rng(number).normal(0, 20, SHAPE).astype(np.int16)
        place = folder / f"case_{number}"
        empty = read_volume(write_volume(place, voxels, AFFINE, **{**WHOSE, **whose}))
        masks, _ = balls(empty)
        masks = masks if overlapping else np.stack([masks[0] & ~masks[1], masks[1]])
        bright = voxels + (masks * np.array([300, 300])[:, None, None, None]).sum(0).astype(np.int16)
        write_volume(place, np.round(bright).astype(np.int16), AFFINE, **{**WHOSE, **whose})
        files = sorted(place.iterdir())
        write_segmentation(folder / "objects" / f"seg_{number}.dcm", files, masks[: len(names)], names=names)
        return masks

    def make(folder, number, **how):
        (folder / "objects").mkdir(parents=True, exist_ok=True)
        return write(folder, number, **how)

    return make


def read_set(folder, **options):
    return vladapt.load_domain("medical").read(folder, "volume-segmentation", **options)


def structure(data, item, name):
    """(X, Y, Z) of a structure of an item, in the order of its series."""
    labels = read_volume(item.target.file)[0].numpy()
    return np.isin(labels, item.target.values[data.class_names.index(name)])


def test_series_are_a_set_with_what_is_outlined_on_them(write_case, write_volume, tmp_path):
    masks = [write_case(tmp_path, number) for number in range(3)]
    write_volume(tmp_path / "unlabelled", np.zeros(SHAPE, np.int16), AFFINE, **{**WHOSE, "SeriesInstanceUID": "1.5"})
    data = read_set(tmp_path)
    assert data.class_names == ("tumour", "core") and [item.id for item in data.items] == ["case_0", "case_1", "case_2"]
    assert data.notes == ["Volumes without labels, left out: 1."]
    for item, of in zip(data.items, masks):
        assert all(np.array_equal(structure(data, item, name), mask) for name, mask in zip(data.class_names, of))
        assert item.target.modalities == ("CT",) and not item.target.order and item.group.startswith("patient-")
    assert read_set(tmp_path, class_names="core").class_names == ("core",)
    with pytest.raises(UnknownNameError, match=r"--class-names cores: no object of .* did you mean core"):
        read_set(tmp_path, class_names="cores")


def test_structures_that_lie_in_others_are_regions(write_case, tmp_path):
    masks = write_case(tmp_path, 0, overlapping=True)
    data = read_set(tmp_path)
    target = data.items[0].target
    assert data.class_names == ("tumour", "core") and np.logical_and(*masks).any()
    assert all(
        np.array_equal(structure(data, data.items[0], name), mask) for name, mask in zip(data.class_names, masks)
    )
    assert target.order[1] in target.values[0], "the core is written as lying in the tumour, as most of it does"
    assert target.order[0] in target.values[0] and target.order[0] not in target.values[1]


def test_labels_mean_the_same_in_all_series_of_a_set(write_case, write_dicom, tmp_path):
    """Of one series only the core is outlined, of another three structures that overlap in other ways."""
    write_case(tmp_path, 0, overlapping=True)
    write_case(tmp_path, 1, names=("tumour",))
    files = sorted((tmp_path / "case_1").iterdir())
    _, at = balls(read_volume(files))
    rings = {"core": [circle(at[7, 6, 3], 2.2)], "edge": [circle(at[7, 6, 3], 5.3)]}
    write_contours(tmp_path / "objects" / "rt.dcm", write_dicom, rings, series_uid="1.2.101.1")
    data = read_set(tmp_path)
    one, other = (item.target for item in data.items)
    assert (
        one.values == other.values and one.order == other.order and set(data.class_names) == {"tumour", "core", "edge"}
    )
    contours = read_structures(tmp_path / "objects" / "rt.dcm", files)
    for name, mask in zip(contours.names, contours.masks.numpy() > 0):
        assert np.array_equal(structure(data, data.items[1], name), mask)
    assert data.notes == ["Structures that some series are not outlined for, which count as absent there: edge (on 1)."]


def test_series_with_segmentations_are_learned_and_predicted(write_case, tmp_path):
    for number in range(5):
        write_case(tmp_path / "set", number)
    how = {"steps": 2, "width": 4, "patch_size": "4,8,8", "largest": "no", "augment": "none", "device": "cpu"}
    fit = vladapt.fit(
        domain="medical", task="volume-segmentation", data=str(tmp_path / "set"), out=str(tmp_path), **how
    )
    assert 0 <= fit.metrics["adapted"]["dice"] <= 1
    out = tmp_path / "out"
    out.mkdir()
    vladapt.predict(str(fit.run), [str(tmp_path / "set" / "case_0")], out=str(out), device="cpu")
    labels = nibabel.load(out / "case_0.nii.gz")
    assert labels.shape == SHAPE and np.allclose(labels.affine, read_volume(tmp_path / "set" / "case_0").affine)


def test_a_prepared_series_is_known_by_all_its_slices(write_case, tmp_path):
    from vladapt.domains.medical.segmenting.preprocessing import Preprocessing, case_of, prepared

    write_case(tmp_path, 0)
    (item,) = read_set(tmp_path).items
    how = Preprocessing((2.5, 1.5, 0.75), ({"low": 0.0, "high": 0.0, "mean": 0.0, "std": 1.0},))
    first = prepared(how=how, **case_of(item)).image.copy()
    changed = max(tmp_path.glob("case_0/*.dcm"))
    data_set = pydicom.dcmread(changed)
    data_set.PixelData = bytes(len(data_set.PixelData))
    data_set.save_as(changed)
    (again,) = read_set(tmp_path).items
    assert not np.array_equal(prepared(how=how, **case_of(again)).image, first)
    assert again.decode["digest"] != item.decode["digest"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda f: [each.unlink() for each in (f / "case_1").iterdir()],
            r"seg_1.dcm: refers to a series that is absent",
        ),
        (lambda f: next((f / "case_1").glob("*-3.dcm")).unlink(), r"case_1: a slice is missing between"),
        (
            lambda f: (f / "objects" / "copy.dcm").write_bytes((f / "objects" / "seg_1.dcm").read_bytes()),
            r"seg_1.dcm: outlines 'tumour', as .*copy.dcm does on the same series; keep one of them",
        ),
        (lambda f: move(f / "case_1", 0.4), r"seg_1.dcm: lies on another grid than its series"),
        (lambda f: [each.unlink() for each in (f / "objects").iterdir()], "no SEG or RTSTRUCT object outlines"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_learned(write_case, tmp_path, spoil, told):
    for number in range(2):
        write_case(tmp_path, number)
    spoil(tmp_path)
    with pytest.raises(DataError, match=told) as error:
        read_set(tmp_path)
    assert "\n" not in str(error.value) and "Doe" not in str(error.value)


def move(folder, by):
    for file in folder.iterdir():
        data_set = pydicom.dcmread(file)
        data_set.ImagePositionPatient = [
            float(data_set.ImagePositionPatient[0]) + by,
            *data_set.ImagePositionPatient[1:],
        ]
        data_set.save_as(file)
