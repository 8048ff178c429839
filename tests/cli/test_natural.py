"""Without --domain photos are read as the domain natural; a published set brings its prompts and published settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
    *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
)


@pytest.fixture
def eurosat(tmp_path) -> Path:
    """Its ten folders with eight images each, drawn."""
    drawn = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        folder = tmp_path / "data" / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for image in range(8):
            pixels = drawn.integers(0, 80, (12, 12, 3)) + 17 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{image}.png")
    return tmp_path / "data" / "eurosat"


@pytest.fixture
def run_of(vladapt, small_clip_spec):
    def fit(*arguments):
        outcome = vladapt("fit", "--backbone", small_clip_spec, "--shots", 2, "--json", *arguments)
        assert outcome.code == 0, outcome.err
        return outcome, json.loads((Path(outcome.json["run"]) / "run.json").read_text())

    return fit


def test_a_folder_without_a_domain_is_of_photos_and_it_is_said(run_of, vladapt, colours):
    outcome, run = run_of("--data", colours)
    assert run["domain"] == "natural" and run["templates"] == ["a photo of a {}."]
    assert "Domain: natural (ordinary photos)" in outcome.err
    image = next(Path(colours).rglob("*.png"))
    assert vladapt("predict", outcome.json["run"], image).code == 0


def test_a_published_set_brings_its_prompts_and_settings(run_of, eurosat):
    _, run = run_of("--data", eurosat, "--adapter", "tip-adapter")
    assert run["templates"] == ["a centered satellite photo of {}."]
    assert run["adapter_options"]["preset"] == "eurosat"
    assert any("Recognised as the published set eurosat" in note for note in run["notes"])
    assert any("the settings published for eurosat" in note for note in run["notes"])


def test_none_takes_neither(run_of, eurosat):
    _, run = run_of("--data", eurosat, "--adapter", "tip-adapter", "--preset", "none")
    assert run["templates"] == ["a photo of a {}."]
    assert run["adapter_options"]["preset"] is None
    assert not any("published set" in note or "settings published" in note for note in run["notes"])


def test_another_set_may_be_named(run_of, eurosat):
    _, run = run_of("--data", eurosat, "--adapter", "ape", "--preset", "Describable-Textures")
    assert run["templates"] == ["{} texture."] and run["adapter_options"]["preset"] == "dtd"


def test_an_option_of_the_method_goes_before_the_set(run_of, eurosat):
    _, run = run_of("--data", eurosat, "--adapter", "ape", "--set", "adapter.preset=dtd")
    assert run["adapter_options"]["preset"] == "dtd"
    assert run["templates"] == ["a centered satellite photo of {}."]


@pytest.mark.thorough
def test_methods_of_a_comparison_take_it_too(vladapt, small_clip_spec, eurosat):
    given = ("--adapters", "tip-adapter,linear-probe", "--shots", 2, "--seeds", 1, "--splits", 1)
    outcome = vladapt("compare", "--data", eurosat, "--backbone", small_clip_spec, *given)
    assert outcome.code == 0, outcome.err
    assert "Tip-adapter: the settings published for eurosat" in (outcome.out + outcome.err).replace("\n", " ")


def test_an_unknown_set_is_one_line(vladapt, small_clip_spec, eurosat):
    refused = vladapt("fit", "--data", eurosat, "--preset", "eurosatt", "--backbone", small_clip_spec)
    assert refused.code == 2 and "did you mean eurosat" in refused.err


def test_another_domain_has_no_published_sets(vladapt, colours):
    refused = vladapt("fit", "--domain", "medical", "--data", colours, "--preset", "dtd")
    assert refused.code == 2 and "--preset dtd: domain 'medical' knows no published sets" in refused.err


@pytest.fixture
def rows(tmp_path) -> Path:
    """A features file of 60 rows of 3 classes."""
    drawn, labels = np.random.default_rng(0), np.arange(60) % 3
    texts = drawn.normal(size=(3, 8)).astype(np.float32)
    features = texts[labels] + drawn.normal(size=(60, 8)).astype(np.float32)
    names = np.array(["a", "b", "c"])
    np.savez(tmp_path / "rows.npz", image_features=features, labels=labels, text_features=texts, class_names=names)
    return tmp_path / "rows.npz"


def test_rows_of_a_features_file_take_the_settings_of_a_named_set(vladapt, rows):
    run = vladapt("fit", "--features", rows, "--adapter", "ape", "--preset", "EuroSAT", "--json").json["run"]
    assert json.loads((Path(run) / "run.json").read_text())["adapter_options"]["preset"] == "eurosat"


@pytest.mark.parametrize(
    ("adapter", "preset", "said"),
    [("ape", "eurosatt", "did you mean eurosat"), ("linear-probe", "eurosat", "are published for linear-probe")],
)
def test_a_set_that_nothing_takes_is_refused(vladapt, rows, adapter, preset, said):
    refused = vladapt("fit", "--features", rows, "--adapter", adapter, "--preset", preset)
    assert refused.code in (1, 2) and said in refused.err


def test_a_protocol_takes_one_prompt_of_imagenet_or_all_seven(run_of, colours):
    for protocol, prompts in (("coop", 1), ("full-val", 7)):
        given = ("--data", colours, "--adapter", "zero-shot", "--preset", "imagenet", "--protocol", protocol)
        _, run = run_of(*given)
        assert len(run["templates"]) == prompts
        said = [note for note in run["notes"] if note.startswith("One prompt, as papers use under coop")]
        assert len(said) == (prompts == 1) and ("a photo of a {}." in run["templates"]) == (prompts == 1)
    _, mine = run_of(*given[:-1], "coop", "--set", "templates=art of the {}.")
    assert mine["templates"] == ["art of the {}."]
    _, pets = run_of(*given[:4], "--preset", "oxford_pets", "--protocol", "coop")
    assert pets["templates"] == ["a photo of a {}, a type of pet."]
