"""Sets of volumes with outlined structures: every layout gives the same, and what does not fit is told in one line."""

from __future__ import annotations

import json
import re

import nibabel
import numpy as np
import pytest

from vladapt import load_domain
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.medical.volumes import Slabs, files_of, new_volumes, read_volume

TASK = "volume-segmentation"
AFFINE = np.diag([1.5, 1.0, 2.0, 1.0])


def write(path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(voxels), affine), path)
    return path


def voxels(number):
    return np.random.default_rng(number).integers(0, 100, (5, 6, 4)).astype(np.int16)


def labels(number, most=2):
    made = np.random.default_rng(100 + number).integers(0, most + 1, (5, 6, 4)).astype(np.uint8)
    made[0, 0, : most + 1] = np.arange(most + 1)
    return made


def decathlon(folder, count=3, names=("liver", "tumour"), channels=1):
    listed = []
    for number in range(count):
        image = voxels(number) if channels == 1 else np.stack([voxels(number + 50 * c) for c in range(channels)], -1)
        write(folder / f"imagesTr/case_{number}.nii.gz", image)
        write(folder / f"labelsTr/case_{number}.nii.gz", labels(number, len(names)))
        listed.append({"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"})
    content = {
        "modality": {str(c): "CT" for c in range(channels)},
        "labels": {"0": "background", **{str(n): name for n, name in enumerate(names, 1)}},
        "training": listed,
        "test": ["./imagesTs/other.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def nnunet(folder, count=3, channels=2, named=None, **further):
    for number in range(count):
        for channel in range(channels):
            write(folder / f"imagesTr/case_{number}_{channel:04d}.nii.gz", voxels(number + 50 * channel))
        write(folder / f"labelsTr/case_{number}.nii.gz", labels(number))
    content = {
        "channel_names": {str(c): f"T{c}" for c in range(channels)},
        "labels": named or {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": count,
        "file_ending": ".nii.gz",
        **further,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def read(path, **options):
    return load_domain("medical").read(path, TASK, **options)


def refused(path, *words, kind=DataError, **options):
    with pytest.raises(kind) as error:
        read(path, **options)
    told = str(error.value)
    assert "\n" not in told and all(word in told for word in words), told


def test_the_decathlon_and_nnunet_give_the_same_channels_and_structures(tmp_path):
    one, other = read(decathlon(tmp_path / "msd", channels=2)), read(nnunet(tmp_path / "nnunet"))
    assert one.class_names == other.class_names == ("liver", "tumour")
    assert [item.id for item in one.items] == [item.id for item in other.items] == ["case_0", "case_1", "case_2"]
    for a, b in zip(one.items, other.items):
        first, second = Slabs(files_of(a)), Slabs(files_of(b))
        assert first.shape == second.shape == (2, 4, 6, 5) and first.spacing == second.spacing == (2.0, 1.0, 1.5)
        assert np.array_equal(first.read(0, 4), second.read(0, 4))
        assert a.target.labels == (1.0, 1.0) and a.target.values == ((1,), (2,)) and not a.target.order
    assert one.items[0].target.modalities == ("CT", "CT") and other.items[0].target.modalities == ("T0", "T1")


def test_images_beside_labels_are_named_by_an_option(tmp_path):
    for number in range(2):
        write(tmp_path / f"images/{number}.nii.gz", voxels(number))
        write(tmp_path / f"labels/{number}.nii.gz", labels(number))
    assert read(tmp_path).class_names == ("label 1", "label 2")
    assert read(tmp_path, class_names="front,back").class_names == ("front", "back")
    refused(tmp_path, "class_names", "1, 2", kind=ConfigError, class_names="front")


def test_regions_overlap_and_have_an_order(tmp_path):
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    data = read(nnunet(tmp_path / "a", named=regions, regions_class_order=[1, 2]))
    assert data.items[0].target.values == ((1, 2), (2,)) and data.items[0].target.order == (1, 2)
    refused(nnunet(tmp_path / "b", named=regions), "regions_class_order")


def test_volumes_of_several_sets_are_labelled_for_their_own_structures(tmp_path):
    decathlon(tmp_path / "Task01", names=("liver", "tumour"))
    decathlon(tmp_path / "Task02", names=("spleen", "liver"))
    data = read(tmp_path)
    assert data.class_names == ("liver", "tumour", "spleen") and len(data.items) == 6
    first, last = data.items[0].target, data.items[-1].target
    assert first.annotated == (0, 1) and last.annotated == (0, 2)
    assert first.values == ((1,), (2,), ()) and last.values == ((2,), (), (1,))
    assert last.restricted({2: 0, 0: 1}).values == ((1,), (2,)) and last.restricted({1: 0}) is None


def test_folds_say_what_is_held_out(tmp_path):
    folder = nnunet(tmp_path / "set")
    folds = [{"train": ["case_0", "case_1"], "val": ["case_2"]}, {"train": ["case_1", "case_2"], "val": ["case_0"]}]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    assert [item.split for item in read(folder).items] == ["train", "train", "test"]
    assert [item.split for item in read(folder, fold=1).items] == ["test", "train", "train"]
    refused(folder, "2 folds", kind=ConfigError, fold=2)
    folds[0]["val"].append("case_1")
    (folder / "splits_final.json").write_text(json.dumps(folds))
    refused(folder, "splits_final.json", "case_1", "train and in val")
    folds[0]["val"] = ["case_7"]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    refused(folder, "case_7", "no case")


def test_a_patient_in_two_splits_is_refused(tmp_path):
    folder = decathlon(tmp_path / "set", count=1)
    listed = []
    for number, patient in enumerate(("anna", "anna", "bela")):
        for kind, made in (("image", voxels), ("label", labels)):
            write(folder / f"{kind}s/{patient}_{number}.nii.gz", made(number))
        listed.append({kind: f"{kind}s/{patient}_{number}.nii.gz" for kind in ("image", "label")})
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "training": listed}))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["anna_0", "bela_2"], "val": ["anna_1"]}]))
    assert len(read(folder).items) == 3
    refused(folder, "anna_0", "anna_1", "of one patient", group_column="stem:^([a-z]+)_")


