"""Feature files that users bring: both spellings, both formats, and one line for each way they can be wrong."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from vladapt import DataError
from vladapt.core.features.files import load_features, load_image_features

N, C, D = 6, 3, 4


def arrays(**changes) -> dict:
    rng = np.random.default_rng(0)
    made = {
        "image_features": rng.normal(size=(N, D)).astype(np.float32),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "text_features": rng.normal(size=(C, D)).astype(np.float32),
        "class_names": np.array(["cat", "dog", "cow"]),
    }
    made.update(changes)
    return {name: value for name, value in made.items() if value is not None}


def npz(folder, **changes):
    path = folder / "features.npz"
    np.savez(path, **arrays(**changes))
    return path


def safetensors(folder, **changes):
    path = folder / "features.safetensors"
    made = arrays(**changes)
    words = {k: v for k, v in made.items() if isinstance(v, np.ndarray) and v.dtype.kind == "U"}
    metadata = {k: json.dumps(v.tolist()) for k, v in words.items()}
    numbers = {k: np.ascontiguousarray(v).reshape(np.shape(v)) for k, v in made.items() if k not in words}
    save_file(numbers, path, metadata=metadata)
    return path


@pytest.fixture(params=[npz, safetensors], ids=["npz", "safetensors"])
def write(request, tmp_path):
    return lambda **changes: request.param(tmp_path, **changes)


def test_all_arrays_are_read(write):
    split = np.array(["train", "val", "test", "train", "", "test"])
    file = load_features(write(split=split, logit_scale=np.float32(30)))
    made = arrays()
    assert np.array_equal(file.features.features.numpy(), made["image_features"])
    assert file.features.labels.dtype == torch.int64 and file.features.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert file.features.class_names == file.classifier.class_names == ("cat", "dog", "cow")
    torch.testing.assert_close(
        file.classifier.weights, torch.nn.functional.normalize(torch.from_numpy(made["text_features"]), dim=-1)
    )
    assert file.split == tuple(split) and file.classifier.logit_scale == 30
    assert file.features.raw_norms


def test_what_is_optional_has_its_usual_value(write):
    file = load_features(write())
    assert (file.split, file.features.ids, file.features.backbone) == (None, None, "")
    assert file.classifier.logit_scale == 100.0
    assert [len(p) for p in file.classifier.prototypes] == [1, 1, 1]


def test_rows_may_have_no_labels(write):
    assert load_features(write(labels=None)).features.labels is None


def test_the_other_spelling_is_read(write):
    made = arrays()
    renamed = {"text_average": made["text_features"], "classnames": made["class_names"]}
    file = load_features(write(text_features=None, class_names=None, **renamed))
    assert file.classifier.class_names == ("cat", "dog", "cow")


def test_ids_and_the_backbone_of_an_embedding_are_kept(tmp_path):
    path = tmp_path / "features.safetensors"
    made = arrays(class_names=None)
    names = {"class_names": json.dumps(["a", "b", "c"]), "ids": json.dumps([f"i{i}" for i in range(N)])}
    save_file(made, path, metadata={**names, "backbone": "sha256:0123"})
    file = load_features(path)
    assert file.features.ids == ("i0", "i1", "i2", "i3", "i4", "i5") and file.features.backbone == "sha256:0123"


def test_half_precision_is_cast_and_made_unit_again_and_says_that_norms_are_gone(write):
    made = arrays()
    half = {name: made[name].astype(np.float16) for name in ("image_features", "text_features")}
    file = load_features(write(**half))
    assert file.features.features.dtype == torch.float32 and not file.features.raw_norms
    torch.testing.assert_close(file.features.features.norm(dim=-1), torch.ones(N), rtol=0, atol=1e-6)


def test_unit_rows_in_full_precision_have_no_norms_either(write):
    rows = arrays()["image_features"]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert not load_features(write(image_features=unit)).features.raw_norms


def test_text_features_may_lie_on_their_side(write):
    upright = load_features(write()).classifier.weights
    assert torch.equal(load_features(write(text_features=arrays()["text_features"].T)).classifier.weights, upright)


def test_prompts_become_prototypes_one_row_a_prompt(write):
    prompts = np.random.default_rng(1).normal(size=(5, C, D)).astype(np.float32)
    prototypes = load_features(write(text_prompts=prompts)).classifier.prototypes
    assert len(prototypes) == C and prototypes[0].shape == (5, D)
    expected = prompts[3, 2] / np.linalg.norm(prompts[3, 2])
    np.testing.assert_allclose(prototypes[2][3].numpy(), expected, rtol=1e-5)


def test_several_labels_a_row_may_be_unknown(write):
    labels = np.array([[1, 0, np.nan]] * N, dtype=np.float32)
    features = load_features(write(labels=labels)).features
    assert features.multilabel and features.labels[:, 2].isnan().all()


@given(count=st.integers(1, 5), classes=st.integers(2, 4), width=st.integers(1, 5), big_endian=st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_sizes_are_read_as_written(tmp_path_factory, count, classes, width, big_endian):
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count, width)).astype(">f8" if big_endian else np.float64)
    path = npz(
        tmp_path_factory.mktemp("f"),
        image_features=rows,
        labels=rng.integers(0, classes, count).astype(np.uint16),
        text_features=rng.normal(size=(classes, width)),
        class_names=np.array([f"class {i}" for i in range(classes)]),
    )
    file = load_features(path)
    np.testing.assert_allclose(file.features.features.numpy(), rows.astype(np.float32))
    assert file.classifier.weights.shape == (classes, width)


rows = arrays()["image_features"]
BAD = {
    "missing": ({"text_features": None}, r"lacks text_features \(it has class_names, image_features, labels\)"),
    "no names": ({"class_names": None}, "lacks class_names"),
    "flat features": ({"image_features": rows[0]}, r"image_features has shape \(4,\); \(N, D\)"),
    "no rows": ({"image_features": rows[:0], "labels": np.zeros(0, int)}, r"image_features has shape \(0, 4\)"),
    "whole features": ({"image_features": np.ones((N, D), int)}, "floating-point"),
    "too few labels": ({"labels": np.array([0, 1])}, r"labels has shape \(2,\) for 6"),
    "label outside": ({"labels": np.array([0, 1, 2, 3, 0, 1])}, r"labels\[3\] is 3; class_names allows 0 to 2"),
    "negative label": ({"labels": np.array([0, -1, 2, 0, 0, 1])}, r"labels\[1\] is -1"),
    "half label": ({"labels": np.array([0, 0.5, 2, 0, 0, 1])}, "whole numbers"),
    "label columns": ({"labels": np.zeros((N, 2), np.float32)}, "2 columns for 3"),
    "label values": ({"labels": np.full((N, C), 2, np.float32)}, "other than 0, 1 and NaN"),
    "NaN": ({"image_features": np.where(np.arange(N)[:, None] == 4, np.nan, rows).astype(np.float32)}, "row 4"),
    "text width": ({"text_features": np.ones((C, 7), np.float32)}, r"shape \(3, 7\); 3 classes .* \(3, 4\)"),
    "text NaN": ({"text_features": np.full((C, D), np.inf, np.float32)}, "text_features holds NaN or infinity"),
    "prompts": ({"text_prompts": np.ones((2, 5, D), np.float32)}, r"text_prompts has shape \(2, 5, 4\)"),
    "one class": ({"class_names": np.array(["cat"])}, "two classes"),
    "same name": ({"class_names": np.array(["cat", "dog", "cat"])}, "'cat' twice"),
    "split length": ({"split": np.array(["train"])}, "split has 1 rows for 6"),
    "split word": ({"split": np.array(["train"] * 5 + ["dev"])}, r"split\[5\] is 'dev'; give one of train, val, test"),
    "scale": ({"logit_scale": np.float32(-1)}, "logit_scale is -1"),
    "scales": ({"logit_scale": np.ones(3, np.float32)}, "logit_scale is .* give one number"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD.keys())
def test_a_wrong_array_is_one_line(write, changes, said):
    path = write(**changes)
    with pytest.raises(DataError, match=said) as caught:
        load_features(path)
    assert str(caught.value).startswith(f"{path}: ")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_pickles_are_refused_and_not_run(tmp_path):
    with pytest.raises(DataError, match="never opened"):
        load_features(npz(tmp_path, class_names=np.array([Bomb(), "dog", "cow"], dtype=object)))
    path = tmp_path / "whole.npz"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="never opened"):
        load_features(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not features", "half"], ids=["empty", "text", "truncated"])
def test_a_damaged_file_is_one_line(tmp_path, suffix, content):
    path = (npz if suffix == ".npz" else safetensors)(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(DataError) as caught:
        load_features(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_single_array_is_no_feature_file(tmp_path):
    path = tmp_path / "one.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(DataError, match=r"numpy\.savez"):
        load_features(path)


def test_no_such_file_and_an_unknown_suffix(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_features(tmp_path / "nothing.npz")
    (tmp_path / "features.pt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"'\.pt' is not a format"):
        load_features(tmp_path / "features.pt")


@pytest.mark.parametrize(("name", "accuracy"), [("RN50", 71.54), ("ViTB32", 81.29)])
def test_real_clip_features_give_the_published_zero_shot_accuracy(data_dir, name, accuracy):
    file = load_features(data_dir / "features" / "whurs19_clip" / f"whurs19_CLIP_{name}.npz")
    right = file.classifier.logits(file.features.unit).argmax(dim=-1) == file.features.labels
    assert round(100 * right.float().mean().item(), 2) == accuracy
    assert not file.features.raw_norms and len(file.classifier) == 19


def test_images_alone_need_their_ids_and_no_classes(tmp_path):
    alone = {"labels": None, "text_features": None, "class_names": None}
    ids = np.array([f"{i}.png" for i in range(N)])
    rows, names, backbone = load_image_features(npz(tmp_path, **alone, ids=ids, backbone=np.array("abc")))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(N))
    assert names == tuple(ids) and backbone == "abc"
    with pytest.raises(DataError, match="lacks ids"):
        load_image_features(npz(tmp_path, **alone))


def with_parts(**changes) -> dict:
    """Arrays of N samples of up to three parts, the first of which has one."""
    rng = np.random.default_rng(2)
    parts = rng.normal(size=(N, 3, D)).astype(np.float32)
    mask = np.ones((N, 3), dtype=bool)
    mask[0, 1:] = False
    mean = np.stack([rows[there].mean(axis=0) for rows, there in zip(parts, mask)])
    return {"image_features": mean, "image_parts": parts, "parts_mask": mask, **changes}


def test_parts_are_read_with_their_mask_and_the_features_are_their_mean(write):
    made = with_parts()
    for held in (made, {**made, "image_features": None}):
        features = load_features(write(**held)).features
        assert np.array_equal(features.parts[1:].numpy(), made["image_parts"][1:])
        assert torch.equal(features.parts_mask, torch.from_numpy(made["parts_mask"]))
        assert features.parts[0, 1:].eq(0).all()
        np.testing.assert_allclose(features.features.numpy(), made["image_features"], rtol=1e-5, atol=1e-6)
        assert features.raw_norms


def test_without_a_mask_all_parts_are_there_and_without_parts_there_are_none(write):
    parts = with_parts()["image_parts"]
    features = load_features(write(image_features=None, image_parts=parts)).features
    assert features.parts_mask.all()
    np.testing.assert_allclose(features.features.numpy(), parts.mean(axis=1), rtol=1e-5, atol=1e-6)
    assert load_features(write()).features.parts is None


def test_a_mask_may_be_of_zeros_and_ones_and_hide_what_is_not_finite(write):
    made = with_parts()
    parts = np.where(made["parts_mask"][..., None], made["image_parts"], np.nan).astype(np.float32)
    made.update(image_parts=parts, parts_mask=made["parts_mask"].astype(int))
    features = load_features(write(**made)).features
    assert features.parts.isfinite().all() and features.parts_mask.sum() == made["parts_mask"].sum()


def test_half_precision_parts_of_unit_length_are_made_unit_again(write):
    made = with_parts()
    unit = made["image_parts"] / np.linalg.norm(made["image_parts"], axis=-1, keepdims=True)
    half = {"image_features": None, "image_parts": unit.astype(np.float16), "parts_mask": made["parts_mask"]}
    features = load_features(write(**half)).features
    there = features.parts[features.parts_mask]
    torch.testing.assert_close(there.norm(dim=-1), torch.ones(len(there)), rtol=0, atol=1e-6)
    assert not features.raw_norms and not load_features(write(**{**half, "image_parts": unit})).features.raw_norms
    raw = load_features(write(**{**half, "image_parts": made["image_parts"].astype(np.float16)})).features
    np.testing.assert_allclose(raw.features.numpy(), made["image_features"], atol=2e-3)
    assert not raw.raw_norms


def test_normalised_features_may_stand_beside_raw_parts(write):
    made = with_parts()
    unit = made["image_features"] / np.linalg.norm(made["image_features"], axis=-1, keepdims=True)
    features = load_features(write(**{**made, "image_features": unit})).features
    np.testing.assert_allclose(features.features.numpy(), made["image_features"], rtol=1e-5, atol=1e-6)


def test_images_alone_may_be_given_by_their_parts(tmp_path):
    alone = {"labels": None, "text_features": None, "class_names": None, "image_features": None}
    made = with_parts()
    ids = np.array([f"{i}.mp4" for i in range(N)])
    rows, _, _ = load_image_features(
        npz(tmp_path, **alone, image_parts=made["image_parts"], parts_mask=made["parts_mask"], ids=ids)
    )
    mean = torch.from_numpy(made["image_features"])
    torch.testing.assert_close(rows, torch.nn.functional.normalize(mean, dim=-1))


parts_of = with_parts()
BAD_PARTS = {
    "flat": ({"image_parts": parts_of["image_features"]}, r"image_parts has shape \(6, 4\).*\(N, T, D\)"),
    "whole numbers": ({"image_parts": np.ones((N, 3, D), int)}, "floating-point"),
    "mask shape": ({"parts_mask": np.ones((N, 2), bool)}, r"parts_mask has shape \(6, 2\); \(6, 3\)"),
    "mask values": ({"parts_mask": np.full((N, 3), 2)}, "true and false"),
    "no part": ({"parts_mask": np.arange(N)[:, None] != np.full((1, 3), 4)}, "leaves row 4 without a part"),
    "NaN": ({"image_parts": np.where(np.arange(N)[:, None, None] == 2, np.nan, parts_of["image_parts"])}, "row 2"),
    "not the mean": ({"image_features": rows}, "not the mean of image_parts in row 0; omit image_features"),
    "another width": ({"image_features": np.ones((N, 7), np.float32)}, r"has shape \(6, 7\), image_parts \(6, 3, 4\)"),
    "mask alone": ({"image_parts": None}, "parts_mask without image_parts"),
}


@pytest.mark.parametrize(("changes", "said"), BAD_PARTS.values(), ids=BAD_PARTS.keys())
def test_wrong_parts_are_one_line(write, changes, said):
    path = write(**with_parts(**changes))
    with pytest.raises(DataError, match=said) as caught:
        load_features(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_groups_are_read_by_their_usual_names(write):
    patients = np.array(["ann", "ann", "bob", "", "nan", "bob"])
    groups = load_features(write(groups=patients)).features.groups
    assert groups[0] == groups[1] != groups[2] == groups[5] and len(set(groups)) == 4 and "ann" not in groups
    numbered = load_features(write(MRN=np.array([7, 7, 8, 8, 9, 9]))).features.groups
    assert numbered[0] == numbered[1] != numbered[2] and len(set(numbered)) == 3
    assert load_features(write(video=np.zeros((N, 2, 3), np.float32))).features.groups is None
    assert load_features(write()).features.groups is None


def test_an_id_that_two_rows_have_is_refused(write):
    path = write(ids=np.array(["a", "b", "c", "b", "d", "b"]))
    for load in (load_features, load_image_features):
        with pytest.raises(DataError, match="ids holds 'b' 3 times; give each row an id of its own"):
            load(path)


def test_further_arrays_are_columns(write):
    sites = np.array(["north", "south"] * (N // 2))
    file = load_features(write(site=sites, age=np.arange(N, dtype="f4"), pairs=np.zeros((N, 2), "f4")))
    assert list(file.columns["site"]) == sites.tolist() and file.columns["age"].tolist() == list(range(N))
    assert set(file.columns) == {"labels", "site", "age"}


def test_metadata_that_are_no_columns_do_no_harm(tmp_path):
    made = arrays()
    words = {
        "class_names": made.pop("class_names").tolist(),
        "notes": [["a"], ["b", "c"]],
        "sex": ["F"] * N,
        "few": ["x"],
    }
    path = tmp_path / "features.safetensors"
    save_file(made, path, metadata={**{key: json.dumps(value) for key, value in words.items()}, "broken": "[1, 2"})
    assert set(load_features(path).columns) == {"labels", "sex"}
