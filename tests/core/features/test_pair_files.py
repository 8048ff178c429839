"""Files of stored image-text pairs: what is read of them, and what is refused in one line."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vladapt.core.errors import DataError
from vladapt.core.features.pair_files import load_pairs


def arrays(images=4, per_image=2, width=6, seed=0):
    drawn = np.random.default_rng(seed)
    texts = images * per_image
    return {
        "image_features": drawn.normal(size=(images, width)).astype(np.float32),
        "text_features": drawn.normal(size=(texts, width)).astype(np.float32),
        "image_of_text": np.arange(texts) % images,
    }


def written(folder, **changes):
    held = {name: value for name, value in {**arrays(), **changes}.items() if value is not None}
    np.savez(folder / "pairs.npz", **held)
    return folder / "pairs.npz"


def test_both_sides_are_brought_to_unit_length_and_names_are_made(tmp_path):
    held = arrays()
    pairs = load_pairs(written(tmp_path))
    assert torch.allclose(pairs.images.norm(dim=1), torch.ones(4)) and torch.allclose(
        pairs.texts.norm(dim=1), torch.ones(8)
    )
    expected = held["image_features"] / np.linalg.norm(held["image_features"], axis=1, keepdims=True)
    assert np.allclose(pairs.images.numpy(), expected, atol=1e-6)
    assert pairs.captions_of()[1] == ("text 1", "text 5") and pairs.ids[3] == "image 3"
    assert (pairs.logit_scale, pairs.name, pairs.split, pairs.groups) == (100.0, "pairs", None, None)


def test_what_a_file_says_is_taken(tmp_path):
    said = {
        "captions": np.array([f"words {row}" for row in range(8)]),
        "ids": np.array(["a", "b", "c", "d"]),
        "split": np.array(["train", "train", "test", ""]),
        "patient": np.array(["p", "p", "q", "r"]),
        "logit_scale": np.float32(20),
        "backbone": np.array("an encoder"),
    }
    pairs = load_pairs(written(tmp_path, **said))
    assert (pairs.ids, pairs.split) == (("a", "b", "c", "d"), ("train", "train", "test", ""))
    first, second, third, fourth = pairs.groups
    assert first == second and len({first, third, fourth}) == 3 and pairs.captions[7] == "words 7"
    assert (pairs.logit_scale, pairs.fingerprint) == (20.0, "an encoder")


def test_safetensors_hold_words_in_their_header(tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in arrays(per_image=1).items() if name != "image_of_text"}
    words = {"captions": json.dumps(["one", "two", "three", "four"])}
    save_file(tensors, tmp_path / "pairs.safetensors", metadata=words)
    pairs = load_pairs(tmp_path / "pairs.safetensors")
    assert pairs.image_of_text.tolist() == [0, 1, 2, 3], "text i is of image i where nothing says otherwise"
    assert pairs.captions == ("one", "two", "three", "four")


def test_an_unnamed_encoder_is_known_by_its_numbers(tmp_path):
    first = load_pairs(written(tmp_path)).fingerprint
    assert load_pairs(written(tmp_path)).fingerprint == first
    assert load_pairs(written(tmp_path, image_features=arrays(seed=1)["image_features"])).fingerprint != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_of_text": None}, "has 8 text features for 4 images and no image_of_text"),
        ({"image_of_text": np.arange(7)}, r"image_of_text has shape \(7,\) for 8 text features"),
        ({"image_of_text": np.arange(8)}, r"image_of_text\[4\] is 4; the file has images 0 to 3"),
        ({"image_of_text": -np.ones(8, int)}, r"image_of_text\[0\] is -1"),
        ({"image_of_text": np.arange(8) % 3}, "image 3 has no text"),
        ({"image_of_text": np.arange(8) / 2}, "image_of_text holds .*float64 values; whole numbers"),
        ({"text_features": np.ones((8, 5), np.float32)}, "image_features are 6 wide, text_features 5"),
        ({"text_features": None}, "lacks text_features"),
        ({"text_features": np.full((8, 6), np.nan, np.float32)}, "NaN or infinity in row 0"),
        ({"captions": np.array(["a"])}, "captions has 1 rows for 8 text features"),
        ({"captions": np.array(["same"] * 8)}, "captions 0 and 1 are both 'same' and have different features"),
        ({"ids": np.array(["a"] * 4)}, "ids holds 'a' 4 times"),
        ({"split": np.array(["learn"] * 4)}, r"split\[0\] is 'learn'"),
        ({"logit_scale": np.float32(-1)}, "logit_scale is -1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as refused:
        load_pairs(written(tmp_path, **changes))
    assert "pairs.npz" in str(refused.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_pairs(tmp_path / "none.npz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pairs")


@settings(max_examples=8, deadline=None)
@given(images=st.integers(1, 6), per_image=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_text_is_of_its_own_image(folder, images, per_image, seed):
    held = arrays(images, per_image, seed=seed)
    np.savez(folder / "pairs.npz", **held)
    pairs = load_pairs(folder / "pairs.npz")
    of_images = pairs.captions_of()
    assert sum(map(len, of_images)) == images * per_image
    for text, image in enumerate(held["image_of_text"].tolist()):
        assert f"text {text}" in of_images[image]