@pytest.mark.parametrize(("moved", "fits"), [(5e-4, True), (2e-3, False)])
def test_geometry_is_compared_to_a_thousandth_of_a_millimetre(tmp_path, moved, fits):
    folder = decathlon(tmp_path / "set", count=2)
    affine = AFFINE.copy()
    affine[0, 3] += moved
    write(folder / "labelsTr/case_1.nii.gz", labels(1), affine)
    if fits:
        assert len(read(folder).items) == 2
    else:
        refused(folder, "labelsTr/case_1.nii.gz", "origin", "0.0020", "0.0000", "resample")


def test_a_label_that_the_set_does_not_name_is_refused(tmp_path):
    folder = decathlon(tmp_path / "set", count=2)
    strange = labels(1)
    strange[1, 1, 1] = 9
    write(folder / "labelsTr/case_1.nii.gz", strange)
    refused(folder, "case_1.nii.gz", "label 9", "voxels: 1", "0, 1, 2")
    write(folder / "labelsTr/case_1.nii.gz", labels(1) + 0.5)
    refused(folder, "case_1.nii.gz", "between whole numbers")


def test_what_is_missing_is_named(tmp_path):
    folder = nnunet(tmp_path / "a")
    (folder / "imagesTr/case_1_0001.nii.gz").unlink()
    (folder / "imagesTr/case_2_0001.nii.gz").unlink()
    refused(folder, "case_1_0000.nii.gz", "1 channel", "names 2")
    folder = nnunet(tmp_path / "b")
    (folder / "labelsTr/case_1.nii.gz").unlink()
    refused(folder, "labelsTr/case_1.nii.gz", "not there")
    folder = decathlon(tmp_path / "c")
    (folder / "imagesTr/case_1.nii.gz").unlink()
    refused(folder, "imagesTr/case_1.nii.gz", "not there")
    content = json.loads((folder / "dataset.json").read_text())
    content["training"][1]["image"] = "../../elsewhere.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(content))
    refused(folder, "leaves the folder")
    refused(tmp_path / "d", "no such file or folder")
    refused(folder, "every", kind=ConfigError, every=3)


def test_slabs_are_the_volume_in_any_orientation(tmp_path):
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation

    for codes in ("RAS", "LPI", "SAR", "PIR"):
        turned = inv_ornt_aff(axcodes2ornt(tuple(codes)), (5, 6, 4)) @ np.diag([1.5, 1, 2, 1])
        volume = Slabs([write(tmp_path / f"{codes}.nii", voxels(1), turned)])
        whole = apply_orientation(voxels(1), io_orientation(turned)).transpose(2, 1, 0)
        assert volume.shape[1:] == whole.shape
        slabs = [volume.read(start, start + 1) for start in range(volume.shape[1])]
        assert np.array_equal(np.concatenate(slabs, axis=1)[0], whole)
        assert np.array_equal(volume.as_stored(whole), voxels(1))
        assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0)[::-1], volume.spacing)


def test_other_kinds_of_files_give_the_same_slabs(write_volume, tmp_path):
    affine = np.diag([-1.5, 1, 2, 1.0])
    stored = voxels(2)
    volumes = [Slabs([write_volume(tmp_path / f"a{kind}", stored, affine)]) for kind in (".nii", ".mha", ".nrrd")]
    for volume in volumes[1:]:
        assert volume.shape == volumes[0].shape and np.allclose(volume.affine, volumes[0].affine)
        assert np.array_equal(volume.read(1, 3), volumes[0].read(1, 3))
    assert np.array_equal(volumes[0].as_stored(volumes[0].read(0, 4)[0]), read_volume(tmp_path / "a.mha")[0])


def test_new_volumes_are_files_and_channels_of_one_volume(tmp_path):
    for channel in range(2):
        write(tmp_path / f"new/one_{channel:04d}.nii.gz", voxels(channel))
    single = write(tmp_path / "two.nii.gz", voxels(3))
    data = new_volumes([tmp_path / "new", single])
    assert [len(files_of(item)) for item in data.items] == [2, 1] and all(item.target is None for item in data.items)
    assert data.load(data.items[0]).shape[0] == 4
    write(tmp_path / "new/one_0001.nii.gz", voxels(1)[:4])
    assert re.search(r"size", new_volumes([tmp_path / "new", single]).skipped[0][1])
    with pytest.raises(DataError, match="nothing"):
        new_volumes([tmp_path / "nothing.nii.gz"])
