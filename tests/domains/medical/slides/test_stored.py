"""A fit, an evaluation and predictions on stored tile features, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vladapt
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.features.bag_files import write_bag
from vladapt.domains.medical.domain import Medical
from vladapt.domains.medical.slides.stored import read_new_stored

WIDTH = 8


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("slides"), np.random.default_rng(0)
    (root / "bags").mkdir()
    rows = ["slide_id,label"]
    for number in range(24):
        bag = torch.from_numpy(rng.normal(size=(6, WIDTH)).astype(np.float32))
        bag[0, number % 2] += 8
        write_bag(root / "bags" / f"s{number:02d}.safetensors", bag, np.arange(12).reshape(6, 2), {})
        rows.append(f"s{number:02d},{'ab'[number % 2]}")
    (root / "table.csv").write_text("\n".join(rows))
    np.savez(root / "texts.npz", class_names=np.array(["a", "b"]), text_features=np.eye(2, WIDTH, dtype=np.float32))
    return root


def fit(slides, **how):
    data = {"path": str(slides / "table.csv"), "bags": str(slides / "bags"), **how.pop("data", {})}
    return vladapt.fit(domain="medical", data=data, device="cpu", **how)


def test_a_run_on_stored_tiles_is_evaluated_and_predicts_files(slides, tmp_path):
    done = fit(slides, adapter={"name": "abmil", "epochs": 3}, shots=4, out=str(tmp_path))
    assert done.run.exists()
    predicted = vladapt.predict(str(done.run), [str(slides / "bags")], device="cpu")
    assert len(predicted.ids) == 24


def encoded_by(folder: Path, encoder: str, width: int = WIDTH) -> Path:
    """Features of the 24 slides, which say what made them."""
    folder.mkdir()
    for number in range(24):
        rows = torch.randn(6, width, generator=torch.Generator().manual_seed(number))
        write_bag(folder / f"s{number:02d}.safetensors", rows, np.arange(12).reshape(6, 2), {}, encoder=encoder)
    return folder


def test_features_of_another_encoder_than_that_of_the_fit_are_refused_by_the_name_of_a_file(slides, tmp_path):
    of_uni, table = encoded_by(tmp_path / "fit", "UNI"), str(slides / "table.csv")
    how = {"adapter": {"name": "abmil", "epochs": 1}, "shots": 4, "out": str(tmp_path), "judge": False}
    run = str(fit(slides, data={"bags": str(of_uni)}, **how).run)
    for name, encoder, width, told in (
        ("conch", "CONCH", WIDTH, "8 wide and of CONCH, those of the fit 8 wide and of UNI"),
        ("wide", "UNI", WIDTH + 1, "9 wide and of UNI, those of the fit 8 wide and of UNI"),
    ):
        bags = str(encoded_by(tmp_path / name, encoder, width))
        refusal = rf"s00\.safetensors: its features are {told}; give features of the encoder of the fit"
        with pytest.raises(CapabilityError, match=refusal):
            vladapt.predict(run, [bags], device="cpu")
        with pytest.raises(CapabilityError, match=refusal):
            vladapt.evaluate(run, data=table, reading={"bags": bags}, device="cpu")
    unnamed = str(encoded_by(tmp_path / "unnamed", ""))  # nothing says that it is another
    assert len(vladapt.predict(run, [unnamed], device="cpu").ids) == 24
    assert vladapt.evaluate(run, data=table, reading={"bags": unnamed}, device="cpu")["adapted"]


def test_features_given_to_a_run_on_pixels_are_refused_in_words_of_slides(slides):
    reading = Medical().reading_of({"unit": "slide", "mpp": 0.5})
    with pytest.raises(DataError, match=r"s00\.safetensors: holds tile features, and --mpp is for slides"):
        read_new_stored([slides / "bags" / "s00.safetensors"], reading)


def test_texts_make_class_vectors_and_without_them_a_method_says_what_to_give(slides, tmp_path):
    done = fit(
        slides,
        adapter="top-k",
        shots=0,
        out=str(tmp_path),
        data={"class_texts": str(slides / "texts.npz")},
        judge=False,
    )
    assert done.metrics["zero_shot"]["accuracy"] is not None
    with pytest.raises(CapabilityError, match="stored tile features come without; give --class-texts FILE"):
        fit(slides, adapter="top-k", shots=0, out=str(tmp_path))


def test_stored_texts_stay_as_they_are_where_a_method_would_learn_a_context_before_them(slides, tmp_path):
    data = {"class_texts": str(slides / "texts.npz"), "coarse_bags": str(slides / "bags")}
    done = fit(slides, adapter={"name": "vila-mil", "epochs": 2}, shots=4, out=str(tmp_path), data=data)
    assert any("class vectors stay as stored" in note for note in done.notes)


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ({"data": {"tile": 256}}, ConfigError, "--tile: is for pixels"),
        ({"data": {"unit": "volume"}}, ConfigError, "--unit volume: stored tile features are of slides"),
        (
            {"data": {"bags": None, "class_texts": "t.npz"}},
            ConfigError,
            "--class-texts: goes with stored tile features",
        ),
        ({"data": {"bags": None, "unit": "patient"}}, ConfigError, "--unit patient: joins slides"),
        (
            {"data": {"class_texts": "t.npz"}, "backbone": "embedded"},
            ConfigError,
            "--class-texts t.npz: is in place of texts that --backbone embedded encodes; omit one of them",
        ),
        ({"backbone": "embedded"}, CapabilityError, "gives features of width 512, the stored ones have 8|width"),
        ({"backbone": "uni"}, DataError, r"--bags .*: its features are 8 wide, UNI gives 1,024; give the backbone"),
        ({"adapter": "tpt"}, CapabilityError, "tpt"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(slides, tmp_path, how, error, told):
    with pytest.raises(error, match=told):
        fit(slides, **{"adapter": "abmil", "shots": 2, "out": str(tmp_path), **how})
