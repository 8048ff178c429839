"""NIfTI: orientation, axes, choice of slices, intensity, bad files."""

from __future__ import annotations

import gzip
import itertools
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import DataError
from vladapt.domains.medical import nifti_slices
from vladapt.domains.medical.file_kinds import PLANES, chosen_slices
from vladapt.domains.medical.formats import nifti_format, volume_group
from vladapt.domains.medical.nifti_slices import AXES, load_slice

VOLUME = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
ORIENTATIONS = ["".join(c) for p in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*p)]


def as_seen(plane):
    """A canonical (x, y) plane as it is shown: first axis to the left, second upwards."""
    return plane.T[::-1, ::-1]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_every_orientation_shows_the_same_slices(write_nifti, tmp_path, codes, suffix):
    path = write_nifti(tmp_path / f"v{suffix}", VOLUME, codes)
    canonical = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    for name, axis in AXES.items():
        assert nifti_slices.count_slices(path, axis) == canonical.shape[axis]
        for i in (0, canonical.shape[axis] - 1):
            shown = load_slice(path, {"axis": name, "slice": i, "window": "0,6"})[..., 0]
            assert np.allclose(shown, np.clip((as_seen(canonical.take(i, axis)) + 3) / 6, 0, 1), atol=1e-5)


def test_the_patients_right_is_on_the_left_and_front_and_head_are_up(write_nifti, tmp_path):
    voxels = np.zeros((4, 5, 6), dtype=np.float32)
    voxels[3, 4, 5] = 1  # right, anterior, superior
    path = write_nifti(tmp_path / "v.nii", voxels)
    for name, last in (("axial", 5), ("coronal", 4), ("sagittal", 3)):
        assert load_slice(path, {"axis": name, "slice": last, "window": "minmax"})[0, 0, 0] == 1


def test_pixels_are_made_square(write_nifti, tmp_path):
    path = write_nifti(tmp_path / "v.nii", VOLUME, zooms=(1, 1, 3))
    assert load_slice(path, {"axis": "axial", "slice": 3}).shape == (6, 5, 3)
    assert load_slice(path, {"axis": "coronal", "slice": 3}).shape == (21, 5, 3)


@given(st.integers(1, 300), st.integers(1, 20), st.floats(0.01, 1))
@settings(max_examples=60, deadline=None)
def test_chosen_slices_lie_in_the_middle(count, every, central):
    chosen = list(chosen_slices(count, every, central))
    assert chosen and chosen[0] >= 0 and chosen[-1] < count
    assert all(b - a == every for a, b in itertools.pairwise(chosen))
    assert abs((chosen[0] + chosen[-1]) - (count - 1)) <= 2


def test_options_choose_the_slices(write_nifti, tmp_path):
    path = write_nifti(tmp_path / "v.nii", np.zeros((10, 12, 8, 3), dtype=np.int16))

    def slices(**options):
        return [d["slice"] for d in nifti_format(**options).expand(path)]

    assert slices() == [2, 3, 4, 5]
    assert slices(central=1.0) == list(range(8))
    assert slices(central=1.0, every=4) == [1, 5]
    assert len(slices(axis="coronal")) == 6 and len(slices(axis="sagittal")) == 5
    assert nifti_format(volume=2).expand(path)[0]["volume"] == 2
    assert nifti_format(window="lung").expand(path)[0]["window"] == "lung"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_of_a_4d_file_is_picked(write_nifti, tmp_path, suffix):
    voxels = np.stack([np.full((4, 4, 4), v, dtype=np.int16) for v in (10, 20)], axis=-1)
    path = write_nifti(tmp_path / f"v{suffix}", voxels)
    shown = [load_slice(path, {"slice": 1, "volume": v, "window": "20,40"})[0, 0, 0] for v in (0, 1)]
    assert np.allclose(shown, [0.25, 0.5])
    with pytest.raises(DataError, match="no volume 2, only 0 to 1"):
        nifti_format(volume=2).expand(path)


def test_intensity_is_scaled_by_the_whole_volume_without_outliers(write_nifti, tmp_path):
    voxels = np.arange(10 * 10 * 10, dtype=np.float32).reshape(10, 10, 10)
    voxels[5, 5, 5] = 1e6
    path = write_nifti(tmp_path / "v.nii", voxels)
    shown = load_slice(path, {"axis": "sagittal", "slice": 2})[..., 0]
    assert shown.min() == pytest.approx(0.2, abs=0.02) and shown.max() == pytest.approx(0.3, abs=0.02)
    assert load_slice(path, {"axis": "sagittal", "slice": 2, "window": "minmax"}).max() < 0.001


