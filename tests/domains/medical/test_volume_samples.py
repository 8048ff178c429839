"""Volumes as samples: one item each, its slices the parts, whatever kind of files it lies in."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image

import vladapt
from vladapt.core.backbones import EachPart
from vladapt.core.contracts import UnequalParts
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.verify import content_key
from vladapt.core.errors import DataError
from vladapt.domains.medical import Medical
from vladapt.domains.medical.volumes import series
from vladapt.domains.medical.volumes import slices as module
from vladapt.domains.medical.volumes.slices import load_parts, part_positions

AFFINE = np.array([[1.5, 0, 0, -20], [0, 0.75, 0, 10], [0, 0, 2.5, 5], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 9)).astype(np.int16)
PLANES = ("axial", "coronal", "sagittal")


def read(path, **options):
    return Medical().read(path, "classification", unit="volume", **options)


@pytest.fixture
def classes(write_volume, tmp_path):
    """ill/ and well/ with a series of a patient, a NIfTI and an NRRD volume each."""
    root = tmp_path / "set"
    for number, label in enumerate(("ill", "well")):
        voxels, whose = VOXELS + number, {"PatientID": label, "SeriesInstanceUID": f"1.{number + 1}"}
        write_volume(root / label / "p" / "ct", voxels, AFFINE, **whose)
        write_volume(root / label / "v.nii.gz", voxels, AFFINE)
        write_volume(root / label / "w.nrrd", voxels, AFFINE)
    return root


def test_each_volume_and_each_series_is_one_item(classes, write_dicom):
    write_dicom(classes / "ill" / "p" / "ct" / "contours.dcm", Modality="RTSTRUCT")
    Image.new("L", (4, 4)).save(classes / "ill" / "picture.png")
    data = read(classes)
    assert [item.id for item in data.items] == [
        *("ill/p/ct/0-0.dcm", "ill/v.nii.gz", "ill/w.nrrd", "well/p/ct/0-0.dcm", "well/v.nii.gz", "well/w.nrrd")
    ]
    assert [item.target.index for item in data.items] == [0, 0, 0, 1, 1, 1] and not data.skipped and not data.notes
    groups = [item.group for item in data.items]
    assert groups[0].startswith("patient-") and len(set(groups)) == 6
    assert {data.load(item).shape for item in data.items} == {(9, 6, 10, 3)}
    new = Medical().read_images([classes / "ill"], unit="volume")
    assert [item.source for item in new.items] == [item.source for item in data.items[:3]]
    other_file = Medical().read_images([classes / "ill" / "p" / "ct"], unit="volume")
    assert [item.source.name for item in other_file.items] == ["0-0.dcm"]


@pytest.mark.thorough(but=("None", "minmax-axial"))
@pytest.mark.parametrize("axis", PLANES)
@pytest.mark.parametrize("window", ["0,1000", "minmax", "zscore", None])
def test_parts_are_the_slices_of_every_kind_of_file_and_orientation(write_volume, write_nifti, tmp_path, axis, window):
    decode = {"axis": axis, **({"window": window} if window else {})}
    nifti = write_volume(tmp_path / "v.nii", VOXELS, AFFINE)
    parts = load_parts(nifti, decode)
    slices = Medical().reading(axis=axis, central=1.0, window=window).formats[1]
    assert np.array_equal(parts, np.stack([slices.load(nifti, one) for one in slices.expand(nifti)]))
    for codes in ("RAS", "LPS", "ASR", "IPL"):
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
        turned = apply_orientation(VOXELS, turn), AFFINE @ inv_ornt_aff(turn, VOXELS.shape)
        for kind in ("", ".mha"):
            path = write_volume(tmp_path / f"{codes}{kind}", *turned)
            path = min(path.iterdir()) if path.is_dir() else path
            assert np.allclose(load_parts(path, decode), parts, atol=1e-5)
    itk = Medical().reading(axis=axis, central=1.0, window=window).formats[2]
    assert np.allclose([itk.load(path, one) for one in itk.expand(path)], parts, atol=1e-5)


def test_of_a_series_only_the_slices_that_are_seen_are_decoded(write_volume, tmp_path, monkeypatch):
    folder = write_volume(tmp_path / "ct", VOXELS, AFFINE, WindowCenter=40, WindowWidth=400)
    path, decoded, real = min(folder.iterdir()), [], series.measured_frame
    monkeypatch.setattr(series, "measured_frame", lambda *given: decoded.append(given[0].name) or real(*given))
    parts = load_parts(path, {"slices": 3})
    assert len(decoded) == 3
    whole = load_parts(path, {})
    assert np.array_equal(parts, whole[[1, 4, 7]])
    lung = load_parts(path, {"slices": 3, "window": "lung"})
    assert not np.allclose(lung, parts)
    assert np.array_equal(
        load_parts(path, {"slices": 2, "axis": "coronal"}), load_parts(path, {"axis": "coronal"})[[1, 4]]
    )


def test_bright_is_bright_and_presets_are_for_computed_tomography(write_volume, tmp_path):
    plain, dark, mr = (
        min(write_volume(tmp_path / name, VOXELS, AFFINE, Modality=kind, PhotometricInterpretation=shown).iterdir())
        for name, kind, shown in (("a", "CT", "MONOCHROME2"), ("b", "CT", "MONOCHROME1"), ("c", "MR", "MONOCHROME2"))
    )
    assert np.allclose(load_parts(dark, {"window": "lung"}), 1 - load_parts(plain, {"window": "lung"}))
    with pytest.raises(DataError, match=r"window 'lung' is in Hounsfield units, but this is not a CT image \(MR\)"):
        load_parts(mr, {"window": "lung"})


def test_which_slices_are_parts():
    assert part_positions(100, 1, 1.0, 4) == [12, 37, 62, 87]
    assert part_positions(100, 2, 0.2, 0) == list(range(40, 60, 2))
    assert part_positions(3, 1, 1.0, 16) == [0, 1, 2]
    assert len(set(part_positions(17, 1, 1.0, 16))) == 16


def test_options_choose_and_resample_the_slices(classes):
    def shape(**options):
        data = read(classes, **options)
        return data.load(data.items[0]).shape

    assert shape()[0] == 9 and shape(slices=4)[0] == 4 and shape(every=2)[0] == 5 and shape(central=0.34)[0] == 3
    assert shape(axis="coronal")[0] == 6
    assert shape(spacing=2.5) == (9, *shape(spacing=2.5)[1:]) and shape(spacing=5.0)[0] == 5
    with pytest.raises(DataError, match=r"at --spacing 0.001 a volume of \d+ voxels"):
        shape(spacing=0.001)
    keys = [content_key(read(classes, **o).items[0], FileHashes()) for o in ({}, {"slices": 4}, {"spacing": 2.0})]
    assert len(set(keys)) == 3


def test_a_zscore_is_that_of_monai(write_volume, tmp_path):
    from monai.transforms import NormalizeIntensity

    voxels = np.where(VOXELS > 0, 1000 + VOXELS, 0).astype(np.int16)
    path = write_volume(tmp_path / "v.nii", voxels, np.eye(4))
    normalised = np.asarray(NormalizeIntensity(nonzero=True)(voxels.astype(np.float32)[None]))[0]
    expected = normalised.transpose(2, 1, 0)[:, ::-1, ::-1]
    seen = voxels.transpose(2, 1, 0)[:, ::-1, ::-1] > 0
    parts = load_parts(path, {"window": "zscore"})[..., 0]
    assert np.allclose(parts[seen], np.clip(expected[seen] / 6 + 0.5, 0, 1), atol=1e-5)
    brighter = write_volume(tmp_path / "b.nii", (voxels * 7).astype(np.int16), np.eye(4))
    assert np.allclose(load_parts(brighter, {"window": "zscore"}), parts[..., None], atol=1e-5)


def test_a_sample_is_known_by_all_its_bytes_in_their_order(write_volume, tmp_path):
    def key(folder):
        return content_key(Medical().read_images([folder], unit="volume").items[0], FileHashes())

    folder = write_volume(tmp_path / "ct", VOXELS, AFFINE)
    first = key(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for number, file in enumerate(sorted(copy.iterdir())):
        file.rename(copy / f"IM{number}.dcm")
    assert key(copy) == first
    changed = copy / "IM4.dcm"
    data_set = pydicom.dcmread(changed)
    data_set.PixelData = bytes(len(data_set.PixelData))
    data_set.save_as(changed)
    more = write_volume(tmp_path / "more", np.concatenate([VOXELS, VOXELS[..., :1]], axis=2), AFFINE)
    reverse = write_volume(tmp_path / "reverse", VOXELS[..., ::-1].copy(), AFFINE)
    assert len({first, key(copy), key(more), key(reverse)}) == 4
    detached = write_volume(tmp_path / "v.mhd", VOXELS, AFFINE)
    before = key(detached)
    (tmp_path / "v.raw").write_bytes(bytes(VOXELS.nbytes))
    assert key(detached) != before


def test_a_manifest_names_the_folder_of_a_series_or_a_file_of_it(classes):
    def ids(*rows):
        (classes / "labels.csv").write_text("path,label\n" + "\n".join(rows))
        data = read(classes)
        return [(item.source.name, item.target.index) for item in data.items], data.notes

    last = max((classes / "ill" / "p" / "ct").iterdir()).name
    for named in ("ill/p/ct", "ill/p/ct/0-0.dcm", f"ill/p/ct/{last}"):
        assert ids(f"{named},a", "well/p/ct,b")[0] == [("0-0.dcm", 0), ("0-0.dcm", 1)]
    rows, notes = ids("ill/p/ct/0-0.dcm,a", f"ill/p/ct/{last},a", "ill/p/ct,a", "well/v.nii.gz,b")
    assert len(rows) == 2 and "Repeated rows, left out: 2." in notes


def test_a_series_that_is_not_whole_is_left_out_and_told(classes):
    next((classes / "ill" / "p" / "ct").glob("*-4.dcm")).unlink()
    (classes / "well" / "p" / "ct" / "torn.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    data = read(classes)
    assert [item.id for item in data.items][:2] == ["ill/v.nii.gz", "ill/w.nrrd"] and len(data.items) == 5
    reasons = dict(data.skipped)
    assert "a slice is missing between" in reasons["ill/p/ct/0-0.dcm"]
    assert "holds no image of a series" in reasons["well/p/ct/torn.dcm"]


def test_options_of_volumes_are_told_where_slices_are_samples(write_nifti, tmp_path):
    for label in ("a", "b"):
        write_nifti(tmp_path / label / "v.nii", VOXELS)
    notes = Medical().read(tmp_path, "classification", slices=4, spacing=2.0).notes
    assert notes == [f"Option {name} has no effect here: it is for --unit volume." for name in ("slices", "spacing")]


def test_volumes_are_read_two_at_once_at_most(write_volume, tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    path, most, now = write_volume(tmp_path / "v.nii", VOXELS, AFFINE), [0], [0]
    real = module.read_volume

    def counted(*given):
        now[0] += 1
        most[0] = max(most[0], now[0])
        try:
            return real(*given)
        finally:
            now[0] -= 1

    monkeypatch.setattr(module, "read_volume", counted)
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: load_parts(path, {}), range(12)))
    assert most[0] <= 2


def test_parts_of_unequal_size_are_taken_as_the_images_that_they_are():
    def transform(image, seed=None):
        return torch.tensor([float(image.shape[0]), image.shape[1], float(image.mean())])

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (*size, 3)).astype(np.uint8) for size in ((4, 7), (6, 5), (6, 7))]
    parts = UnequalParts.of(images)
    assert parts.shape == (3, 6, 7, 3) and parts.dtype == np.uint8
    assert torch.equal(EachPart(transform)(parts), torch.stack([transform(image) for image in images]))
    mixed = UnequalParts.of([images[0], images[1] / np.float32(255)])
    assert mixed.dtype == np.float32 and np.allclose(UnequalParts.each(mixed)[0], images[0] / 255)
    assert torch.equal(EachPart(transform)(np.asarray(parts))[:, 0], torch.full((3,), 6.0))


def test_parts_are_called_by_their_slice(classes):
    data = read(classes, slices=3)
    assert [Medical().part_names(item, 3) for item in data.items[:3]] == [[f"axial slice {n}" for n in (1, 4, 7)]] * 3
    along = read(classes, slices=2, axis="coronal")
    names = [Medical().part_names(item, 2) for item in along.items[:3]]
    assert names == [(), ["coronal slice 1", "coronal slice 4"], ["coronal slice 1", "coronal slice 4"]]
    resampled = read(classes, spacing=2.0)
    assert Medical().part_names(resampled.items[1], 11) == ()


def test_predictions_say_which_slice_decided(write_volume, tmp_path, small_clip_spec):
    for number in range(8):
        voxels = np.random.default_rng(number).integers(0, 40, (8, 8, 3)).astype(np.int16)
        voxels[2:6, 2:6, number % 3] += 200 * (number % 2)
        write_volume(tmp_path / "set" / ("well", "ill")[number % 2] / f"{number}.nii", voxels, np.eye(4))
    run = vladapt.fit(
        domain="medical",
        data={"path": tmp_path / "set", "unit": "volume"},
        adapter="mean-pool",
        shots=2,
        backbone=small_clip_spec,
        out=tmp_path / "run",
    ).run
    predicted = vladapt.predict(run, [tmp_path / "set" / "ill" / "1.nii"], explain=True, out=tmp_path / "page")
    [row] = predicted.rows()
    assert row["decided by"] in [f"axial slice {n}" for n in range(3)]
    assert "decided by" in predicted._csv()
