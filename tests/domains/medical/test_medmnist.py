"""MedMNIST .npz files: splits, labels, volumes, depth, large arrays, bad files."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.verify import content_key
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.medical import Medical, npz_rows
from vladapt.domains.medical.medmnist import read_medmnist


def arrays(counts=(6, 3, 4), shape=(8, 8), classes=2, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    for split, count in zip(("train", "val", "test"), counts):
        top = 2 if dtype is bool else min(256, np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1
        values = rng.random((count, *shape)) if top == 1 else rng.integers(0, top, (count, *shape))
        found[f"{split}_images"] = values.astype(dtype)
        found[f"{split}_labels"] = (np.arange(count) % classes)[:, None].astype(np.uint8)
    return found


@pytest.fixture
def save(tmp_path):
    def write(name="set.npz", **values):
        np.savez_compressed(tmp_path / name, **values)
        return tmp_path / name

    return write


def test_splits_labels_and_pixels_are_those_of_the_file(save):
    given = arrays(shape=(8, 8, 3))
    data = Medical().read(save(**given), "classification")
    assert [item.split for item in data.items] == ["train"] * 6 + ["val"] * 3 + ["test"] * 4
    assert [item.target.index for item in data.split("train")] == [0, 1, 0, 1, 0, 1]
    assert len({item.id for item in data.items}) == 13
    assert np.array_equal(data.load(data.split("test")[2]), given["test_images"][2])
    assert data.class_names == ("class 0", "class 1")


def test_grey_images_get_three_channels(save):
    given = arrays()
    data = read_medmnist(save(**given))
    assert np.array_equal(data.load(data.items[0]), np.repeat(given["train_images"][0][..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["bloodmnist.npz", "bloodmnist_64.npz"])
def test_class_names_and_prompts_follow_from_the_name(save, name):
    domain = Medical()
    data = domain.read(save(name, **arrays(classes=3)), "classification")
    assert data.class_names[:3] == ("basophil", "eosinophil", "erythroblast") and len(data.class_names) == 8
    assert "blood smear" in domain.of(data).templates("classification")[0]
    assert "histo" in first_template(save(name, **arrays(classes=3)), "histology")


def first_template(path, modality):
    domain = Medical()
    return domain.of(domain.read(path, "classification", modality=modality)).templates("classification")[0]


def test_one_domain_reads_several_sets_and_each_keeps_its_modality(save):
    domain = Medical()
    blood = domain.read(save("bloodmnist.npz", **arrays(classes=3)), "classification")
    organs = domain.read(save("organamnist.npz", **arrays(classes=3)), "classification")
    sets = [blood, organs, domain.sample(), domain.read(save(**arrays()), "classification")]
    modalities = [domain.of(data).modality for data in sets]
    assert modalities == ["haematology", "radiology", "microscopy", "general"] and domain.modality == "general"


def test_class_names_can_be_given(save):
    path = save(**arrays())
    assert Medical().read(path, "classification", class_names="sound, ill").class_names == ("sound", "ill")
    with pytest.raises(ConfigError, match="1 names for the 2 classes"):
        Medical().read(path, "classification", class_names=["one"])


def test_several_label_columns_are_several_labels(save):
    given = arrays(counts=(5, 2, 3))
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        given[f"{split}_labels"] = np.eye(14, dtype=np.uint8)[np.arange(count)] | np.eye(14, dtype=np.uint8)[3]
    data = Medical().read(save("chestmnist.npz", **given), "classification")
    assert data.kind == "multilabel" and data.class_names[6] == "pneumonia"
    first = data.items[0].target.values
    assert first[0] == first[3] == 1 and sum(first) == 2


def test_volumes_give_a_slice_along_an_axis(save):
    given = arrays(shape=(4, 6, 8))
    path = save("organmnist3d.npz", **given)
    volume = given["train_images"][0]

    def shown(**options):
        data = Medical().read(path, "classification", **options)
        return data.load(data.items[0])[..., 0]

    assert np.array_equal(shown(), volume[2])
    assert np.array_equal(shown(axis="coronal"), volume[:, 3])
    assert np.array_equal(shown(axis="sagittal", slice=1), volume[:, :, 1])
    with pytest.raises(ConfigError, match="slices 0 to 3 along its axial axis"):
        shown(slice=4)
    with pytest.raises(ConfigError, match="holds images, not volumes"):
        Medical().read(save("flat.npz", **arrays()), "classification", slice=1)


@pytest.mark.parametrize(("dtype", "full"), [(np.uint16, 65535), (bool, 1), (np.float32, 1)])
def test_deeper_values_come_as_floats_in_0_to_1(save, dtype, full):
    given = arrays(dtype=dtype)
    data = read_medmnist(save(**given))
    image = data.load(data.items[0])
    assert image.dtype == np.float32
    assert np.allclose(image[..., 0], given["train_images"][0].astype(float) / full, atol=1e-6)


def test_a_row_is_known_by_its_own_bytes(save, tmp_path):
    given = arrays()
    given["train_images"][1] = given["train_images"][0]
    data = read_medmnist(save(**given))
    digests = [item.decode["digest"] for item in data.items]
    assert digests[0] == digests[1] and len(set(digests)) == len(digests) - 1
    hashes = FileHashes(tmp_path / "hashes")
    assert content_key(data.items[0], hashes) != content_key(data.items[2], hashes)
    assert not (tmp_path / "hashes").exists()  # the file itself was not hashed


def test_large_arrays_are_memory_mapped_and_show_the_same(save, monkeypatch):
    given = arrays()
    path = save(**given)
    monkeypatch.setattr(npz_rows, "SMALL_BYTES", 10)
    data = read_medmnist(path)
    assert isinstance(npz_rows._opened(path, "train_images"), np.memmap)
    assert np.array_equal(data.load(data.items[3])[..., 0], given["train_images"][3])


def test_an_unpacked_array_is_found_by_its_content(save, put_in_place, tmp_path, monkeypatch):
    monkeypatch.setattr(npz_rows, "SMALL_BYTES", 10)
    monkeypatch.setattr(np, "savez_compressed", np.savez)  # all of one size
    path, stranger, shown = save(**arrays()), save("other.npz", **arrays(seed=1)), arrays(seed=1)["train_images"]
    read_medmnist(path)
    put_in_place(stranger, path)
    data = read_medmnist(path)
    assert np.array_equal(data.load(data.items[3])[..., 0], shown[3])
    unpacked = sorted((tmp_path / "vladapt-cache" / "arrays").iterdir())
    os.utime(path, (0, 0))
    assert np.array_equal(npz_rows.array_row(path, "train_images", 2), shown[2])
    assert sorted((tmp_path / "vladapt-cache" / "arrays").iterdir()) == unpacked


def test_an_array_is_unpacked_once_for_all_its_rows(save, monkeypatch):
    data = read_medmnist(save(**arrays()))
    read, calls = npz_rows.read_array, []
    monkeypatch.setattr(npz_rows, "read_array", lambda *a: calls.append(a) or read(*a))
    for item in data.split("train"):
        data.load(item)
    assert len(calls) == 1


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


def test_pickles_are_refused_and_never_run(tmp_path):
    objects = np.array([Bomb()], dtype=object)
    one = np.zeros((1, 1), dtype=np.uint8)
    np.savez(tmp_path / "objects.npz", **{**arrays(), "train_images": objects, "train_labels": one})
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps([Bomb()]))
    for name in ("objects.npz", "pickle.npz"):
        with pytest.raises(DataError, match=name):
            Medical().read(tmp_path / name, "classification")
    np.savez(tmp_path / "labels.npz", **{**arrays(), "train_labels": np.array([Bomb()] * 6, dtype=object)})
    with pytest.raises(DataError, match="pickled objects, which are never opened"):
        Medical().read(tmp_path / "labels.npz", "classification")


def test_bad_files_get_one_line(save, tmp_path):
    given = arrays()
    bad = {
        "not a MedMNIST file": save("a.npz", features=np.zeros(3)),
        "6 train_images but 5 train_labels": save("b.npz", **{**given, "train_labels": given["train_labels"][:5]}),
        "whole numbers from 0": save("c.npz", **{**given, "train_labels": np.full((6, 1), 0.5)}),
        "class with images": save("d.npz", **{**given, **{f"{s}_labels": given[f"{s}_labels"] * 0 for s in SPLITS}}),
        "has shape": save("e.npz", **{**given, "train_images": np.zeros((6, 4), np.uint8)}),
    }
    whole = save("f.npz", **given).read_bytes()
    (tmp_path / "f.npz").write_bytes(whole[:300])
    bad["not a readable .npz"] = tmp_path / "f.npz"
    for reason, path in bad.items():
        with pytest.raises(DataError, match=reason) as caught:
            Medical().read(path, "classification")
        assert path.name in str(caught.value)


SPLITS = ("train", "val", "test")


def test_a_folder_with_one_file_is_that_file(save, tmp_path):
    save(**arrays())
    assert len(Medical().read(tmp_path, "classification").items) == 13


def test_rows_can_be_predicted_without_their_labels(save, tmp_path):
    from PIL import Image

    path = save(**arrays())
    Image.new("RGB", (4, 4), "red").save(tmp_path / "one.png")
    data = Medical().read_images([path, tmp_path / "one.png"])
    assert len(data.items) == 14 and all(item.target is None and not item.split for item in data.items)
    assert data.load(data.items[0]).shape == (8, 8, 3) and data.load(data.items[-1]).shape == (4, 4, 3)
