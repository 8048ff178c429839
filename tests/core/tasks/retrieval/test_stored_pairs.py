"""Retrieval on stored features of pairs: fitted, evaluated and compared without images."""

import json

import numpy as np
import pytest

from vladapt import compare, evaluate, fit, predict
from vladapt.core.errors import CapabilityError, ConfigError, VladaptError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.tasks.retrieval.fitting import read_stored_pairs

IMAGES, WIDTH, PER_IMAGE = 60, 12, 2


def pairs(seed=0):
    """Sixty images of thirty scenes with two texts each; texts are images turned by one rotation, with some noise."""
    drawn, turn = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(WIDTH, WIDTH))
    images = drawn.normal(size=(IMAGES, WIDTH))
    texts = np.repeat(images @ (0.5 * np.eye(WIDTH) + 0.5 * np.linalg.qr(turn)[0]), PER_IMAGE, axis=0)
    return {
        "image_features": images.astype(np.float32),
        "text_features": (texts + 0.2 * drawn.normal(size=texts.shape)).astype(np.float32),
        "image_of_text": np.repeat(np.arange(IMAGES), PER_IMAGE),
        "captions": np.array([f"{seed} text {row}" for row in range(IMAGES * PER_IMAGE)]),
        "groups": np.array([f"scene {row // 2}" for row in range(IMAGES)]),
        "backbone": np.array("one encoder"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("stored")
    np.savez(made / "pairs.npz", **pairs())
    np.savez(made / "others.npz", **pairs(seed=1), split=np.array(["test"] * IMAGES))
    np.savez(made / "foreign.npz", **{**pairs(), "backbone": np.array("another encoder")})
    return made


@pytest.fixture(scope="module")
def fitted(folder):
    options = {"epochs": 20, "lr": 3e-4, "batch_size": 32}
    return fit(task="retrieval", features=str(folder / "pairs.npz"), adapter=options, out=str(folder / "runs"))


def test_a_projection_learns_and_both_are_scored(fitted):
    run = json.loads((fitted.run / "run.json").read_text(encoding="utf-8"))
    assert (run["adapter"], run["task"], run["domain"]) == ("pair-projection", "retrieval", None)
    metrics = fitted.metrics
    assert metrics["adapted"]["text_to_image/r1"] > metrics["zero_shot"]["text_to_image/r1"]
    assert metrics["test_texts"] == PER_IMAGE * metrics["test_images"], "an image brings all its texts"
    assert metrics["mcnemar"]["text_to_image"]["gained"] > 0 and metrics["test_groups"] == metrics["test_images"] // 2


def test_zero_shot_is_the_products_of_what_is_stored(fitted, folder):
    data = read_stored_pairs(str(folder / "pairs.npz"), split_seed=0).pairs.split("test")
    held = pairs()
    rows = [int(pair.id.removeprefix("image ")) for pair in data]
    columns = np.flatnonzero(np.isin(held["image_of_text"], rows))
    unit = {side: held[side] / np.linalg.norm(held[side], axis=1, keepdims=True) for side in held if "feat" in side}
    best = (unit["text_features"][columns] @ unit["image_features"][rows].T).argmax(axis=1)
    share = float(np.mean(np.array(rows)[best] == held["image_of_text"][columns]))
    assert fitted.metrics["zero_shot"]["text_to_image/r1"] == pytest.approx(share)


def test_a_scene_is_on_one_side(folder):
    for seed in range(3):
        data = read_stored_pairs(str(folder / "pairs.npz"), split_seed=seed).pairs
        splits = {}
        for pair in data:
            splits.setdefault(pair.group, set()).add(pair.split)
        assert all(len(of_scene) == 1 for of_scene in splits.values()) and len(splits) == IMAGES // 2
    other = read_stored_pairs(str(folder / "pairs.npz"), split_seed=7).pairs
    assert [pair.split for pair in other] != [pair.split for pair in data], "another seed divides in another way"


def test_equal_rows_are_on_one_side(tmp_path):
    held = pairs()
    held.pop("groups")
    held["image_features"][30:] = held["image_features"][:30]
    np.savez(tmp_path / "twins.npz", **held)
    split_of = {pair.id: pair.split for pair in read_stored_pairs(str(tmp_path / "twins.npz"), split_seed=0).pairs}
    assert all(split_of[f"image {row}"] == split_of[f"image {row + 30}"] for row in range(30))


def test_a_run_is_scored_on_its_own_pairs_and_on_others_of_its_encoder(fitted, folder):
    again = evaluate(fitted.run)
    assert again["adapted"] == pytest.approx(fitted.metrics["adapted"])
    others = evaluate(fitted.run, features=str(folder / "others.npz"), split="all")
    assert others["test_images"] == IMAGES
    assert others["adapted"]["text_to_image/r1"] > others["zero_shot"]["text_to_image/r1"]
    with pytest.raises(VladaptError, match="was fitted on backbone one encoder, this one is another encoder"):
        evaluate(fitted.run, features=str(folder / "foreign.npz"))


def test_new_images_need_towers(fitted):
    with pytest.raises(CapabilityError, match=r"no towers for new images or words.*vladapt eval RUN --features"):
        predict(fitted.run, ["photo.jpg"])


def test_methods_are_compared(folder, tmp_path):
    recipe = resolve(flags={"task": "retrieval", "features": str(folder / "pairs.npz")})
    made = compare(recipe, ["pair-projection", "lora"], seeds=[1], out=tmp_path)
    assert {row["adapter"] for row in made.rows} == {"zero-shot", "pair-projection"}
    assert "trains towers, which a features file does not have" in str(made.refused)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"adapter": "full"}, CapabilityError, "'full' trains towers, .* use pair-projection, or give --data"),
        ({"backbone": "embedded"}, ConfigError, "--backbone embedded"),
        ({"shots": 4}, ConfigError, "--shots 4"),
        ({"flip": True}, ConfigError, "--flip yes: stored features"),
    ],
)
def test_what_means_nothing_to_stored_features_is_refused(folder, given, error, message):
    with pytest.raises(error, match=message):
        fit(task="retrieval", features=str(folder / "pairs.npz"), **given)