def test_nan_anywhere_refuses_the_volume_with_its_cause(write_nifti, tmp_path):
    voxels = VOLUME.copy()
    voxels[0, 0, 0] = np.nan
    for suffix in (".nii", ".nii.gz"):
        path = write_nifti(tmp_path / f"v{suffix}", voxels)
        with pytest.raises(DataError, match=rf"v{suffix}: 1 voxels are NaN or infinity"):
            nifti_format().expand(path)
        with pytest.raises(DataError, match="NaN"):
            load_slice(path, {"slice": 3})


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damaged_files_get_one_line(write_nifti, tmp_path, suffix):
    path = write_nifti(tmp_path / f"v{suffix}", VOLUME)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:200], whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"v{suffix}: "):
            nifti_format().expand(path)
            load_slice(path, {"slice": 3})


def test_flat_volumes_and_slices_that_are_not_there(write_nifti, tmp_path):
    path = write_nifti(tmp_path / "v.nii", np.full((3, 3, 3), 7, dtype=np.int16))
    assert load_slice(path, {"slice": 0}).max() == 0
    with pytest.raises(DataError, match="no slice 3, only 0 to 2"):
        load_slice(path, {"slice": 3})


def test_colour_volumes_are_read(tmp_path):
    voxels = np.zeros((3, 4, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    voxels["G"] = 200
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "v.nii")
    shown = load_slice(tmp_path / "v.nii", {"slice": 0})
    assert shown.shape == (4, 3, 3) and shown.dtype == np.uint8 and (shown == [0, 200, 0]).all()


def test_an_uncompressed_volume_is_not_read_whole_for_a_windowed_slice(write_nifti, tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "v.nii", VOLUME)
    monkeypatch.setattr(nifti_slices, "_read_volume", lambda *_: pytest.fail("read the whole volume"))
    assert load_slice(path, {"slice": 3, "window": "lung"}).shape == (6, 5, 3)


def test_a_compressed_volume_is_decompressed_once(write_nifti, tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "once.nii.gz", VOLUME)
    read, calls = nifti_slices._read_volume, []
    monkeypatch.setattr(nifti_slices, "_read_volume", lambda *a: calls.append(a) or read(*a))
    for i in range(7):
        load_slice(path, {"slice": i})
    assert len(calls) == 1
    monkeypatch.setattr(nifti_slices, "KEPT_BYTES", 8)
    kept = load_slice(path, {"slice": 3})
    monkeypatch.setattr(nifti_slices, "KEPT_BYTES", 1 << 20)
    assert np.array_equal(kept, load_slice(path, {"slice": 3}))


def test_an_unpacked_volume_is_found_by_its_content(write_nifti, put_in_place, tmp_path, monkeypatch):
    monkeypatch.setattr(nifti_slices, "KEPT_BYTES", 8)
    shown = {}
    for name, voxels in (("one", VOLUME), ("other", VOLUME[::-1])):
        plain, packed = write_nifti(tmp_path / f"{name}.nii", voxels), tmp_path / f"{name}.nii.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=0))  # all of one size
        shown[name] = load_slice(plain, {"slice": 3})
    file = tmp_path / "one.nii.gz"
    assert np.array_equal(load_slice(file, {"slice": 3}), shown["one"])
    shutil.copy(file, tmp_path / "copy.nii.gz")
    put_in_place(tmp_path / "other.nii.gz", file)
    assert np.array_equal(load_slice(file, {"slice": 3}), shown["other"])
    monkeypatch.setattr(nifti_slices.gzip, "open", lambda *_: pytest.fail("unpacked again"))
    assert np.array_equal(load_slice(tmp_path / "copy.nii.gz", {"slice": 3}), shown["one"])


def test_a_group_is_the_subject_or_else_the_volume(write_nifti, tmp_path):
    def group(file):
        return volume_group(file, file.relative_to(tmp_path).as_posix())

    first = write_nifti(tmp_path / "sub-01" / "ses-1" / "anat.nii", VOLUME)
    again = write_nifti(tmp_path / "sub-01" / "ses-2" / "anat.nii", VOLUME + 1)
    other = write_nifti(tmp_path / "sub-02" / "ses-1" / "anat.nii", VOLUME + 2)
    flat = write_nifti(tmp_path / "all" / "sub-01_T1w.nii", VOLUME + 3)
    assert group(first) == group(again) == group(flat) != group(other)
    plain, copy = write_nifti(tmp_path / "x" / "a.nii", VOLUME), write_nifti(tmp_path / "y" / "b.nii", VOLUME)
    assert group(plain) == group(copy) != group(write_nifti(tmp_path / "c.nii", VOLUME + 1))
    above = write_nifti(tmp_path / "sub-07" / "d.nii", VOLUME)
    assert volume_group(above, "d.nii") == group(plain)  # folders above the set are of no account


def test_packaged_volumes_decode():
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    if not (folder / "anatomical.nii").is_file():
        pytest.skip("nibabel comes without its test data here")
    for name in ("anatomical.nii", "example4d.nii.gz", "functional.nii"):
        for axis in PLANES:
            fmt = nifti_format(axis)
            shown = fmt.load(folder / name, fmt.expand(folder / name)[0])
            assert shown.dtype == np.float32 and 0 <= shown.min() < shown.max() <= 1
