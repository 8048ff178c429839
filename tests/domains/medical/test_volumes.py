"""Volumes: the same from every kind of file and in every orientation; what is no whole series, told in one line."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation as oriented
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from vladapt.core.errors import DataError
from vladapt.domains.medical.volumes import check_same_geometry, read_volume

ORIENTATIONS = ["".join(c) for p in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*p)]
KINDS = (".nii", ".nii.gz", ".mha", ".nrrd", ".mhd", "")
AFFINE = np.array([[1.5, 0, 0, -20], [0, 0.75, 0, 10], [0, 0, 2.5, 5], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)


def ras(volume):
    """(X, Y, Z) and its affine, reoriented by nibabel."""
    affine = volume.affine.numpy()
    orientation = io_orientation(affine)
    values = volume[0].numpy()
    return oriented(values, orientation), affine @ inv_ornt_aff(orientation, values.shape)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(ORIENTATIONS), st.sampled_from(KINDS), st.integers(0, 99), st.tuples(*[st.integers(2, 5)] * 3))
def test_a_volume_is_the_same_in_every_orientation_of_every_kind_of_file(
    write_volume, tmp_path_factory, codes, kind, seed, shape
):
    rng = np.random.default_rng(seed)
    voxels = rng.integers(-999, 999, shape).astype(np.int16)
    affine = np.diag([*rng.uniform(0.5, 3, 3), 1])
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    path = tmp_path_factory.mktemp("v") / f"v{kind}"
    volume = read_volume(write_volume(path, oriented(voxels, turn), affine @ inv_ornt_aff(turn, shape)))
    values, read_affine = ras(volume)
    assert np.array_equal(values, voxels)
    assert np.allclose(read_affine, affine, atol=1e-4)


def test_a_series_is_rescaled_and_given_by_its_folder_a_file_or_its_files(write_volume, tmp_path):
    folder = write_volume(tmp_path / "ct", VOXELS, AFFINE, RescaleSlope=2, RescaleIntercept=-1024)
    files = sorted(folder.iterdir())
    for source in (folder, files[2], files[::-1]):
        volume = read_volume(source)
        assert np.array_equal(ras(volume)[0], 2.0 * VOXELS - 1024)
        assert volume.shape[0] == 1 and str(volume.dtype) == "torch.float32"


def test_a_file_of_many_frames_is_a_series(write_dicom, tmp_path):
    from pydicom.dataset import Dataset

    def frame(z):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, z]
        group.PlanePositionSequence = [position]
        return group

    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.75, 1.5], 2.5
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    pixels = np.arange(24, dtype=np.uint16).reshape(3, 2, 4)
    path = write_dicom(
        tmp_path / "mf.dcm",
        pixels,
        Modality="CT",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[frame(z) for z in (5.0, 0.0, 2.5)],
    )
    volume = read_volume(path)
    assert np.array_equal(volume[0].numpy(), pixels[[1, 2, 0]].transpose(2, 1, 0))
    assert np.allclose(np.diag(volume.affine), [-1.5, -0.75, 2.5, 1])


def test_a_volume_of_four_dimensions_has_channels(write_volume, tmp_path):
    voxels = np.stack([VOXELS, VOXELS + 1], axis=-1)
    path = write_volume(tmp_path / "v.nii.gz", voxels, AFFINE)
    assert read_volume(path).shape == (2, 3, 4, 5)
    assert np.array_equal(read_volume(path, {"volume": 1})[0].numpy(), VOXELS + 1)


def test_a_tilted_gantry_shears_the_affine(write_volume, tmp_path):
    affine = AFFINE.copy()
    affine[1, 2] = 0.6
    volume = read_volume(write_volume(tmp_path / "ct", VOXELS, affine))
    order = volume.affine.numpy() @ [0, 0, 0, 1], volume.affine.numpy() @ [0, 0, 4, 1]
    assert np.allclose(sorted(map(tuple, order)), sorted([(*affine[:3, 3], 1), (*(affine @ [0, 0, 4, 1])[:3], 1)]))


def change(file, **attributes):
    data_set = pydicom.dcmread(file)
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    data_set.save_as(file)


def of_slice(folder, k):
    return next(folder.glob(f"*-{k}.dcm"))


def moved(by):
    def change_position(folder):
        file = of_slice(folder, 2)
        x, y, z = pydicom.dcmread(file).ImagePositionPatient
        change(file, ImagePositionPatient=[float(x) + by[0], float(y) + by[1], float(z) + by[2]])

    return change_position


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: of_slice(f, 2).unlink(), "ct: a slice is missing between .* 5.000 mm apart where others are 2.500"),
        (moved((0, 0, 0.4)), "ct: slices at two spacings, 2.500 mm and 2.900 mm"),
        (moved((0, 0, 2.5)), r"ct: two slices at one position, .*-\d\.dcm and .*-\d\.dcm"),
        (moved((4, 0, 0)), r"ct: .*-2.dcm lies .* mm beside the line"),
        (lambda f: change(of_slice(f, 2), SeriesInstanceUID="1.2.4"), r"ct: files of 2 series \(\w{8} of \d, \w{8} of"),
        (lambda f: change(of_slice(f, 2), ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "slices of two orientations"),
        (
            lambda f: change(of_slice(f, 2), PixelSpacing=[1, 1]),
            r"two pixel spacings, \(.*\) and \(1, 1\) \(.*-2.dcm\)",
        ),
        (lambda f: change(of_slice(f, 2), Rows=2, Columns=6), r"two sizes, \(4, 3\) \(.*\) and \(2, 6\) \(.*-2.dcm\)"),
        (lambda f: change(of_slice(f, 2), ImagePositionPatient=None), r"-2.dcm: its header gives no position in space"),
        (lambda f: [change(each, Modality="SR") for each in f.iterdir()], "ct: no DICOM file with pixels in it"),
    ],
)
def test_what_is_no_whole_series_is_told_in_one_line(write_volume, tmp_path, spoil, told):
    folder = write_volume(tmp_path / "ct", VOXELS, AFFINE, PatientName="Doe^Jane")
    assert read_volume(folder).shape == (1, 3, 4, 5)
    spoil(folder)
    with pytest.raises(DataError, match=told) as error:
        read_volume(folder)
    assert "1.2.4" not in str(error.value)


def test_colour_is_no_slice_of_a_volume(write_dicom, tmp_path):
    write_dicom(
        tmp_path / "c.dcm",
        np.zeros((4, 4, 3), np.uint8),
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[1, 1],
    )
    with pytest.raises(DataError, match="in colour"):
        read_volume(tmp_path)


def test_positions_that_are_rounded_are_no_two_spacings(write_volume, tmp_path):
    folder = write_volume(tmp_path / "ct", VOXELS, AFFINE)
    moved((0, 0, 0.009))(folder)
    assert np.allclose(np.linalg.norm(read_volume(folder).affine.numpy()[:3, 2]), 2.5)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path, raw: path.write_text(path.read_text().replace(raw.name, "../x.raw")), "in another folder"),
        (lambda path, raw: raw.unlink(), r"its voxels are missing \(v.raw\)"),
        (lambda path, raw: path.write_text(path.read_text().replace(raw.name, "LIST")), "does not name one file"),
        (lambda path, raw: raw.write_bytes(b"12"), "not a readable MHD file"),
        (
            lambda path, raw: path.write_text(re.sub("DimSize.*", "DimSize = 9999 999 99", path.read_text())),
            "cut short",
        ),
        (lambda path, raw: path.write_text(re.sub("DimSize.*", "DimSize = 9999 9999 999", path.read_text())), "voxels"),
    ],
)
def test_a_header_that_names_other_voxels_is_refused(write_volume, tmp_path, spoil, told):
    path = write_volume(tmp_path / "d" / "v.mhd", VOXELS, AFFINE)
    (tmp_path / "x.raw").write_bytes((tmp_path / "d" / "v.raw").read_bytes())
    spoil(path, path.with_suffix(".raw"))
    with pytest.raises(DataError, match=told):
        read_volume(path)


@pytest.mark.parametrize("kind", [".nrrd", ".mha", ".nii"])
def test_values_that_are_no_numbers_are_refused(write_volume, tmp_path, kind):
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="1 voxels are NaN or infinity"):
        read_volume(write_volume(tmp_path / f"v{kind}", voxels, AFFINE))


@pytest.mark.parametrize(
    ("row", "column", "by", "told"),
    [
        (0, 0, 0.01, r"m.nii: its spacing is \(1.5100, 0.7500, 2.5000\), but that of .*v.nii is \(1.5000,"),
        (0, 3, 0.01, r"m.nii: its origin is \(-19.9900, 10.0000, 5.0000\), but that of .*v.nii is \(-20.0000"),
        (0, 2, 0.0015, r"m.nii: its direction is"),
    ],
)
def test_a_mask_of_another_geometry_is_refused_with_both_values(write_volume, tmp_path, row, column, by, told):
    volume = read_volume(write_volume(tmp_path / "v.nii", VOXELS, AFFINE))
    rounded = AFFINE + 2e-8 * np.eye(4)[[1, 2, 0, 3]]
    check_same_geometry(volume, read_volume(write_volume(tmp_path / "r.nrrd", VOXELS, rounded)))
    affine = AFFINE.copy()
    affine[row, column] += by
    with pytest.raises(DataError, match=told):
        check_same_geometry(volume, read_volume(write_volume(tmp_path / "m.nii", VOXELS, affine)))
    with pytest.raises(DataError, match=r"its size is \(3, 4, 4\), but that of .*v.nii is \(3, 4, 5\)"):
        check_same_geometry(volume, read_volume(write_volume(tmp_path / "s.nii", VOXELS[..., :4], AFFINE)))


def test_a_real_volume_and_its_labels_have_one_geometry(data_dir):
    image = next(iter(sorted(data_dir.glob("medical/hippocampus/images/*.nii.gz"))), None)
    if image is None:
        pytest.skip("the hippocampus volumes are absent")
    labels = read_volume(image.parents[1] / "labels" / image.name)
    check_same_geometry(read_volume(image), labels)
    assert set(np.unique(labels)) == {0, 1, 2}
